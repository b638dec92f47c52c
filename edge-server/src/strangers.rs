//! What an address may do before it is known: hold so many connections that have shown no right to be
//! here, and try so many tokens.
//!
//! A wrong token costs one of a few tries, which come back slowly, and so does a pairing that is begun
//! and not proved. Devices that reach the edge through one address (a router, a balancer) share them. A
//! right token always passes: it is only the answers to wrong ones that wait, and new pairings.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections of one address that are nobody's yet.
const WAITING: usize = 48;
/// Wrong tokens of one address at once, and how long it takes until one more may be tried.
const TRIES: f64 = 20.0;
const TRY: Duration = Duration::from_secs(5);
/// Addresses that are told apart; those beyond are counted as one.
const ADDRESSES: usize = 4096;

/// All addresses that are not as new.
#[derive(Default)]
pub(crate) struct Strangers(Mutex<HashMap<IpAddr, Address>>);

struct Address {
    waiting: usize,
    /// Wrong tokens that are not forgiven, as of `at`.
    wrong: f64,
    /// The same for pairings that were begun and not proved.
    begun: f64,
    at: Instant,
}

impl Address {
    fn new() -> Self {
        Self { waiting: 0, wrong: 0.0, begun: 0.0, at: Instant::now() }
    }

    fn forgive(&mut self) {
        let now = Instant::now();
        let since = now.duration_since(self.at).as_secs_f64() / TRY.as_secs_f64();
        self.wrong = (self.wrong - since).max(0.0);
        self.begun = (self.begun - since).max(0.0);
        self.at = now;
    }
}

/// One connection that is nobody's yet; clones are the same.
#[derive(Clone)]
pub(crate) struct Stranger {
    all: Arc<Strangers>,
    ip: IpAddr,
    place: Option<Arc<Place>>,
}

/// Counted until it is dropped.
struct Place {
    all: Arc<Strangers>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = self.all.lock().get_mut(&self.ip) {
            address.waiting -= 1;
        }
    }
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection; `None` if its address has too many. Where strangers are this machine's own
    /// programs they are not `counted`.
    pub(crate) fn arrive(self: &Arc<Self>, ip: IpAddr, counted: bool) -> Option<Stranger> {
        let mut table = self.lock();
        let ip = key(&mut table, ip);
        let place = if counted {
            let address = table.entry(ip).or_insert_with(Address::new);
            if address.waiting >= WAITING {
                return None;
            }
            address.waiting += 1;
            Some(Arc::new(Place { all: Arc::clone(self), ip }))
        } else {
            None
        };
        Some(Stranger { all: Arc::clone(self), ip, place })
    }
}

impl Stranger {
    /// How long this address must wait until another wrong token is answered at once.
    pub(crate) fn must_wait(&self) -> Option<Duration> {
        self.over(|address| address.wrong)
    }

    /// How long it must wait until it may begin another pairing.
    pub(crate) fn must_wait_to_pair(&self) -> Option<Duration> {
        self.over(|address| address.begun)
    }

    fn over(&self, tries: impl Fn(&Address) -> f64) -> Option<Duration> {
        let mut table = self.all.lock();
        let address = table.get_mut(&self.ip)?;
        address.forgive();
        let over = tries(address) - (TRIES - 1.0);
        (over > 0.0).then(|| TRY.mul_f64(over))
    }

    /// It showed a wrong token.
    pub(crate) fn guessed(&self) {
        let mut table = self.all.lock();
        let address = table.entry(self.ip).or_insert_with(Address::new);
        address.forgive();
        let before = address.wrong;
        // No more than all tries, so that an address is heard again soon after it stops.
        address.wrong = (before + 1.0).min(TRIES);
        if before <= TRIES - 1.0 && address.wrong > TRIES - 1.0 {
            tracing::warn!("{} shows one wrong token after the other", self.ip);
        }
    }

    /// It began a pairing.
    pub(crate) fn began(&self) {
        let mut table = self.all.lock();
        let address = table.entry(self.ip).or_insert_with(Address::new);
        address.forgive();
        address.begun = (address.begun + 1.0).min(TRIES);
    }

    /// The pairing that it began was proved.
    pub(crate) fn proved(&self) {
        if let Some(address) = self.all.lock().get_mut(&self.ip) {
            address.begun = (address.begun - 1.0).max(0.0);
        }
    }

    /// It is known now: its connection is not counted any more, when the last clone is let in.
    pub(crate) fn let_in(&mut self) {
        self.place = None;
    }
}

/// Under which an address is counted. A household has a whole IPv6 network of 64 bits.
fn key(table: &mut HashMap<IpAddr, Address>, ip: IpAddr) -> IpAddr {
    let ip = match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = ip.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    };
    if table.len() >= ADDRESSES && !table.contains_key(&ip) {
        table.retain(|_, address| {
            address.forgive();
            address.waiting > 0 || address.wrong > 0.0 || address.begun > 0.0
        });
        if table.len() >= ADDRESSES {
            return IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        }
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let all = Arc::new(Strangers::default());
        let held: Vec<_> =
            (0..WAITING).map(|_| all.arrive(ip(1), true).expect("a place")).collect();
        assert!(all.arrive(ip(1), true).is_none());
        assert!(all.arrive(ip(2), true).is_some(), "another address has its own");
        assert!(all.arrive(ip(1), false).is_some(), "this machine's programs are not counted");
        let mut one = held[0].clone();
        one.let_in();
        assert!(all.arrive(ip(1), true).is_none(), "a clone is left");
        drop(held);
        assert!(all.arrive(ip(1), true).is_some());
    }

    #[test]
    fn wrong_tokens_use_up_the_tries_of_their_address_alone() {
        let all = Arc::new(Strangers::default());
        let guesser = all.arrive(ip(1), true).expect("a place");
        for _ in 0..TRIES as usize {
            assert_eq!(guesser.must_wait(), None);
            guesser.guessed();
        }
        let wait = guesser.must_wait().expect("a pause");
        assert!(wait <= TRY && wait > TRY / 2, "{wait:?}");
        assert!(all.arrive(ip(2), true).expect("a place").must_wait().is_none());
        // After a while one more, and only one.
        all.lock().get_mut(&ip(1)).expect("it").at -= TRY;
        assert_eq!(guesser.must_wait(), None);
        guesser.guessed();
        assert!(guesser.must_wait().is_some());
    }

    #[test]
    fn networks_count_as_one_and_the_table_is_bounded() {
        let all = Arc::new(Strangers::default());
        let a = "2001:db8:1:2::7".parse().expect("an address");
        let b = "2001:db8:1:2:ffff::9".parse().expect("an address");
        all.arrive(a, true).expect("a place").guessed();
        let seen = all.arrive(b, true).expect("a place");
        assert_eq!(all.lock().len(), 1);
        assert_eq!(seen.ip, all.arrive(a, true).expect("a place").ip);
        let mapped: IpAddr = "::ffff:0.0.0.5".parse().expect("an address");
        assert_eq!(all.arrive(mapped, true).expect("a place").ip, ip(5));
        for n in 0..3 * ADDRESSES as u32 {
            all.arrive(ip(100 + n), true).map(|s| s.guessed()).unwrap_or_default();
        }
        assert!(all.lock().len() <= ADDRESSES + 1, "{}", all.lock().len());
    }
}
