//! Placement: which nodes hold a key, and in which order they are asked.
//!
//! Every node computes this from the layout and the key alone, so that nobody has to ask anybody
//! where a key is. This is rendezvous hashing: each node gets a score for the key, and the nodes
//! with the highest scores hold it. When a node goes, only its own keys move. Scores are those of
//! the original (46bit/leaderless-key-value-store), so a cluster of it may be taken over with its
//! files as they are. Called by `layout`; calls nothing. Invariants:
//!
//! - V9: placement is a pure function of layout and key, in integers. Floating point would let two
//!   kinds of processors disagree on where a key is.
//!
//! Source: Appleby, MurmurHash3 (public domain): `MurmurHash3_x86_32` and `MurmurHash3_x64_128`.

/// A node as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The hashes of its sub-ids, one for each unit of its weight ([`sub_hashes`]).
    hashes: Vec<u32>,
    /// Its zone, by number; nodes of one zone are likely to fail together.
    zone: usize,
}

impl Candidate {
    /// The node `id` of this weight, which is not 0, in a zone. `seed` is that of the layout.
    pub fn new(id: &str, weight: u32, seed: u32, zone: usize) -> Self {
        Self { hashes: sub_hashes(id, weight, seed), zone }
    }

    /// How well a key suits this node: the best score of its sub-ids. A node of weight 3 has three
    /// chances and so gets three times the keys of a node of weight 1.
    fn score(&self, key: &[u8]) -> u64 {
        self.hashes.iter().map(|hash| hash64(key, *hash)).max().unwrap_or(0)
    }
}

/// The hashes of `id`, `id#1`, `id#2` and so on, as many as the weight says. Weight 1 is the
/// original's only hash.
fn sub_hashes(id: &str, weight: u32, seed: u32) -> Vec<u32> {
    let sub_id = |nth| if nth == 0 { id.to_owned() } else { format!("{id}#{nth}") };
    (0..weight).map(|nth| hash32(sub_id(nth).as_bytes(), seed)).collect()
}

/// All candidates, by their positions, the best for the key first. They are given in the order of
/// their ids: the smaller id wins a tie.
pub fn rank(candidates: &[Candidate], key: &[u8]) -> Vec<usize> {
    let mut scored: Vec<(u64, usize)> =
        candidates.iter().enumerate().map(|(at, node)| (node.score(key), at)).collect();
    scored.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
    scored.into_iter().map(|(_, at)| at).collect()
}

/// The `count` candidates that hold the key, in the order of their ranks as far as zones allow:
/// each next one is the best of those whose zone is not used yet, and once every zone is used the
/// best of those that are left.
pub fn replicas(candidates: &[Candidate], key: &[u8], count: usize) -> Vec<usize> {
    let mut left = rank(candidates, key);
    let mut chosen: Vec<usize> = Vec::with_capacity(count);
    while chosen.len() < count && !left.is_empty() {
        let is_new =
            |at: &usize| chosen.iter().all(|it| candidates[*it].zone != candidates[*at].zone);
        let next = left.iter().position(is_new).unwrap_or(0);
        chosen.push(left.remove(next));
    }
    chosen
}

const C32: [u32; 2] = [0xcc9e_2d51, 0x1b87_3593];
const C64: [u64; 2] = [0x87c3_7b91_1142_53d5, 0x4cf5_ad43_2745_937f];

/// MurmurHash3_x86_32.
pub fn hash32(bytes: &[u8], seed: u32) -> u32 {
    let scrambled = |word: u32| word.wrapping_mul(C32[0]).rotate_left(15).wrapping_mul(C32[1]);
    let (words, tail) = bytes.as_chunks::<4>();
    let mut hash = seed;
    for word in words {
        hash ^= scrambled(u32::from_le_bytes(*word));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    hash ^= scrambled(u32::from_le_bytes(last)); // of 0 that is 0
    hash ^= low_half(bytes.len() as u64);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// The first half of MurmurHash3_x64_128, with the seed in both halves of its state.
pub fn hash64(bytes: &[u8], seed: u32) -> u64 {
    let first = |word: u64| word.wrapping_mul(C64[0]).rotate_left(31).wrapping_mul(C64[1]);
    let second = |word: u64| word.wrapping_mul(C64[1]).rotate_left(33).wrapping_mul(C64[0]);
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let (mut one, mut two) = (u64::from(seed), u64::from(seed));
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let (low, high) = block.split_at(8);
        one ^= first(word(low));
        one = one.rotate_left(27).wrapping_add(two).wrapping_mul(5).wrapping_add(0x52dc_e729);
        two ^= second(word(high));
        two = two.rotate_left(31).wrapping_add(one).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let (low, high) = tail.split_at(tail.len().min(8));
    two ^= second(word(high)); // of nothing that is 0
    one ^= first(word(low));
    one ^= bytes.len() as u64;
    two ^= bytes.len() as u64;
    one = one.wrapping_add(two);
    two = two.wrapping_add(one);
    mixed(one).wrapping_add(mixed(two))
}

fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).expect("invariant: 32 bits are left")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn five() -> Vec<Candidate> {
        ["1", "2", "3", "4", "5"]
            .iter()
            .enumerate()
            .map(|(at, id)| Candidate::new(id, 1, 0, at))
            .collect()
    }

    fn ids(ranks: &[usize]) -> Vec<usize> {
        ranks.iter().map(|at| at + 1).collect()
    }

    /// Bytes of every length, the same in every run.
    fn strange(length: usize, salt: u32) -> Vec<u8> {
        let byte = |at: u64| hash32(&at.to_le_bytes(), salt).to_le_bytes()[0];
        (0..length as u64).map(byte).collect()
    }

    #[test]
    fn hashes_are_the_published_ones() {
        for length in 0..300 {
            for seed in [0, 1, 0x9747_b28c, u32::MAX] {
                let bytes = strange(length, seed);
                let theirs = murmur3::murmur3_32(&mut Cursor::new(&bytes), seed).unwrap();
                assert_eq!(hash32(&bytes, seed), theirs, "{length} bytes, seed {seed}");
            }
            // The crate takes one seed for both halves, as the original's library does.
            let (bytes, seed) = (strange(length, 7), hash32(&(length as u64).to_le_bytes(), 7));
            let theirs = murmur3::murmur3_x64_128(&mut Cursor::new(&bytes), seed).unwrap();
            let half = u64::try_from(theirs & u128::from(u64::MAX)).unwrap();
            assert_eq!(hash64(&bytes, seed), half, "{length} bytes, seed {seed}");
        }
    }

    /// V9
    #[test]
    fn golden_places_are_those_of_the_original() {
        let hashes: Vec<u32> = five().iter().map(|node| node.hashes[0]).collect();
        assert_eq!(hashes, [0x9416_ac93, 0x0129_e217, 0x0fc7_a1b4, 0xe131_cc88, 0x531a_35e4]);
        assert_eq!(ids(&rank(&five(), b"a")), [2, 1, 3, 4, 5]);
        assert_eq!(five()[1].score(b"a"), 0xdee4_c500_caaf_2d7a);
        assert_eq!(ids(&rank(&five(), b"b")), [4, 1, 3, 5, 2]);
        assert_eq!(five()[3].score(b"b"), 0xc488_c9d0_3a15_b7d7);
        assert_eq!(ids(&replicas(&five(), b"a", 3)), [2, 1, 3]);
        assert_eq!(ids(&replicas(&five(), b"a", 7)), [2, 1, 3, 4, 5], "no more than there are");
    }

    #[test]
    fn keys_spread_by_weight() {
        let share = |nodes: &[Candidate], node: usize| {
            (0..20_000)
                .filter(|nth| rank(nodes, format!("key-{nth}").as_bytes())[0] == node)
                .count()
        };
        for node in 0..5 {
            let count = share(&five(), node);
            assert!((3_800..4_200).contains(&count), "node {node}: {count} of 20,000");
        }
        // Three of seven parts are 8,571 of 20,000.
        let weights = [3, 1, 1, 1, 1];
        let nodes: Vec<_> = ["1", "2", "3", "4", "5"]
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(at, (id, weight))| Candidate::new(id, weight, 0, at))
            .collect();
        let count = share(&nodes, 0);
        assert!((8_300..8_850).contains(&count), "{count} of 20,000");
    }

    #[test]
    fn a_key_moves_only_if_its_node_goes() {
        let without: Vec<Candidate> = five().into_iter().filter(|node| node.zone != 2).collect();
        for nth in 0..2_000 {
            let key = format!("key-{nth}");
            let before = replicas(&five(), key.as_bytes(), 3);
            let after = replicas(&without, key.as_bytes(), 3);
            let zones: Vec<usize> = after.iter().map(|at| without[*at].zone).collect();
            let stay: Vec<usize> = before.iter().copied().filter(|zone| *zone != 2).collect();
            let kept: Vec<usize> =
                zones.iter().copied().filter(|zone| stay.contains(zone)).collect();
            assert_eq!(kept, stay, "{key}");
        }
    }

    #[test]
    fn replicas_are_in_different_zones_while_there_are_some() {
        let zones = [0, 0, 0, 1, 1];
        let nodes: Vec<_> = ["1", "2", "3", "4", "5"]
            .iter()
            .zip(zones)
            .map(|(id, zone)| Candidate::new(id, 1, 0, zone))
            .collect();
        let in_ranks = |key: &[u8]| rank(&nodes, key);
        for nth in 0..500 {
            let key = format!("key-{nth}");
            let (ranks, chosen) = (in_ranks(key.as_bytes()), replicas(&nodes, key.as_bytes(), 3));
            assert_eq!(chosen[0], ranks[0], "the best is always one");
            assert_ne!(zones[chosen[0]], zones[chosen[1]], "{key}");
            let left = ranks.iter().find(|at| !chosen[..2].contains(at)).unwrap();
            assert_eq!(chosen[2], *left, "both zones are used: the best that is left");
        }
    }

    #[test]
    fn of_equal_scores_the_smaller_id_wins() {
        // Two nodes of one hash have one score for every key.
        let twins = [Candidate::new("7", 1, 0, 0), Candidate::new("7", 1, 0, 1)];
        assert!((0..100_u32).all(|nth| rank(&twins, &nth.to_le_bytes()) == [0, 1]));
    }
}
