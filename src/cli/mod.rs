//! The only code that prints; one file per command.
