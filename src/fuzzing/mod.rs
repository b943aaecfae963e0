//! What the fuzzers under `fuzz/` run: a function of bytes for each place where bytes come from outside, and
//! seeds, which are bytes that such a place takes.
//!
//! No program contains it: it is there for tests and under `--cfg fuzzing`. `scripts/fuzz` searches with
//! libFuzzer; the test below runs every function over its seeds and over bytes near them, so that no target
//! rots. A function finds nothing to say about bytes that are refused; it fails by panicking. Invariants:
//!
//! - I1: a target is deterministic, and starts no process, thread or connection.
//! - I2: files lie on a simulated disk.
//! - I3: a CRC hides what stands behind it from random bytes. A target of bytes with a CRC writes the right
//!   one where the first byte of its input is odd (*sealed*), and leaves the input as it is otherwise.

mod files;
mod frames;
mod texts;

use crate::leaderless::node::fuzzing as registers;

/// One place where bytes come in.
#[derive(Debug, Clone, Copy)]
pub struct FuzzTarget {
    /// That of its file in `fuzz/fuzz_targets/`.
    pub name: &'static str,
    /// Takes any bytes, and panics if something is wrong with this program.
    pub run: fn(&[u8]),
    /// Bytes to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them, by their names.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "backup_read", run: files::read_backup, seeds: files::backups },
    FuzzTarget {
        name: "certificate_read",
        run: texts::read_certificate,
        seeds: texts::certificates,
    },
    FuzzTarget { name: "cluster_file_parse", run: texts::parse_cluster, seeds: texts::clusters },
    FuzzTarget { name: "command_decode", run: frames::decode_command, seeds: frames::commands },
    FuzzTarget { name: "config_parse", run: texts::parse_config, seeds: texts::configs },
    FuzzTarget { name: "file_inspect", run: files::inspect_file, seeds: files::inspected },
    FuzzTarget { name: "frame_decode", run: frames::decode_frame, seeds: frames::frames },
    FuzzTarget { name: "glob_match", run: texts::match_glob, seeds: texts::globs },
    FuzzTarget { name: "grpc_convert", run: crate::server::fuzzing::grpc, seeds: texts::grpc },
    FuzzTarget { name: "hello_decode", run: frames::decode_hello, seeds: frames::hellos },
    FuzzTarget { name: "http_read", run: crate::server::fuzzing::http, seeds: texts::http },
    FuzzTarget { name: "keys_open", run: files::open_keys, seeds: files::snapshots },
    FuzzTarget { name: "leaderless_parse", run: texts::parse_leaderless, seeds: texts::leaderless },
    FuzzTarget { name: "order_decode", run: frames::decode_order, seeds: frames::orders },
    FuzzTarget {
        name: "protobuf_decode",
        run: crate::server::fuzzing::protobuf,
        seeds: texts::protobufs,
    },
    FuzzTarget { name: "record_decode", run: files::decode_record, seeds: files::records },
    FuzzTarget {
        name: "register_frame_decode",
        run: frames::decode_register_frame,
        seeds: frames::register_frames,
    },
    FuzzTarget {
        name: "register_hello_decode",
        run: frames::decode_register_hello,
        seeds: frames::register_hellos,
    },
    FuzzTarget {
        name: "register_record_decode",
        run: registers::decode_record,
        seeds: registers::records,
    },
    FuzzTarget { name: "resp_decode", run: crate::server::fuzzing::resp, seeds: texts::resp },
    FuzzTarget { name: "slots_open", run: files::open_slots, seeds: files::slot_areas },
    FuzzTarget {
        name: "superblock_decode",
        run: files::decode_superblock,
        seeds: files::superblocks,
    },
    FuzzTarget { name: "text_decode", run: crate::server::fuzzing::text, seeds: texts::lines },
    FuzzTarget { name: "tokens_parse", run: texts::parse_tokens, seeds: texts::tokens },
    FuzzTarget { name: "wal_recover", run: files::recover_wal, seeds: files::segments },
];

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> &'static FuzzTarget {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| unreachable!("no target is called {name}"))
}

/// Takes what a reader said: of interest is only that it did not panic.
fn seen<T>(_: T) {}

/// Whether the rest of an input is to be sealed (I3), and that rest.
fn split_sealed(input: &[u8]) -> SealedInput<'_> {
    let (first, rest) = input.split_first().unwrap_or((&0, &[]));
    SealedInput { is_sealed: first & 1 == 1, choice: first >> 1, rest }
}

/// An input whose first byte says what to do with the others.
struct SealedInput<'a> {
    is_sealed: bool,
    /// The other bits of the first byte.
    choice: u8,
    rest: &'a [u8],
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use super::*;

    /// Inputs near each seed: few enough that all targets together take seconds.
    const NEAR_COUNT: u64 = 60;
    /// Longer inputs cost more: of these there are fewer.
    const LONG_BYTES: usize = 8 << 10;

    /// SplitMix64.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((word ^ (word >> 31)) % bound.max(1) as u64).unwrap()
        }

        /// One to four changes of the kinds that fuzzers make.
        fn change(&mut self, bytes: &mut Vec<u8>) {
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len() + 1);
                let odd = [0, 1, 0x7f, 0x80, 0xff, b'*', b'\n', b':'][self.below(8)];
                match self.below(7) {
                    0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                    1 if at < bytes.len() => bytes[at] = odd,
                    2 => bytes.truncate(at),
                    3 => bytes.insert(at, odd),
                    4 if at < bytes.len() => {
                        let end = at + 1 + self.below(16).min(bytes.len() - at - 1);
                        bytes.drain(at..end);
                    }
                    5 => {
                        let end = (at + self.below(32)).min(bytes.len());
                        let again = bytes[at..end].to_vec();
                        bytes.splice(at..at, again);
                    }
                    _ => {
                        let end = (at + 8).min(bytes.len());
                        bytes[at..end].fill(odd);
                    }
                }
            }
        }
    }

    #[test]
    fn no_target_fails_over_its_seeds_and_bytes_near_them() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seed", target.name);
            let run = |input: &[u8], nth: u64| {
                let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
                assert!(ran.is_ok(), "{}, input {nth}: {}", target.name, input.escape_ascii());
            };
            run(&[], 0);
            for seed in &seeds {
                run(seed, 0);
                let count = if seed.len() > LONG_BYTES { NEAR_COUNT / 4 } else { NEAR_COUNT };
                for nth in 1..=count {
                    let mut input = seed.clone();
                    Dice(nth).change(&mut input);
                    run(&input, nth);
                }
            }
        }
    }

    #[test]
    fn every_target_has_its_file_and_every_file_its_target() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let files = std::fs::read_dir(root.join("fuzz_targets")).unwrap();
        let files = files.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let named = |path: &std::path::PathBuf| path.file_stem().unwrap().to_string_lossy().into();
        let found: BTreeSet<String> = files.iter().map(named).collect();
        let expected: BTreeSet<String> = TARGETS.iter().map(|it| it.name.to_owned()).collect();
        assert_eq!(found, expected);
        for target in TARGETS {
            let path = root.join(format!("fuzz_targets/{}.rs", target.name));
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.contains(&format!("\"{}\"", target.name)), "{}: {text}", target.name);
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        }
        assert!(TARGETS.is_sorted_by_key(|target| target.name));
    }
}
