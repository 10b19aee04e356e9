//! The clients other than kubelet, as `edge status` tells of them: what is kept for each, and what it was refused.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, CacheError, Freshness, Reading};
use crate::proxy::clients::Seen;
use crate::proxy::torn::LeftAlone;

/// A client other than kubelet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientReport {
    /// `namespace/account` of a service account, else `token:HASH`.
    pub client: String,
    /// The pod that it is, as far as it is known here.
    pub pod: Option<String>,
    /// What it calls itself; empty if it has not asked since the daemon began.
    pub agent: String,
    /// When it asked last since the daemon began.
    pub seen: Option<String>,
    /// What is kept for it.
    pub resources: Vec<ReadingReport>,
    /// How often it was refused here while the cloud was away, since the daemon began.
    pub refused: u64,
    /// The last time it was.
    pub last_refused: Option<RefusalReport>,
}

/// What a client has read of a resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadingReport {
    /// Such as `v1/services`.
    pub resource: String,
    /// Objects that it may read back.
    pub objects: i64,
    /// Until when the oldest of its lists of them that are in use was as the cloud has it; absent if none is complete.
    pub synced: Option<String>,
    /// Whether it watches all of these.
    #[serde(default)]
    pub current: bool,
}

/// A request that was refused here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalReport {
    /// Such as `list apps/v1/deployments`.
    pub request: String,
    /// The HTTP status.
    pub code: u16,
    /// When.
    pub at: String,
}

/// Who was seen since the start, and who has read something before.
pub async fn report(
    cache: &Cache,
    fresh: Freshness,
    seen: HashMap<String, Seen>,
) -> Result<Vec<ClientReport>, CacheError> {
    let read = cache.read(move |reader| {
        let pods = reader.texts("v1/pods", ["$.metadata.uid", "$.metadata.name"])?;
        Ok((reader.readings(&fresh)?, pods))
    });
    let (readings, pods) = read.await?;
    let pods: HashMap<String, String> =
        pods.into_iter().filter_map(|[uid, name]| Some((uid?, name?))).collect();
    let mut by_identity: BTreeMap<String, ClientReport> = BTreeMap::new();
    for reading in readings.into_iter().filter(|reading| is_client(&reading.identity)) {
        let Reading { identity, resource, objects, synced, is_current } = reading;
        let synced = synced.map(super::report::time_of);
        let kept = ReadingReport { resource, objects, synced, current: is_current };
        by_identity.entry(identity).or_default().resources.push(kept);
    }
    for (identity, seen) in seen {
        let client = by_identity.entry(identity).or_default();
        client.agent = seen.agent;
        client.seen = Some(super::report::time(seen.at));
        client.refused = seen.refused;
        client.last_refused = seen.last.map(|last| RefusalReport {
            request: last.request,
            code: last.code,
            at: super::report::time(last.at),
        });
    }
    let shown = by_identity.into_iter().map(|(identity, client)| {
        let (name, uid) = named(&identity);
        ClientReport { client: name, pod: pods.get(uid).cloned(), ..client }
    });
    Ok(shown.collect())
}

/// A client as it is shown, and the uid of its pod, if it has one.
fn named(identity: &str) -> (String, &str) {
    let account = identity.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once('/'));
    match account {
        Some((account, uid)) => (account.replacen(':', "/", 1), uid),
        // Of a hash, enough to tell one from another.
        None => (identity.chars().take(18).collect(), ""),
    }
}

/// What is said of a list of which nothing is kept for now.
pub fn is_left_alone(alone: &LeftAlone) -> String {
    let LeftAlone { list, left } = alone;
    let (resource, client, minutes) = (&list.resource, named(&list.identity).0, left.as_secs().div_ceil(60));
    format!(
        "a list of {resource} comes to `{client}` faster than it can be kept: nothing of it is for {minutes} minutes \
         more hint: name the resource in `proxy.clients.leave-out` if nobody needs it in an outage"
    )
}

/// Neither kubelet nor edge itself.
fn is_client(identity: &str) -> bool {
    identity.starts_with("system:serviceaccount:") || identity.starts_with("token:")
}
