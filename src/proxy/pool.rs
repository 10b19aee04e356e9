//! Connections that are open, and places on them.
//!
//! Many requests at once make one connection; if it cannot be made, all that waited for it are told so at
//! once. Knows nothing of addresses or TLS.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::upstream::{UpBody, UpstreamError};

/// Streams on one connection; API servers allow 250 and more, load balancers often 100.
pub const STREAMS: u16 = 100;

/// The connections under one name.
#[derive(Debug, Default)]
pub struct Pool {
    connections: Mutex<Vec<Connection>>,
    /// Held while connecting. When and why the last attempt failed.
    connecting: tokio::sync::Mutex<Option<(Instant, Arc<UpstreamError>)>>,
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
        let mut failed = self.connecting.lock().await;
        if let Some(found) = self.take() {
            return Ok(found);
        }
        if let Some((at, why)) = &*failed
            && *at >= asked
        {
            return Err(UpstreamError::Shared(why.clone()));
        }
        match open().await {
            Ok(connection) => {
                if let Ok(mut connections) = self.connections.lock() {
                    connections.push(connection);
                }
                self.take().ok_or(UpstreamError::LinkLost)
            }
            Err(error) => {
                let why = Arc::new(error);
                *failed = Some((Instant::now(), why.clone()));
                Err(UpstreamError::Shared(why))
            }
        }
    }

    /// Uses this connection for new requests, and none of those before.
    pub fn replace(&self, connection: Connection) {
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
