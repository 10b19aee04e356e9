//! Keys, the local certificate authority, what was verified.
