//! Places for handshakes of TLS at the client port.
//!
//! Called by sessions. Each handshake may take 64 KiB and some seconds, and nobody knows yet whose it is.
//! Invariants:
//! - I1: those under way are bounded, and once half of the places are taken so are those of one network:
//!   strangers in one place leave room for everybody else, and clients that a proxy or a NAT shows as one
//!   address have half of the places for themselves. Whoever finds no place waits for one, for as long as a
//!   connection may say nothing.
//! - I2: a network is remembered only while it has a handshake under way or waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Most handshakes under way at once.
const SHAKING_COUNT_MAX: usize = 1024;
/// While so many are under way, no more of one network than the next number are begun.
const SHAKING_COUNT_HALF: usize = SHAKING_COUNT_MAX / 2;
/// Most of those of one network that were begun while half of the places were taken.
const SHAKING_COUNT_MAX_EACH: usize = 128;

/// Where a connection comes from: one address, or as many of IPv6 as one household is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network(u64);

impl Network {
    fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => Network(address.to_bits().into()),
            // No network of IPv6 begins with so many zeros.
            IpAddr::V6(address) => {
                let [first, second, third, fourth, ..] = address.segments().map(u64::from);
                Network(first << 48 | second << 32 | third << 16 | fourth)
            }
        }
    }
}

/// All handshakes of a node's clients.
#[derive(Debug)]
pub(super) struct Handshakes {
    all: Semaphore,
    networks: Mutex<HashMap<Network, Arc<Semaphore>>>,
}

/// A place for one, until it is dropped.
#[derive(Debug)]
pub(super) struct ShakingPlace<'a> {
    handshakes: &'a Handshakes,
    network: Network,
    of_network: Option<OwnedSemaphorePermit>,
    of_all: Option<SemaphorePermit<'a>>,
}

impl Handshakes {
    /// None is under way.
    pub(super) fn new() -> Handshakes {
        Handshakes { all: Semaphore::new(SHAKING_COUNT_MAX), networks: Mutex::default() }
    }

    /// Waits for a place (I1).
    pub(super) async fn place(&self, from: IpAddr) -> ShakingPlace<'_> {
        let network = Network::of(from);
        let mut place = ShakingPlace { handshakes: self, network, of_network: None, of_all: None };
        if self.all.available_permits() > SHAKING_COUNT_HALF {
            place.of_all = self.all.try_acquire().ok();
            if place.of_all.is_some() {
                return place;
            }
        }
        let each = {
            let mut networks = self.networks.lock();
            let new = || Arc::new(Semaphore::new(SHAKING_COUNT_MAX_EACH));
            Arc::clone(networks.entry(network).or_insert_with(new))
        };
        // Nobody closes either.
        place.of_network = each.acquire_owned().await.ok();
        place.of_all = self.all.acquire().await.ok();
        place
    }
}

impl Drop for ShakingPlace<'_> {
    fn drop(&mut self) {
        drop((self.of_all.take(), self.of_network.take()));
        let mut networks = self.handshakes.networks.lock();
        if networks.get(&self.network).is_some_and(|each| Arc::strong_count(each) == 1) {
            networks.remove(&self.network); // I2
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_network_leaves_places_for_others_and_is_forgotten() {
        let handshakes = Handshakes::new();
        let stranger: [IpAddr; 2] =
            ["2001:db8::1", "2001:db8::ffff:2"].map(|it| it.parse().unwrap());
        let mut held = Vec::new();
        let place = |from: IpAddr| handshakes.place(from).now_or_never();
        for nth in 0..SHAKING_COUNT_HALF + SHAKING_COUNT_MAX_EACH {
            held.push(place(stranger[nth % 2]).unwrap());
        }
        assert!(place(stranger[0]).is_none(), "it has as many as it may");
        let mut waiting = Box::pin(handshakes.place(stranger[1]));
        assert!((&mut waiting).now_or_never().is_none());
        for address in ["2001:db8:0:1::1", "127.0.0.1", "::ffff:127.0.0.2"] {
            assert!(place(address.parse().unwrap()).is_some(), "{address}");
        }
        held.pop();
        let last = waiting.now_or_never().expect("a place for whoever waited");
        drop((held, last));
        assert_eq!(handshakes.networks.lock().len(), 0);
        assert_eq!(handshakes.all.available_permits(), SHAKING_COUNT_MAX);
    }

    #[test]
    fn handshakes_of_all_networks_together_are_bounded() {
        let handshakes = Handshakes::new();
        let place = |nth: usize| {
            let nth = u8::try_from(nth / SHAKING_COUNT_MAX_EACH).unwrap();
            handshakes.place(IpAddr::from([10, 0, 0, nth])).now_or_never()
        };
        let mut held: Vec<_> = (0..SHAKING_COUNT_MAX).map(|nth| place(nth).unwrap()).collect();
        assert!(place(SHAKING_COUNT_MAX).is_none());
        assert_eq!(
            handshakes.networks.lock().len(),
            (SHAKING_COUNT_MAX - SHAKING_COUNT_HALF) / SHAKING_COUNT_MAX_EACH
        );
        held.pop();
        assert!(place(SHAKING_COUNT_MAX).is_some());
    }
}
