//! The `edge` binary: parse, run, exit code.

fn main() {}
