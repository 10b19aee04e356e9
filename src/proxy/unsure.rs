//! Lists of which a part may be missing since the daemon before ended without notice, or with a disk that took nothing.
//! Whoever goes on watching one of them is told once to read it anew: nobody else would, and nothing tells here what is
//! missing.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use super::Shared;
use super::answer::{self, Body};
use super::caller::{self, Caller};
use super::forward::Call;
use super::keep::{begins, is_kept, is_of_caller, list_of};
use crate::cache::{Begins, ScopeKey};
use crate::kube::Verb;
use crate::kube::negotiate::Shape;

/// How long after the start: whoever was connected before comes again within a minute, or has waited for an outage to end.
const AGAIN: Duration = Duration::from_secs(600);
/// Lists whose clients are told at the most.
const MOST: usize = 4096;

/// Which of them are read anew.
#[derive(Debug)]
pub struct Unsure {
    until: Instant,
    read: Mutex<HashSet<ScopeKey>>,
}

impl Unsure {
    /// After a daemon that has kept all, or one that may not have.
    pub fn after(ended_whole: bool) -> Self {
        let now = Instant::now();
        Self { until: if ended_whole { now } else { now + AGAIN }, read: Mutex::default() }
    }

    /// Whether it must be looked at.
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// All of this list is being read from now on.
    pub fn is_read(&self, list: &ScopeKey) {
        if !self.is_over() {
            self.tells(list.clone());
        }
    }

    /// Whether the client of this list is to be told, which then is done.
    fn tells(&self, list: ScopeKey) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.len() < MOST && read.insert(list)
    }
}

impl Shared {
    /// The answer to a watch that goes on from before the start, of a list that was not read since. Whether who asks is who
    /// its token says the cloud has said before, or says now.
    pub async fn unsure_of(&self, call: &Call) -> Option<Response<Body>> {
        let request = call.request.resource().filter(|request| request.verb == Verb::Watch)?;
        if self.unsure.is_over()
            || begins(request) != Begins::AfterList
            // A table is not recorded, and which list it shows was not read by it.
            || call.accept.shape == Shape::Table
            || !is_kept(request)
            || !is_of_caller(call, &self.client_settings)
        {
            return None;
        }
        if let Caller::Bearer(bearer) = &call.caller
            && !caller::accepted(&self.cache, bearer).await.unwrap_or(false)
        {
            return None;
        }
        let list = list_of(call, request)?;
        if self.torn.is_left_alone(&list) || !self.unsure.tells(list) {
            return None;
        }
        Some(answer::expired(true, call.accept.encoding))
    }
}
