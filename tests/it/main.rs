//! Every test that goes through the public doors: one binary, so that it links once.

fn main() {}
