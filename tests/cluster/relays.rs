//! What lies between processes: a relay of TCP for each way from one node to another, which delays, loses, and holds
//! back what goes that way and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks at what a relay is to do.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes that a relay carries at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What happens to bytes from one node to another.
#[derive(Debug, Default)]
struct Way {
    /// Nothing passes. What comes waits, and connections end by the patience of the nodes alone.
    is_held: AtomicBool,
    /// How long each piece takes.
    delay_ms: AtomicU64,
    /// How often its connections were cut: what was under way is lost.
    cuts: AtomicU64,
    /// How many of a thousand pieces are lost.
    loses: AtomicU64,
    /// How many pieces there were.
    pieces: AtomicU64,
    is_over: AtomicBool,
}

impl Way {
    fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// How much of the next piece passes: all of it, or less, and then the connection has to end, for TCP knows no
    /// gaps.
    fn passed(&self, bytes: usize) -> usize {
        // SplitMix64 of the count, so that it is different from piece to piece.
        let nth = self.pieces.fetch_add(1, Ordering::Relaxed);
        let word = (nth + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = word ^ (word >> 27);
        if word % 1000 >= self.loses.load(Ordering::Relaxed) {
            return bytes;
        }
        usize::try_from(word >> 32).unwrap() % bytes
    }
}

/// All ways between so many nodes.
pub(crate) struct Ways {
    /// By the node that dials, and the one that is dialled.
    ways: Vec<Vec<Arc<Way>>>,
    addresses: Vec<Vec<String>>,
}

impl Ways {
    /// Relays to these addresses.
    pub(crate) fn between(targets: &[String]) -> Ways {
        let count = targets.len();
        let row = |_| (0..count).map(|_| Arc::default()).collect();
        let ways: Vec<Vec<Arc<Way>>> = (0..count).map(row).collect();
        let addresses = (0..count).map(|from| {
            let relayed = targets.iter().enumerate().map(|(to, target)| {
                if from == to {
                    return target.clone();
                }
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap().to_string();
                let both = [Arc::clone(&ways[from][to]), Arc::clone(&ways[to][from])];
                let target = target.clone();
                std::thread::spawn(move || accept(&listener, &target, &both));
                address
            });
            relayed.collect()
        });
        let addresses = addresses.collect();
        Ways { ways, addresses }
    }

    /// Where a node dials another; itself, where it is.
    pub(crate) fn address(&self, from: usize, to: usize) -> &str {
        &self.addresses[from][to]
    }

    /// Whether what goes from one to the other is held back from now on.
    pub(crate) fn hold(&self, from: usize, to: usize, is_held: bool) {
        self.ways[from][to].is_held.store(is_held, Ordering::Relaxed);
    }

    /// Ends the connections from one to the other, with what is under way there.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.ways[from][to].cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// So many of a thousand pieces are lost from now on, everywhere, and all that follows them on their connections:
    /// frames in flight, some of which are cut in the middle.
    pub(crate) fn lose_all(&self, of_thousand: u64) {
        for way in self.ways.iter().flatten() {
            way.loses.store(of_thousand, Ordering::Relaxed);
        }
    }

    /// How long each piece takes from now on, everywhere.
    pub(crate) fn delay_all(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap();
        for way in self.ways.iter().flatten() {
            way.delay_ms.store(ms, Ordering::Relaxed);
        }
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        for way in self.ways.iter().flatten() {
            way.is_over.store(true, Ordering::Relaxed);
        }
    }
}

fn accept(listener: &TcpListener, target: &str, both: &[Arc<Way>; 2]) {
    listener.set_nonblocking(true).unwrap();
    let [way, _] = both;
    while !way.is_over() {
        // A way that is held takes no connection: the first packet is lost, too.
        let accepted = if way.is_held() { None } else { listener.accept().ok() };
        let Some((from, _)) = accepted else {
            std::thread::sleep(LOOK);
            continue;
        };
        let Ok(to) = TcpStream::connect(target) else { continue };
        for (source, sink, through) in [(&from, &to, &both[0]), (&to, &from, &both[1])] {
            let (source, sink) = (source.try_clone().unwrap(), sink.try_clone().unwrap());
            source.set_nonblocking(false).unwrap();
            source.set_read_timeout(Some(LOOK)).unwrap();
            sink.set_nodelay(true).unwrap();
            let (through, dialled) = (Arc::clone(through), Arc::clone(way));
            std::thread::spawn(move || {
                carry(&source, &sink, &through, &dialled);
                drop(source.shutdown(Shutdown::Both));
                drop(sink.shutdown(Shutdown::Both));
            });
        }
    }
}

/// Carries bytes one way until either side ends, or the connection is cut.
fn carry(mut source: &TcpStream, mut sink: &TcpStream, through: &Way, dialled: &Way) {
    let cuts = dialled.cuts();
    let is_over = || dialled.cuts() != cuts || dialled.is_over();
    let mut chunk = vec![0; CHUNK_BYTES];
    while !is_over() {
        if through.is_held() {
            std::thread::sleep(LOOK);
            continue;
        }
        let count = match source.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => return,
        };
        std::thread::sleep(Duration::from_millis(through.delay_ms.load(Ordering::Relaxed)));
        while through.is_held() && !is_over() {
            std::thread::sleep(LOOK);
        }
        let passed = through.passed(count);
        if is_over() || sink.write_all(&chunk[..passed]).is_err() || passed < count {
            return;
        }
    }
}
