//! Connections that are open, and places on them.
//!
//! Many requests at once make one connection, or several where each carries one request alone; if it cannot be made, all
//! that waited for it are told so at once. Knows nothing of addresses or TLS.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::client::conn::{http1, http2};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::upstream::{UpBody, UpstreamError};

/// Streams on one connection; API servers allow 250 and more, load balancers often 100.
pub const STREAMS: u16 = 100;

/// Connections that are made at once to a cloud that speaks HTTP/1.1 alone: each watch needs one of its own, and after an
/// outage all come again.
const AT_ONCE: usize = 8;

/// The connections under one name.
#[derive(Debug)]
pub struct Pool {
    connections: Mutex<Vec<Connection>>,
    /// Held while connecting, where one connection is for all.
    connecting: tokio::sync::Mutex<()>,
    /// The same where each is for one.
    turns: Semaphore,
    /// The last connection was one of HTTP/1.1.
    is_one: AtomicBool,
    /// When and why the last attempt failed.
    failed: Mutex<Option<(Instant, Arc<UpstreamError>)>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            connections: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            is_one: AtomicBool::default(),
            failed: Mutex::default(),
        }
    }
}

/// An open connection.
#[derive(Clone, Debug)]
pub enum Connection {
    /// HTTP/2, and how many streams are in use.
    Two {
        /// Sends requests.
        sender: http2::SendRequest<UpBody>,
        /// In use.
        streams: Arc<AtomicUsize>,
    },
    /// HTTP/1.1; empty while its sender is at work.
    One {
        /// Sends one request at a time.
        sender: Arc<Mutex<Option<http1::SendRequest<UpBody>>>>,
    },
}

/// A place on a connection, held until the answer's body has ended.
#[derive(Debug)]
pub struct Place(Occupied);

#[derive(Debug)]
enum Occupied {
    Two(Arc<AtomicUsize>),
    One { slot: Arc<Mutex<Option<http1::SendRequest<UpBody>>>>, sender: Option<http1::SendRequest<UpBody>> },
    Own,
}

impl Place {
    /// All of a connection that no other request uses.
    pub fn own() -> Self {
        Self(Occupied::Own)
    }

    /// What sends over HTTP/1.1; `None` for other places.
    pub fn sender(&mut self) -> Option<&mut http1::SendRequest<UpBody>> {
        match &mut self.0 {
            Occupied::One { sender, .. } => sender.as_mut(),
            Occupied::Two(_) | Occupied::Own => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match &mut self.0 {
            Occupied::Two(streams) => {
                streams.fetch_sub(1, Ordering::Relaxed);
            }
            Occupied::One { slot, sender } => {
                // Ready again only if the answer was read to its end.
                if let (Ok(mut slot), Some(sender)) = (slot.lock(), sender.take())
                    && sender.is_ready()
                {
                    *slot = Some(sender);
                }
            }
            Occupied::Own => {}
        }
    }
}

impl Pool {
    /// A connection with room, made by `open` if there is none.
    ///
    /// # Errors
    /// Why none can be made. An attempt that failed while this one waited for its turn counts for both:
    /// one attempt after the other would keep the last of many waiting for minutes.
    pub async fn connection<F>(&self, open: impl FnOnce() -> F) -> Result<(Connection, Place), UpstreamError>
    where
        F: Future<Output = Result<Connection, UpstreamError>>,
    {
        if let Some(found) = self.take() {
            return Ok(found);
        }
        let asked = Instant::now();
        let mut alone = Some(self.connecting.lock().await);
        let mut turn = None;
        if self.is_one.load(Ordering::Relaxed) {
            alone = None;
            turn = self.turns.acquire().await.ok();
        }
        let made = match (self.take(), self.failed_since(asked)) {
            (Some(found), _) => return Ok(found),
            (None, Some(why)) => return Err(UpstreamError::Shared(why)),
            (None, None) => open().await,
        };
        let done = match made {
            Ok(connection) => self.add(connection),
            Err(error) => {
                let why = Arc::new(error);
                if let Ok(mut failed) = self.failed.lock() {
                    *failed = Some((Instant::now(), why.clone()));
                }
                Err(UpstreamError::Shared(why))
            }
        };
        drop((alone, turn));
        done
    }

    fn failed_since(&self, asked: Instant) -> Option<Arc<UpstreamError>> {
        let failed = self.failed.lock().ok()?;
        failed.as_ref().filter(|(at, _)| *at >= asked).map(|(_, why)| why.clone())
    }

    /// Adds a connection, with a place on it for whoever made it.
    fn add(&self, connection: Connection) -> Result<(Connection, Place), UpstreamError> {
        self.note_kind(&connection);
        let place = connection.take().ok_or(UpstreamError::LinkLost)?;
        if let Ok(mut connections) = self.connections.lock() {
            connections.push(connection.clone());
        }
        Ok((connection, place))
    }

    fn note_kind(&self, connection: &Connection) {
        self.is_one.store(matches!(connection, Connection::One { .. }), Ordering::Relaxed);
    }

    /// Uses this connection for new requests, and none of those before.
    pub fn replace(&self, connection: Connection) {
        self.note_kind(&connection);
        if let Ok(mut connections) = self.connections.lock() {
            *connections = vec![connection];
        }
    }

    /// Uses none of those that are open for new requests.
    pub fn clear(&self) {
        if let Ok(mut connections) = self.connections.lock() {
            connections.clear();
        }
    }

    /// A connection with room, and the place taken on it.
    fn take(&self) -> Option<(Connection, Place)> {
        let mut connections = self.connections.lock().ok()?;
        connections.retain(Connection::is_open);
        connections.iter().find_map(|c| c.take().map(|place| (c.clone(), place)))
    }
}

impl Connection {
    /// Of HTTP/2.
    pub fn two(sender: http2::SendRequest<UpBody>) -> Self {
        Self::Two { sender, streams: Arc::default() }
    }

    /// Of HTTP/1.1.
    pub fn one(sender: http1::SendRequest<UpBody>) -> Self {
        Self::One { sender: Arc::new(Mutex::new(Some(sender))) }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Two { sender, .. } => !sender.is_closed(),
            Self::One { sender } => sender.lock().is_ok_and(|slot| {
                // An empty slot is one whose sender is at work; it comes back or is never filled again.
                slot.as_ref().map_or(Arc::strong_count(sender) > 1, |s| !s.is_closed())
            }),
        }
    }

    fn take(&self) -> Option<Place> {
        match self {
            Self::Two { streams, .. } => {
                if streams.fetch_add(1, Ordering::Relaxed) >= usize::from(STREAMS) {
                    streams.fetch_sub(1, Ordering::Relaxed);
                    return None;
                }
                Some(Place(Occupied::Two(streams.clone())))
            }
            Self::One { sender: slot } => {
                let sender = slot.lock().ok()?.take()?;
                Some(Place(Occupied::One { slot: slot.clone(), sender: Some(sender) }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use hyper_util::rt::TokioIo;

    /// Each watch of each pod needs a connection of its own then, and all come again after an outage.
    #[tokio::test]
    async fn where_each_request_needs_a_connection_several_are_made_at_once() {
        let pool = Pool::default();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ask = || {
            pool.connection(|| async {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                now.fetch_sub(1, Ordering::Relaxed);
                let (near, far) = tokio::io::duplex(1024);
                let (sender, connection) = http1::handshake::<_, UpBody>(TokioIo::new(near)).await.unwrap();
                tokio::spawn(async move {
                    let _far = far;
                    connection.await
                });
                Ok(Connection::one(sender))
            })
        };
        // Nobody knows yet that more than one is needed.
        let asked = futures_util::future::join_all((0..50).map(|_| ask())).await;
        let held: Vec<_> = asked.into_iter().map(Result::unwrap).collect();
        assert_eq!(most.load(Ordering::Relaxed), AT_ONCE);
        assert_eq!(pool.connections.lock().unwrap().len(), held.len(), "each its own");
    }

    #[tokio::test]
    async fn who_waits_for_an_attempt_that_fails_waits_for_one_only() {
        let pool = Pool::default();
        let attempts = AtomicUsize::new(0);
        let ask = || {
            pool.connection(|| async {
                attempts.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(UpstreamError::LinkLost)
            })
        };
        let asked = futures_util::future::join_all((0..50).map(|_| ask())).await;
        assert!(asked.iter().all(Result::is_err));
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        assert!(ask().await.is_err());
        assert_eq!(attempts.load(Ordering::Relaxed), 2, "whoever asks later has an attempt of its own");
    }
}
