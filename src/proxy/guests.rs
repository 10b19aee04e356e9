//! How many a door lets in, and how much they may send before anybody knows who they are.
//!
//! Whoever reaches a door may connect to it and send, with a token or without. Pods share theirs, so each address has a
//! share of its own, and none of it is kubelet's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _};
use http_body_util::BodyExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How long a body may take at either door.
const BODY: Duration = Duration::from_secs(15);
/// How often at the most it is logged that a door is full.
const AGAIN: Duration = Duration::from_secs(60);

/// What a door allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of those that have shown nothing yet. Of more, whoever is there for longest goes: so whoever has
    /// something to show always comes in to show it.
    pub connections: usize,
    /// Connections that have shown a token which the cloud accepts, beside those; more count as if they had not.
    /// Certificates of edge's own authority have no bound.
    pub known: usize,
    /// Connections from one address; of more, whoever comes is turned away.
    pub of_one: usize,
    /// Requests at once on one connection.
    pub streams: u32,
    /// Bytes of one request that are taken unread; of one connection, four times as much.
    pub window: u32,
    /// Bytes of bodies that are held for clients without a certificate.
    pub bodies: usize,
    /// Of them, for those from one address.
    pub bodies_of_one: usize,
    /// How long a body may take that is read whole.
    pub body: Duration,
    /// How often a client is asked whether it is still there: of a pod that was taken away, no end may be told.
    pub alive: Option<Duration>,
}

impl Limits {
    /// Kubelet watches each ConfigMap and Secret by itself, and nothing may keep it out. All who come here have one
    /// address.
    pub const KUBELET: Self = Self {
        connections: 512,
        known: 0,
        of_one: usize::MAX,
        streams: 4096,
        window: 1 << 20,
        bodies: 64 << 20,
        bodies_of_one: 64 << 20,
        body: BODY,
        alive: None,
    };
    /// A program opens another connection when one has no stream left. Pods whose address is hidden share the node's.
    pub const PODS: Self = Self {
        connections: 1024,
        known: 1024,
        of_one: 128,
        streams: 100,
        window: 256 << 10,
        bodies: 64 << 20,
        bodies_of_one: 16 << 20,
        body: BODY,
        alive: Some(Duration::from_secs(30)),
    };
}

/// Those that a door has let in.
#[derive(Debug)]
pub struct Guests {
    limits: Limits,
    bodies: Arc<Semaphore>,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Those that have shown nothing, the oldest first, with what ends each.
    strangers: BTreeMap<u64, Arc<Notify>>,
    /// Those that have shown an accepted token.
    known: HashSet<u64>,
    next: u64,
    by_address: HashMap<IpAddr, (usize, Arc<Semaphore>)>,
    logged: Option<Instant>,
}

/// One that is inside, until it is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    address: IpAddr,
    number: u64,
    ends: Arc<Notify>,
    bodies: Arc<Semaphore>,
}

/// Keeps the place of a body that is held.
#[derive(Debug, Default)]
pub struct Held(Option<[OwnedSemaphorePermit; 2]>);

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is larger than anything may be.
    TooLarge,
    /// It did not come in time.
    Late,
    /// Others fill the place that there is.
    Full,
    /// Its end did not come.
    Broke(String),
}

impl Guests {
    /// Nobody yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        let bodies = Arc::new(Semaphore::new(limits.bodies));
        Arc::new(Self { limits, bodies, inside: Mutex::default() })
    }

    /// Lets one in, unless there are too many from its address; or another goes for it.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let mut inside = self.inside();
        let all = inside.strangers.len();
        let of_one = inside.by_address.get(&address).map_or(0, |(count, _)| *count);
        if all >= self.limits.connections || of_one >= self.limits.of_one {
            if inside.logged.is_none_or(|at| at.elapsed() >= AGAIN) {
                inside.logged = Some(Instant::now());
                tracing::warn!(%address, of_one, all, "too many connections of whom nobody knows");
            }
            if of_one >= self.limits.of_one {
                return None;
            }
            if let Some((_, ends)) = inside.strangers.pop_first() {
                ends.notify_one();
            }
        }
        let (number, ends) = (inside.next, Arc::new(Notify::new()));
        inside.next += 1;
        inside.strangers.insert(number, ends.clone());
        let new = || (0, Arc::new(Semaphore::new(self.limits.bodies_of_one)));
        let (count, bodies) = inside.by_address.entry(address).or_insert_with(new);
        *count += 1;
        Some(Guest { guests: self.clone(), address, number, ends, bodies: bodies.clone() })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inside = self.guests.inside();
        inside.strangers.remove(&self.number);
        inside.known.remove(&self.number);
        let Some((count, _)) = inside.by_address.get_mut(&self.address) else { return };
        *count -= 1;
        if *count == 0 {
            inside.by_address.remove(&self.address);
        }
    }
}

impl Guest {
    /// It has shown a certificate of edge's own authority: it counts no more, and nobody pushes it out.
    pub fn prove(&self) {
        self.guests.inside().strangers.remove(&self.number);
    }

    /// It has shown a token that the cloud accepts: as far as there is place for such, nobody pushes it out.
    pub fn accept(&self) {
        let mut inside = self.guests.inside();
        if inside.known.len() < self.guests.limits.known && inside.strangers.remove(&self.number).is_some() {
            inside.known.insert(self.number);
        }
    }

    /// Ends its connection.
    pub fn let_go(&self) {
        self.ends.notify_one();
    }

    /// Waits until it must go, for another or because it takes nothing.
    pub async fn pushed_out(&self) {
        self.ends.notified().await;
    }

    /// Reads a body whole, of `limit` bytes at the most. Kubelet's (`known`) does not count among those of all others.
    ///
    /// # Errors
    /// [`Unread`].
    pub async fn read<B>(&self, body: B, limit: usize, known: bool) -> Result<(Vec<u8>, Held), Unread>
    where
        B: http_body::Body,
        B::Error: std::fmt::Display,
    {
        let reading = async {
            let mut body = std::pin::pin!(body);
            let (mut bytes, mut held) = (Vec::new(), Held::default());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Unread::Broke(error.to_string()))?;
                let Ok(chunk) = frame.into_data() else { continue };
                let more = chunk.remaining();
                if bytes.len() + more > limit {
                    return Err(Unread::TooLarge);
                }
                if !known {
                    self.hold(&mut held, more).ok_or(Unread::Full)?;
                }
                bytes.put(chunk);
            }
            Ok((bytes, held))
        };
        tokio::time::timeout(self.guests.limits.body, reading).await.unwrap_or(Err(Unread::Late))
    }

    fn hold(&self, held: &mut Held, bytes: usize) -> Option<()> {
        let bytes = u32::try_from(bytes).ok()?;
        let own = self.bodies.clone().try_acquire_many_owned(bytes).ok()?;
        let all = self.guests.bodies.clone().try_acquire_many_owned(bytes).ok()?;
        match &mut held.0 {
            Some([had_own, had_all]) => {
                had_own.merge(own);
                had_all.merge(all);
            }
            none => *none = Some([own, all]),
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn pod(last: u8) -> IpAddr {
        IpAddr::from([10, 244, 0, last])
    }

    fn goes(guest: &Guest) -> bool {
        futures_util::FutureExt::now_or_never(guest.pushed_out()).is_some()
    }

    #[test]
    fn one_pod_has_its_share_of_the_connections() {
        let guests = Guests::new(Limits { connections: 5, of_one: 3, ..Limits::PODS });
        let mut inside: Vec<_> = (0..3).map(|_| guests.enter(pod(1)).unwrap()).collect();
        assert!(guests.enter(pod(1)).is_none());
        let others: Vec<_> = (0..2).map(|_| guests.enter(pod(2)).unwrap()).collect();
        inside.pop();
        assert!(guests.enter(pod(3)).is_some());
        drop((inside, others));
        let empty = guests.inside();
        assert_eq!((empty.strangers.len(), empty.known.len(), empty.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn many_pods_together_keep_nobody_out_who_has_a_good_token() {
        let guests = Guests::new(Limits { connections: 6, known: 2, of_one: 3, ..Limits::PODS });
        let proxy = guests.enter(pod(9)).unwrap();
        proxy.accept();
        let flood: Vec<_> = (1..=2).flat_map(|n| [n; 3]).map(|n| guests.enter(pod(n)).unwrap()).collect();
        let dns = guests.enter(pod(8)).expect("the door is full of strangers");
        dns.accept();
        assert_eq!(flood.iter().filter(|guest| goes(guest)).count(), 1, "the oldest of them");
        let more: Vec<_> = (3..=4).flat_map(|n| [n; 3]).map(|n| guests.enter(pod(n)).unwrap()).collect();
        assert!(!goes(&proxy) && !goes(&dns));
        more.iter().for_each(Guest::accept);
        let inside = guests.inside();
        assert_eq!((inside.known.len(), inside.strangers.len()), (2, 6), "these have a bound too");
        drop(inside);
    }

    #[tokio::test]
    async fn whoever_has_a_certificate_comes_in_where_strangers_fill_the_door() {
        let guests = Guests::new(Limits { connections: 3, ..Limits::KUBELET });
        let enter = || guests.enter(pod(1)).unwrap();
        let kubelet = enter();
        kubelet.prove();
        let strangers: Vec<_> = (0..3).map(|_| enter()).collect();
        assert!(!strangers.iter().any(goes), "there is place for all");
        let again = enter();
        assert_eq!(strangers.iter().map(goes).collect::<Vec<_>>(), [true, false, false], "the oldest goes");
        again.prove();
        let more: Vec<_> = (0..9).map(|_| enter()).collect();
        assert!(!goes(&kubelet) && !goes(&again), "none of them pushes out who is known");
        assert_eq!(more.iter().filter(|guest| goes(guest)).count(), 6);
    }

    #[tokio::test]
    async fn bodies_of_strangers_have_a_bound_that_kubelets_do_not_count_in() {
        let guests = Guests::new(Limits { bodies: 10, bodies_of_one: 6, ..Limits::PODS });
        let (one, other) = (guests.enter(pod(1)).unwrap(), guests.enter(pod(2)).unwrap());
        let six = || Full::new(Bytes::from_static(b"123456"));
        let (bytes, held) = one.read(six(), 6, false).await.unwrap();
        assert_eq!(bytes, b"123456");
        assert_eq!(one.read(six(), 6, false).await.unwrap_err(), Unread::Full, "its own share is full");
        assert_eq!(other.read(six(), 6, false).await.unwrap_err(), Unread::Full, "so is what all have");
        assert!(one.read(six(), 6, true).await.is_ok());
        assert_eq!(one.read(six(), 5, true).await.unwrap_err(), Unread::TooLarge);
        drop(held);
        assert!(other.read(six(), 6, false).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let guest =
            Guests::new(Limits { body: Duration::from_millis(20), ..Limits::KUBELET }).enter(pod(1)).unwrap();
        let never = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
        assert_eq!(guest.read(StreamBody::new(never), 9, true).await.unwrap_err(), Unread::Late);
    }
}
