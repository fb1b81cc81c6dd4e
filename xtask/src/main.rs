//! build, test, demo, bench: everything a person types.
fn main() {}
