//! What became of a run, as it is told.

use jiff::Timestamp;
use serde::Serialize;

use super::charts::WantedChart;
use super::error::Failure;
use super::git::GitEntry;
use super::plan::{Reason, SourceFailure};
use crate::store::NewChart;
use crate::sys::digest::Digest;

/// What became of an image or chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was not here.
    New,
    /// Another one was here under the name.
    Updated,
    /// It is here as it is upstream.
    Unchanged,
    /// It did not come.
    Failed,
    /// A signature that has to be there is not.
    Refused,
    /// Guessed, and not there upstream.
    Absent,
}

/// One image or chart of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `docker.io/library/nginx:1.27`, or `app-1.0.0`.
    pub name: String,
    /// What became of it.
    pub state: State,
    /// What it is upstream.
    pub digest: Option<Digest>,
    /// Bytes that had to travel for it.
    pub bytes: u64,
    /// Where from.
    pub from: String,
    /// Why it is wanted.
    pub reasons: Vec<Reason>,
    /// Names of what hangs on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<String>,
    /// What hangs on it and did not come, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why it did not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Nothing was changed.
    pub dry_run: bool,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Bytes that travelled; for a dry run, that would.
    pub bytes: u64,
    /// Requests for manifests and lists.
    pub requests: u64,
    /// The generation that it made, if anything changed.
    pub generation: Option<u64>,
    /// Images, in order.
    pub images: Vec<Entry>,
    /// Charts, in order.
    pub charts: Vec<Entry>,
    /// Git repositories, in order.
    pub git: Vec<GitEntry>,
    /// Sources that could not be read.
    pub failures: Vec<SourceFailure>,
    /// How many failed, sources among them.
    pub failed: usize,
    /// How many were refused.
    pub refused: usize,
}

impl Summary {
    /// Counts what failed and what was refused.
    pub(super) fn count(&mut self) {
        let with = |state: State| {
            let states = self.images.iter().chain(&self.charts).map(|entry| entry.state);
            states.chain(self.git.iter().map(|entry| entry.state)).filter(|one| *one == state).count()
        };
        (self.failed, self.refused) = (with(State::Failed) + self.failures.len(), with(State::Refused));
    }
}

/// A chart that came or was here, whether it travelled, and its bytes.
pub(super) type Fetched = Result<(NewChart, bool, u64), Failure>;

/// A chart of a run.
pub(super) fn chart_entry(wanted: &WantedChart, result: &Fetched, before: &[NewChart]) -> Entry {
    let known = before.iter().any(|before| {
        (&before.repository, &before.name, &before.version)
            == (&wanted.repository, &wanted.name, &wanted.version)
    });
    let (state, digest, bytes, error) = match result {
        Ok((chart, true, size)) => {
            (if known { State::Updated } else { State::New }, Some(chart.digest.clone()), *size, None)
        }
        Ok((chart, false, _)) => (State::Unchanged, Some(chart.digest.clone()), 0, None),
        Err(failure) => (State::Failed, None, 0, Some(failure.to_string())),
    };
    let (name, from, reasons) = (wanted.title(), crate::oci::clean(&wanted.url), wanted.reasons.clone());
    Entry { name, state, digest, bytes, from, reasons, attached: Vec::new(), warnings: Vec::new(), error }
}
