//! The appliance, where its room alone cannot judge or do it: a first boot's configuration, whether all parts are up,
//! and the trust state on identity. What kubelet is told is `kubelet`'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::bundle::{gateway, pin};
use super::importing::Mark;
use super::task::{Place, Task, TaskError, blocking};
use super::{JoinTask, accepted, ask_status, clock, kubelet};
use crate::bundle::system::Asked;
use crate::bundle::{self, Gateway};
use crate::config::{self, Change, Config, Overrides};
use crate::cri;
use crate::health::State;
use crate::proxy::cloud::Credentials;
use crate::proxy::cloud::kubeconfig::Kubeconfig;
use crate::proxy::join::Record;
use crate::sys::durable;
use crate::sys::progress::Progress;
use crate::system::{self, Kept, Places};

/// Where networks for pods are configured, and the file of the appliance's own.
const NETWORKS: &str = "etc/cni/net.d";
const OWN_NETWORK: &str = "99-edge.conflist";
/// How often all parts are looked at.
const PACE: Duration = Duration::from_secs(1);
/// How long one part may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What whoever holds the state folder does at a boot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settle {
    /// A root to pin, where none is.
    pub root: Option<PathBuf>,
    /// Where bundles came with the image.
    pub preload: Option<PathBuf>,
}

struct Checks(Config);

impl system::Checks for Checks {
    fn configuration(&self, text: &str) -> Result<(), String> {
        Config::parse_over(self.0.clone(), text).map(drop).map_err(|e| e.to_string())
    }

    fn kubeconfig(&self, bytes: &[u8]) -> Result<(), String> {
        let read = Kubeconfig::parse(Path::new("cloud.kubeconfig"), bytes).map_err(|e| e.to_string())?;
        let credentials = (read.certificate.is_some() && read.key.is_some()) || read.token.is_some();
        if credentials {
            Ok(())
        } else {
            Err("it holds neither a certificate with its key nor a token".into())
        }
    }
}

/// Everything that a boot needs before the daemon: the configuration, the trust state, bundles of the image, the join,
/// and kubelet's arguments. Says lines for the console; what is wrong with a file is one of them.
///
/// # Errors
/// Where what was found cannot be put in place.
pub async fn provision(overrides: &Overrides, progress: &Progress) -> Result<Vec<String>, TaskError> {
    let places = Places::below(overrides.system_root.as_deref().unwrap_or(Path::new("/")));
    let (checks, found) = (Checks(overrides.defaults()), places.clone());
    let done = blocking(move || system::provision(&found, &checks).map_err(TaskError::failed)).await?;
    let mut lines = done.lines;
    for (source, names) in &done.taken {
        lines.push(format!("configuration taken from {source}: {}", names.join(", ")));
    }
    let mut overrides = overrides.clone();
    let file = places.at(config::DEFAULT_FILE);
    overrides.config = overrides.config.or(Some(file).filter(|file| file.exists()));
    let config = match accepted::load(&overrides) {
        Ok(loaded) => {
            lines.extend(loaded.refused);
            loaded.config
        }
        // edge will not start, and kubelet must wait for it all the same: as one that knows no cloud it would clear away what
        // runs here.
        Err(error) => {
            let config = Config::unread(&overrides).map_err(TaskError::usage)?;
            lines.push(error.to_string());
            lines.extend(kubelet::tell(&config, &places)?);
            return Ok(lines);
        }
    };
    let root = Some(places.at("/var/etc/edge/1.root.json")).filter(|path| path.exists());
    let preload = Some(places.at("/run/edge/preload")).filter(|path| path.join(bundle::BUNDLES).exists());
    let mut mark = preload.is_some().then(|| Mark::new(&places));
    let settled = perform(&config, Task::System(Settle { root, preload }), progress, mark.as_mut()).await;
    drop(mark);
    match settled {
        Ok(said) => {
            lines.extend(said.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned))
        }
        Err(error) => lines.push(error.message),
    }
    lines.extend(join(&overrides, &config, &places, progress).await?);
    Ok(lines)
}

async fn perform(
    config: &Config,
    task: Task,
    progress: &Progress,
    mut mark: Option<&mut Mark>,
) -> Result<Value, TaskError> {
    let told = |event| {
        if let Some(mark) = &mut mark {
            mark.come_further();
        }
        if let crate::sys::progress::Event::Note { line } = event {
            progress.note(line);
        }
    };
    super::perform(config, task, told).await.map_err(|error| match error {
        super::PerformError::Task(error) => error,
        other => TaskError::failed(other),
    })
}

/// Joins with credentials that were given, where that needs no cloud, and tells kubelet how to start.
async fn join(
    overrides: &Overrides,
    config: &Config,
    places: &Places,
    progress: &Progress,
) -> Result<Vec<String>, TaskError> {
    let given = given(places);
    let mut lines = Vec::new();
    let known = |config: &Config| Record::read(&config.state_dir).map_err(TaskError::failed);
    if known(config)?.is_none() {
        // Without its file the daemon would not start; joining sets it again.
        if config.cloud.kubeconfig.as_ref().is_some_and(|path| !path.exists()) {
            let unset = config::edit(&config.file, &[Change::Unset("cloud.kubeconfig".into())]);
            unset.map_err(TaskError::usage)?;
        }
        if given.exists() {
            match join_with(overrides, places, &given, progress).await {
                Ok(said) => {
                    lines.extend(said);
                    // They have been taken: who leaves the cloud has left it at the next boot too.
                    durable::remove(&given).map_err(TaskError::failed)?;
                }
                Err(why) => lines.push(why),
            }
        }
    }
    lines.extend(kubelet::tell(config, places)?);
    // It is started with that: nothing is left for the daemon to do with them.
    if known(config)?.is_some() {
        durable::remove(&given).map_err(TaskError::failed)?;
    }
    Ok(lines)
}

async fn join_with(
    overrides: &Overrides,
    places: &Places,
    given: &Path,
    progress: &Progress,
) -> Result<Option<String>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("the cloud is not joined: {why}");
    let read = Kubeconfig::read(given).map_err(|e| failed(&e))?;
    if read.certificate.is_none() {
        return Err(failed(
            &"a bootstrap token needs the cloud to sign: edge asks for it until the cloud answers",
        ));
    }
    let client = Credentials::of(&read).map_err(|e| failed(&e))?.client;
    let line = client.and_then(|certificate| clock::reach(certificate.not_before));
    let config = Config::load(overrides).map_err(|e| failed(&e))?;
    let asked = asked_join(places, Duration::from_secs(5)).map_err(|e| failed(&e.message))?;
    let joined = perform(&config, Task::Join(asked), progress, None).await;
    joined.map(|_| line.clone()).map_err(|e| match line {
        Some(line) => format!("{}; {line}", failed(&e)),
        None => failed(&e),
    })
}

/// Where the credentials lie that were given and are not taken yet.
pub(super) fn given(places: &Places) -> PathBuf {
    places.at("/var/etc/edge/given.kubeconfig")
}

/// A join with the credentials that were given.
pub(super) fn asked_join(places: &Places, timeout: Duration) -> Result<JoinTask, TaskError> {
    let host = nix::unistd::gethostname().map_err(TaskError::failed)?;
    Ok(JoinTask {
        from: given(places),
        kubelet_kubeconfig: None,
        kubelet_cert_dir: Some(places.at("/var/lib/kubelet/pki")),
        node_name: None,
        host_name: host.to_string_lossy().into_owned(),
        timeout: timeout.as_secs(),
    })
}

/// What a boot needs of the state folder: what identity kept of the trust state, a root to pin, the clock, bundles that
/// came with the image. Says lines for the console.
///
/// # Errors
/// Where the store cannot be opened.
pub(super) async fn settle(asked: Settle, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    let gateway = gateway(place).await?;
    let (places, progress) = (Places::below(&place.config().system.root), progress.clone());
    blocking(move || Ok(json!(settle_here(&asked, &gateway, &places, &progress)))).await
}

fn settle_here(asked: &Settle, gateway: &Gateway, places: &Places, progress: &Progress) -> Vec<String> {
    let mut lines = clock::remember(&gateway.state_dir, places);
    // First of all: a bundle that came with the image gets a receipt.
    lines.extend(system::keep_own_key(places, &gateway.state_dir).err().map(|error| error.to_string()));
    match Kept::read(places).and_then(|kept| match kept {
        Some(kept) => kept.restore(&gateway.store, &gateway.state_dir),
        None => Ok(false),
    }) {
        Ok(true) => {
            lines.push("the trust state is as identity kept it: older bundles stay refused".to_owned())
        }
        Ok(false) => {}
        Err(error) => {
            lines.push(error.to_string());
            // After a reset the copy alone says what was superseded: a person must say that it begins anew.
            if !gateway.store.trust_value("root-version").is_ok_and(|version| version.is_some()) {
                lines.extend(clock::set(gateway, places));
                return lines;
            }
        }
    }
    if let Some(root) = &asked.root
        && let Err(error) = pin(root, gateway)
    {
        lines.push(error.message);
    }
    lines.extend(clock::set(gateway, places));
    if let Some(folder) = &asked.preload {
        lines.extend(preload(folder, gateway, progress));
    }
    let kept = Kept::of(&gateway.store, &gateway.state_dir).and_then(|kept| kept.write(places));
    let kept = kept.and_then(|()| system::keep_own_key(places, &gateway.state_dir));
    lines.extend(kept.err().map(|error| error.to_string()));
    lines
}

/// Imports what came with the image, once.
fn preload(folder: &Path, gateway: &Gateway, progress: &Progress) -> Vec<String> {
    let streams = match bundle::find(folder) {
        Ok(streams) => streams,
        Err(bundle::Error::NotThere(_)) => return Vec::new(),
        Err(error) => return vec![error.to_string()],
    };
    let mut lines = Vec::new();
    for found in streams {
        let bundle::Chosen { folder, left } = gateway.choose(&found);
        let shown = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match gateway.is_known(&shown) {
            Ok(true) => match gateway.lost_after(&shown) {
                Ok(None) => {}
                Ok(Some(newest)) => lines.push(format!(
                    "{shown} came with the image and is older than {newest}, which this gateway had before its data was reset: it is not imported hint: bring {newest} or a newer one"
                )),
                Err(error) => lines.push(format!("{shown} is not imported: {error}")),
            },
            Ok(false) => {
                lines.extend(left);
                lines.push(match gateway.import(&folder, Asked::ByStick, progress) {
                    Ok(imported) if imported.generation.is_none() => {
                        format!("{shown}: {}", imported.remarks.join("; "))
                    }
                    Ok(imported) => {
                        format!("{shown} is imported: {} refs, {} blobs", imported.refs, imported.blobs)
                    }
                    Err(error) => format!("{shown} is not imported: {error}"),
                });
            }
            Err(error) => lines.push(format!("{shown} is not imported: {error}")),
        }
    }
    lines
}

/// Waits until edge, the container runtime and kubelet are up, and were for as long as `steady`; the cloud is not asked.
/// `Ok(Err)` says what was not when time was up.
///
/// kubelet says that it is well as soon as it listens, and may end seconds later over what the system lacks, again and
/// again: one look does not see it.
///
/// # Errors
/// The runtime's endpoint is none.
pub async fn healthy(
    config: &Config,
    timeout: Duration,
    steady: Duration,
) -> Result<Result<(), String>, TaskError> {
    let runtime = cri::Runtime::new(&config.runtime).map_err(TaskError::usage)?;
    let end = Instant::now() + timeout;
    let mut since = None;
    loop {
        let looked = async {
            edge_is_up(config).await?;
            let answer = runtime.readiness().await.map_err(|e| e.to_string())?;
            let ready = match answer.network {
                // A plugin that runs as a pod writes its own, and no other system would do better with that.
                Err(why) if has_other_network(&config.system.root.join(NETWORKS)) => {
                    tracing::warn!(why, "pods have no network yet");
                    answer.runtime
                }
                network => answer.runtime.and(network),
            };
            ready.map_err(|why| format!("the container runtime is not ready: {why}"))?;
            kubelet_is_up(config.pods.kubelet_healthz)
                .await
                .map_err(|why| format!("kubelet is not well: {why}"))
        };
        match looked.await {
            Ok(()) if since.get_or_insert_with(Instant::now).elapsed() >= steady => return Ok(Ok(())),
            Ok(()) => {}
            Err(why) if Instant::now() >= end => return Ok(Err(why)),
            Err(why) => {
                if since.take().is_some() {
                    tracing::warn!(why, "all parts were up, and one is not any more");
                }
            }
        }
        // Past the end it is only whether what is up stays so.
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(if since.is_some() { PACE } else { PACE.min(left) }).await;
    }
}

/// Whether there is another network for pods than the one that the appliance brings.
fn has_other_network(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .any(|name| name != OWN_NETWORK && (name.ends_with(".conf") || name.ends_with(".conflist")))
}

/// The daemon answers, its cache is not in trouble, and a cloud that is configured has its proxy. A disk that is full is told
/// and not judged: edge serves its copy, pods run, and the other system would have the same disk.
async fn edge_is_up(config: &Config) -> Result<(), String> {
    let asked = tokio::time::timeout(ANSWER, ask_status(&config.socket)).await;
    let report = asked.map_err(|_| "edge does not answer".to_owned())?.map_err(|e| e.to_string())?;
    let troubled = report.parts.iter().find(|part| part.part == "cache" && part.state == State::Trouble);
    if let Some(part) = troubled {
        let folder = config.state_dir.clone();
        let full = tokio::task::spawn_blocking(move || crate::cache::is_full(&folder)).await;
        if !full.unwrap_or(false) {
            return Err(format!("edge's cache: {}", part.message));
        }
        tracing::warn!(why = part.message, "the disk is full: no fault of this system");
    }
    match (&config.cloud.kubeconfig, &report.cloud) {
        (Some(path), None) => Err(format!("edge does not serve the cloud of `{}`", path.display())),
        _ => Ok(()),
    }
}

async fn kubelet_is_up(at: SocketAddr) -> Result<(), String> {
    let asked = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(format!("GET /healthz HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER, asked).await.map_err(|_| "it does not answer".to_owned())?;
    let answer = answer.map_err(|e| format!("`{at}`: {e}"))?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if first.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("`{at}` says `{first}`")) }
}
