//! A private, copy-on-write view of a file's bytes; the only file with `unsafe`.
//!
//! The bytes are shared between threads. They are read and written as relaxed atomic words, so a
//! race that a caller's lock failed to prevent gives wrong bytes, never undefined behaviour.

/// A private map of a file (or plain memory, for the simulated disk). Offsets and lengths are
/// multiples of 8 bytes. Nothing written here reaches the file.
#[derive(Debug)]
pub struct Map {}
