//! Asks the runtime, and merges its answer into the cached pods. Where the runtime cannot be asked, the pods are
//! those of the cache, and the reason is told.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;

use super::view::{Details, merge, questions, runtime_uid};
use crate::cri::{self, Runtime, State};

/// Calls to the runtime under way at one time.
const AT_ONCE: usize = 8;

/// The pods at one moment.
#[derive(Debug)]
pub struct Observed {
    /// Sorted by namespace and name.
    pub pods: Vec<Value>,
    /// What the runtime has; empty when it could not be asked.
    pub state: State,
    /// The uids of those among the pods that only the runtime knows.
    pub runtime_only: BTreeSet<String>,
    /// Why the runtime did not tell of single containers and sandboxes: of them is shown what was last heard.
    pub untold: Vec<cri::Error>,
    /// Why the runtime could not be asked: the pods are as they were last heard of.
    pub runtime: Result<(), cri::Error>,
}

/// `cached` pods and the runtime, merged.
pub async fn observe(runtime: &Runtime, cached: Vec<Value>) -> Observed {
    let state = runtime.state().await;
    complete(runtime, state, cached).await
}

/// The same, where the runtime's `state` was asked for while the cache was read.
pub async fn complete(runtime: &Runtime, state: Result<State, cri::Error>, cached: Vec<Value>) -> Observed {
    let looked = async {
        let state = state?;
        let (details, untold) = look(runtime, &cached, &state).await?;
        Ok((state, details, untold))
    };
    match looked.await {
        Ok((state, details, untold)) => {
            let known: HashSet<String> = cached.iter().filter_map(runtime_uid).map(str::to_owned).collect();
            let pods = merge(cached, &state, &details);
            let uids = pods.iter().filter_map(runtime_uid).filter(|uid| !known.contains(*uid));
            let runtime_only = uids.map(str::to_owned).collect();
            Observed { runtime_only, untold, pods, state, runtime: Ok(()) }
        }
        Err(error) => Observed {
            pods: cached,
            state: State::default(),
            runtime_only: BTreeSet::new(),
            untold: Vec::new(),
            runtime: Err(error),
        },
    }
}

/// What the runtime tells of what it was asked about, and why it does not tell the rest.
async fn look(
    runtime: &Runtime,
    cached: &[Value],
    state: &State,
) -> Result<(Details, Vec<cri::Error>), cri::Error> {
    let asked = questions(cached, state);
    let mut untold = Vec::new();
    let mut without = |error: cri::Error| match error {
        // It was removed since the list was made; the next look sees it.
        gone if gone.is_not_found() => Ok(()),
        down if down.is_down() => Err(down),
        error => {
            untold.push(error);
            Ok(())
        }
    };
    let mut details = Details::default();
    let mut containers = stream::iter(asked.containers)
        .map(|id| async move { runtime.container(&id).await })
        .buffer_unordered(AT_ONCE);
    while let Some(answer) = containers.next().await {
        match answer {
            Ok(status) => {
                details.containers.insert(status.id.clone(), status);
            }
            Err(error) => without(error)?,
        }
    }
    let mut sandboxes = stream::iter(asked.sandboxes)
        .map(|id| async move { runtime.sandbox(&id).await })
        .buffer_unordered(AT_ONCE);
    while let Some(answer) = sandboxes.next().await {
        match answer {
            Ok(status) => {
                let network = status.network.unwrap_or_default();
                let more = network.additional_ips.into_iter().map(|ip| ip.ip);
                let all: Vec<String> =
                    std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
                details.addresses.insert(status.id, all);
            }
            Err(error) => without(error)?,
        }
    }
    Ok((details, untold))
}

/// Whether a kubelet answers at `healthz` within a second.
pub async fn kubelet_is_up(healthz: SocketAddr) -> bool {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(healthz).await.ok()?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get("/healthz").header("host", healthz.to_string());
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        connection.abort();
        Some(answer.status().is_success())
    };
    tokio::time::timeout(Duration::from_secs(1), asked).await.ok().flatten().unwrap_or(false)
}
