//! The `diskstore` program. Thin: everything is in the library.

fn main() {}
