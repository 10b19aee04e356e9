//! `edge join` and `edge leave` as tasks: with the daemon they take effect in it at once, without it at its next start.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, oneshot};

use super::task::{Hand, Place, TaskError};
use super::{Order, system};
use crate::cache::Cache;
use crate::config::{self, Change, Config};
use crate::proxy::incluster;
use crate::proxy::join::{self, Cached, Plan, Record};
use crate::proxy::request;
use crate::sys::durable;
use crate::sys::progress::Progress;
use crate::sys::service::Service;
use crate::system::Places;

/// What `edge join` is asked. Paths are absolute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Join {
    /// The node's kubeconfig, or a bootstrap kubeconfig.
    pub from: PathBuf,
    /// Where to write kubelet's.
    pub kubelet_kubeconfig: Option<PathBuf>,
    /// Where kubelet keeps the certificate that it rotates.
    pub kubelet_cert_dir: Option<PathBuf>,
    /// The node's name, if the caller gives one.
    pub node_name: Option<String>,
    /// The name of this machine.
    pub host_name: String,
    /// How long to wait until the cloud has signed a certificate, in seconds.
    pub timeout: u64,
}

/// Joins. What was done when it fails stays, and the same can be asked again.
pub async fn join(asked: Join, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    let alone = place.membership.lock().await;
    join_alone(asked, place, progress, &alone).await
}

/// The same for who holds the lock already, since it looked first whether there is anything to join.
pub(super) async fn join_alone(
    asked: Join,
    place: &Place,
    progress: &Progress,
    _alone: &MutexGuard<'_, ()>,
) -> Result<Value, TaskError> {
    do_join(asked, place, progress).await.map_err(|error| confined(error, place))
}

async fn do_join(asked: Join, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    let config = place.config();
    let from = asked.from.clone();
    let plan = plan(asked, &config)?;
    let cloud = plan.cloud_kubeconfig.clone();
    let ready = join::prepare(plan, &mut |said| progress.note(told(said))).await.map_err(failed)?;
    let change = Change::Set("cloud.kubeconfig".into(), cloud.to_string_lossy().into_owned());
    // What the file says: a change of `proxy.listen` is in force from the daemon's next start on, and kubelet's as well.
    let listen = config::edit(&config.file, &[change]).map_err(TaskError::usage)?.proxy.listen;
    let until = ready.certificate.not_after;
    let record = ready.hand_over(listen).map_err(failed)?;
    // By hand, with others: those that were given must not join this machine again once it is left.
    drop_given(&config, |given| given != from)?;
    let restart = match place.hand() {
        None => Some("edge is not running".to_owned()),
        Some(hand) => hand.order(Order::Join).await.err().or_else(|| {
            let (now, then) = (config.proxy.listen, listen);
            (now != then).then(|| format!("it listens on {now} until then, and kubelet is to ask {then}"))
        }),
    };
    Ok(json!({
        "node": record.node_name,
        "cloudKubeconfig": cloud,
        "certificateExpires": until.to_string(),
        "kubeletKubeconfig": record.kubelet_kubeconfig.path,
        "restart": restart,
    }))
}

/// Leaves. Refuses while changes wait to be told to the cloud, unless they are given up.
pub async fn leave(discard_changes: bool, place: &Place) -> Result<Value, TaskError> {
    let _alone = place.membership.lock().await;
    do_leave(discard_changes, place).await.map_err(|error| confined(error, place))
}

async fn do_leave(discard_changes: bool, place: &Place) -> Result<Value, TaskError> {
    let config = place.config();
    if !discard_changes {
        let waiting = waiting(&config.state_dir, place).await?;
        if waiting > 0 {
            return Err(TaskError::failed(format!(
                "{waiting} changes of this node wait to be told to the cloud hint: run `edge daemon` until `edge status` shows none, or leave with --discard-changes"
            )));
        }
    }
    // First: who leaves has left, whatever the daemon was about to try next.
    drop_given(&config, |_| true)?;
    let left = join::give_back(&config.state_dir).map_err(failed)?;
    // Kubelet has its own already: nothing is left half done for a card that takes no change.
    let forgotten = forget_kept(&config).unwrap_or_else(|error| {
        tracing::warn!(why = error.message, "identity still has the credentials: a reset would join again");
        false
    });
    let cloud = left.as_ref().map(|left| &left.cloud_kubeconfig);
    let unset = cloud.is_some() && config.cloud.kubeconfig.as_ref() == cloud;
    if unset {
        config::edit(&config.file, &[Change::Unset("cloud.kubeconfig".into())]).map_err(TaskError::usage)?;
    }
    let cached = match (place.hand(), &left) {
        (Some(hand), Some(_)) => {
            hand.order(Order::Leave).await.map_err(TaskError::failed)?;
            Cached::Emptied
        }
        (Some(_), None) => Cached::Emptied,
        (None, _) => {
            // What a daemon that runs takes away itself.
            if let Err(error) = incluster::remove(config.proxy.in_cluster_listen).await {
                tracing::warn!(error, "the interface for pods is left behind");
            }
            Cached::Closed
        }
    };
    join::clear(&config.state_dir, cached).map_err(failed)?;
    Ok(left.map_or(Value::Null, |left| {
        let (path, restored) = left.kubelet_kubeconfig;
        json!({
            "node": left.node_name,
            "kubeletKubeconfig": path,
            "restored": restored,
            "unset": unset,
            "certificate": left.certificate,
            "forgotten": forgotten,
        })
    }))
}

/// On an appliance, removes the credentials that were given and not taken yet, where `is_stale` says so of their path.
fn drop_given(config: &Config, is_stale: impl FnOnce(&Path) -> bool) -> Result<(), TaskError> {
    let places = Places::below(&config.system.root);
    let given = system::given(&places);
    if places.booted().is_err() || !given.exists() || !is_stale(&given) {
        return Ok(());
    }
    durable::remove(&given).map_err(TaskError::failed)
}

/// On an appliance, removes the credentials that a reset would join with again. Whether there were any.
fn forget_kept(config: &Config) -> Result<bool, TaskError> {
    let places = Places::below(&config.system.root);
    if places.booted().is_err() {
        return Ok(false);
    }
    crate::system::forget_kubeconfig(&places).map_err(TaskError::failed)
}

impl Hand {
    /// Has the daemon do something, and waits until it has.
    async fn order(&self, order: fn(oneshot::Sender<Result<(), String>>) -> Order) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        let stopping = || "the daemon is stopping".to_owned();
        self.orders.send(order(reply)).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?
    }
}

/// What changed here in an outage goes with the cache; it is told to the cloud first, or given up by name.
async fn waiting(state_dir: &Path, place: &Place) -> Result<usize, TaskError> {
    let cache = match place.hand() {
        Some(_) => place.cache().await?.clone(),
        None if !state_dir.join("cache.db").exists() => return Ok(0),
        None => Cache::open(state_dir, state_dir).map_err(TaskError::failed)?.cache,
    };
    cache.read(|reader| Ok(reader.changes()?.len())).await.map_err(TaskError::failed)
}

/// Where a join writes the cloud's kubeconfig when nobody names a place: beside the configuration `file`.
fn writes(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join("cloud.kubeconfig")
}

/// Has what comes of snapd's values name the cloud that this node has joined, and none that it has left. A join and a
/// leave change the file first, and snapd may never have been told: the command was cut off, or snapd was away.
/// `in_force` is what the file comes to, if there is one.
///
/// What cannot be looked at goes on: whoever is joined stays so, and `cloud.kubeconfig` names what it named. Why it could
/// not be looked at comes back, in a line.
#[must_use]
pub fn follow(given: &mut Config, in_force: Option<&Config>) -> Option<String> {
    let named = in_force.and_then(|in_force| in_force.cloud.kubeconfig.clone());
    let mut unread = None;
    // A join that was cut short has its record and not yet its files, and a daemon told of those would not start.
    let joined = match Record::read(&given.state_dir) {
        Ok(record) => {
            record.map(|record| record.cloud_kubeconfig.path).filter(|path| is_there(path, &mut unread))
        }
        Err(error) => {
            let why = failed(error).message;
            unread = Some(format!(
                "whether this node has joined a cloud is not known, and `cloud.kubeconfig` stays as it is: {why}"
            ));
            named.clone()
        }
    };
    match (&given.cloud.kubeconfig, joined) {
        (None, Some(path)) => given.cloud.kubeconfig = Some(path),
        // Nobody but a join writes that one, and a leave took it away.
        (Some(path), None)
            if *path == writes(&given.file)
                && in_force.is_some()
                && named.is_none()
                && !is_there(path, &mut unread) =>
        {
            given.cloud.kubeconfig = None;
        }
        _ => {}
    }
    unread
}

fn is_there(kubeconfig: &Path, unread: &mut Option<String>) -> bool {
    durable::exists(kubeconfig).unwrap_or_else(|error| {
        *unread = Some(format!("the cloud's kubeconfig is taken to be there: {error}"));
        true
    })
}

/// What was joined stays where it is; a path that says otherwise is refused later, with the reason.
fn plan(asked: Join, config: &Config) -> Result<Plan, TaskError> {
    let before = Record::read(&config.state_dir).map_err(failed)?;
    let folder = config.file.parent().unwrap_or(Path::new("/"));
    let known = |pick: fn(&Record) -> &PathBuf| before.as_ref().map(|record| pick(record).clone());
    Ok(Plan {
        from: asked.from,
        kubelet_kubeconfig: asked
            .kubelet_kubeconfig
            .or_else(|| known(|r| &r.kubelet_kubeconfig.path))
            .unwrap_or_else(|| folder.join("kubelet.kubeconfig")),
        cloud_kubeconfig: known(|r| &r.cloud_kubeconfig.path)
            .or_else(|| config.cloud.kubeconfig.clone())
            .unwrap_or_else(|| writes(&config.file)),
        kubelet_cert_dir: asked
            .kubelet_cert_dir
            .or_else(|| known(|r| &r.kubelet_cert_dir))
            .unwrap_or_else(|| config.kubelet_pki.clone()),
        kubelet_pki: config.kubelet_pki.clone(),
        state_dir: config.state_dir.clone(),
        listen: config.proxy.listen,
        node_name: asked.node_name,
        host_name: asked.host_name,
        timeout: Duration::from_secs(asked.timeout),
    })
}

fn told(progress: &request::Progress) -> String {
    match progress {
        request::Progress::Unapproved(name) => format!(
            "waiting for approval of the signing request; an operator of the cloud says: kubectl certificate approve {name}"
        ),
        request::Progress::Approved(name) => format!("`{name}` is approved; waiting for the certificate"),
        request::Progress::Unreachable(why) => format!("the cloud cannot be asked, trying again: {why}"),
    }
}

/// The error with its causes, on one line; none of them tells the next.
pub(super) fn failed(error: join::Error) -> TaskError {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    if error.is_input() { TaskError::usage(line) } else { TaskError::failed(line) }
}

/// Under systemd the daemon sees and writes less of the file system than the person who asks; of a strict snap every command
/// does.
fn confined(error: TaskError, place: &Place) -> TaskError {
    let about_files = ["cannot read", "cannot write", "cannot make folder", "cannot rename", "cannot link"];
    let is_one = about_files.iter().any(|words| error.message.contains(words));
    if !is_one || error.message.contains(" hint: ") {
        return error;
    }
    let hint = match (place.config().is_strict, place.hand()) {
        (true, _) if error.message.contains("cannot read") && error.message.contains("No such file") => {
            "the snap is strict and may not see it: give a kubeconfig that holds certificate and key inline"
                .into()
        }
        (true, _) | (false, None) => return error,
        (false, Some(_)) => {
            let stop = Service::Edge.stop();
            format!("the daemon does it, and may be kept from there: `{stop}`, and run this again")
        }
    };
    TaskError { message: format!("{} hint: {hint}", error.message), ..error }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
