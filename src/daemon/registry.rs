//! The registry's place in the daemon. It is not core: whatever happens to it, the proxy goes on.
//!
//! While nobody asks, there is only a bound port. With the first connection a runtime of its own starts, so that a
//! slow disk or a slow client holds no thread that the proxy needs; the store is opened then, and both go when nobody
//! was connected for a while. A port that is taken, a store that cannot be opened or a file that cannot be read
//! is reported and tried again.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::task::{Place, blocking};
use crate::config::Config;
use crate::health::{Board, Part};
use crate::link::LinkState;
use crate::registry::{Identity, Registry, Settings, Sources, name_and_port};
use crate::store::Door;
use crate::trust::ca::LocalCa;

/// How long nobody was connected when the store is let go.
const IDLE: Duration = Duration::from_secs(120);
/// The first pause after a failure; each is twice the one before.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST: Duration = Duration::from_secs(60);
/// How long requests under way may take at the end of the daemon.
const DRAIN: Duration = Duration::from_secs(4);

/// The running task.
pub struct RegistryTask {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

/// What is to be served. Two are the same if nothing in the files that settings name has changed either.
#[derive(Clone, PartialEq)]
struct Wanted {
    settings: Settings,
    files: Vec<Option<SystemTime>>,
}

impl Wanted {
    fn of(config: &Config) -> Self {
        let settings = config.registry.clone();
        let changed =
            |path: &std::path::PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let files = settings.files().into_iter().map(changed).collect();
        Self { settings, files }
    }
}

impl RegistryTask {
    /// Starts it; what goes wrong is on the board.
    pub fn start(
        config: &Config,
        place: &Arc<Place>,
        link: Option<watch::Receiver<LinkState>>,
        board: &Board,
    ) -> Self {
        let (wanted, asked) = watch::channel(Wanted::of(config));
        let pki = config.state_dir.join("pki");
        let shop = Shop { door: place.door().clone(), state_dir: config.state_dir.clone(), pki, link };
        let task = tokio::spawn(keep(shop, asked, board.part("registry")));
        Self { wanted, task }
    }

    /// Takes a changed configuration, at once.
    pub fn set(&self, config: &Config) {
        let new = Wanted::of(config);
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != new;
            *wanted = new;
            changed
        });
    }

    /// Ends it; requests under way may finish.
    pub async fn stop(self) {
        drop(self.wanted);
        let _ = tokio::time::timeout(DRAIN, self.task).await;
    }
}

/// What it works with.
struct Shop {
    door: Door,
    pki: std::path::PathBuf,
    state_dir: std::path::PathBuf,
    link: Option<watch::Receiver<LinkState>>,
}

async fn keep(shop: Shop, mut wanted: watch::Receiver<Wanted>, part: Part) {
    let (mut bound, mut running, mut pause) = (None, None, FIRST);
    let mut last: Option<Settings> = None;
    loop {
        let asked = wanted.borrow_and_update().settings.clone();
        // What is wrong with a file is told now and not to the first client.
        let refused = Registry::check(&asked).err().map(|error| error.to_string());
        let older = match &refused {
            Some(_) => last.as_ref().and_then(|last| before(last, &asked)),
            None => None,
        };
        if refused.is_none() {
            last = Some(asked.clone());
        }
        let goes_on = older.is_some();
        let settings = older.unwrap_or_else(|| asked.clone());
        let served = tokio::select! {
            served = serve(&shop, &settings, refused.as_deref(), &mut bound, &mut running, &part) => served,
            () = put_right(&asked), if goes_on => {
                running = None;
                pause = FIRST;
                continue;
            }
            changed = wanted.changed() => {
                let old: Option<Running> = running.take();
                if changed.is_err() {
                    if let Some(old) = old {
                        old.finish().await;
                    }
                    return;
                }
                // The old one lets its requests finish, while the new one takes the next.
                pause = FIRST;
                continue;
            }
        };
        let Err(why) = served else {
            pause = FIRST;
            continue;
        };
        part.trouble(why);
        // Whoever asks meanwhile is refused at once, and goes on to the next registry.
        bound = None;
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST),
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// What goes on being served while a file that `asked` names cannot be used: `last`, where that still can. Nobody may write
/// meanwhile by rules that are to change, and nobody connects where nobody is to.
fn before(last: &Settings, asked: &Settings) -> Option<Settings> {
    // To the network it may go with what is asked for alone, such as TLS.
    if asked.listen != last.listen && !asked.listen.ip().is_loopback() {
        return None;
    }
    let writers = |settings: &Settings| {
        let Settings { push, insecure_loopback_push, htpasswd, tokens, .. } = settings.clone();
        (push, insecure_loopback_push, htpasswd, tokens)
    };
    let older =
        Settings { listen: asked.listen, push: last.push && writers(last) == writers(asked), ..last.clone() };
    Registry::check(&older).is_ok().then_some(older)
}

/// Waits until the files that settings name can be used.
async fn put_right(settings: &Settings) {
    let mut pause = FIRST;
    while Registry::check(settings).is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST);
    }
}

/// Waits for the first connection, then serves until nobody was connected for a while. `refused` is what is wrong with the
/// settings that were asked for, where these are others.
async fn serve(
    shop: &Shop,
    settings: &Settings,
    refused: Option<&str>,
    bound: &mut Option<(SocketAddr, TcpListener)>,
    running: &mut Option<Running>,
    part: &Part,
) -> Result<(), String> {
    if bound.as_ref().is_none_or(|(address, _)| *address != settings.listen) {
        *bound = None;
        *bound = Some((settings.listen, bind(settings.listen)?));
    }
    let Some((_, listener)) = bound else { return Ok(()) };
    let clone = || listener.try_clone().map_err(|e| format!("cannot share the port: {e}"));
    Registry::check(settings).map_err(|e| e.to_string())?;
    let identity = shop.identity(settings)?;
    if shop.door.is_used() {
        let door = shop.door.clone();
        blocking(move || door.open().map(drop).map_err(super::task::TaskError::failed))
            .await
            .map_err(|e| e.to_string())?;
    }
    let address = listener.local_addr().map_or(settings.listen, |bound| bound);
    match refused {
        Some(why) => part.trouble(format!("as it was set before, on {address}: {why}")),
        None => part.good_with(format!("on {address}")),
    }
    let failed = |e: std::io::Error| format!("cannot accept connections: {e}");
    let waiting = tokio::net::TcpListener::from_std(clone()?).map_err(failed)?;
    let (first, _) = waiting.accept().await.map_err(failed)?;
    drop(waiting);
    let first = first.into_std().map_err(failed)?;
    let started = running.insert(Running::start(shop, settings.clone(), identity, clone()?, first)?);
    let ended = (&mut started.done).await;
    *running = None;
    ended.unwrap_or_else(|_| Err("the registry ended unexpectedly".into()))
}

fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|e| {
        format!("cannot listen on `{address}`: {e} hint: stop the program that has this port, or set `registry.listen`")
    })
}

impl Shop {
    /// The certificate of edge's own authority, where settings ask for one.
    fn identity(&self, settings: &Settings) -> Result<Option<Identity>, String> {
        if !settings.local_certificate {
            return Ok(None);
        }
        let ca = LocalCa::open_or_create(&self.pki).map_err(|e| e.to_string())?;
        let mut names = vec!["127.0.0.1".to_owned(), "::1".into(), "localhost".into()];
        if !settings.listen.ip().is_unspecified() {
            names.push(settings.listen.ip().to_string());
        }
        let own =
            settings.own_hosts.iter().map(|host| name_and_port(host).0.trim_matches(['[', ']']).to_owned());
        names.extend(own);
        names.dedup();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let pair = ca.issue_server(&names).map_err(|e| e.to_string())?;
        Ok(Some(Identity { chain: pair.chain, key: pair.key }))
    }
}

/// A registry that serves on a thread of its own.
struct Running {
    /// Dropped, it ends.
    end: oneshot::Sender<()>,
    done: oneshot::Receiver<Result<(), String>>,
}

impl Running {
    fn start(
        shop: &Shop,
        settings: Settings,
        identity: Option<Identity>,
        listener: TcpListener,
        first: TcpStream,
    ) -> Result<Self, String> {
        let (end, ended) = oneshot::channel();
        let (tell, done) = oneshot::channel();
        let (door, link, state_dir) = (shop.door.clone(), shop.link.clone(), shop.state_dir.clone());
        let run = move || -> Result<(), String> {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .thread_name("registry")
                .worker_threads(2)
                .max_blocking_threads(16)
                .thread_stack_size(1 << 20)
                .enable_all()
                .build()
                .map_err(|e| format!("cannot start threads: {e}"))?;
            let served = runtime.block_on(async move {
                let store = door.open().map_err(|e| e.to_string())?;
                let registry = Registry::new(store, settings, identity).map_err(|e| e.to_string())?;
                let registry = registry.with_repositories(state_dir);
                let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| e.to_string())?;
                let first = tokio::net::TcpStream::from_std(first).map_err(|e| e.to_string())?;
                let following = link.map(|link| tokio::spawn(follow(link, registry.sources().clone())));
                let end = {
                    let registry = registry.clone();
                    async move {
                        tokio::select! {
                            _ = ended => {}
                            () = registry.idle(IDLE) => {}
                        }
                    }
                };
                let served = registry.serve(listener, Some(first), end).await.map_err(|e| e.to_string());
                if let Some(following) = following {
                    following.abort();
                }
                served
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
            served
        };
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                // Nobody waits any more at the end of the daemon.
                let _ = tell.send(run());
            })
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(Self { end, done })
    }

    /// Ends it, and waits until its requests are finished.
    async fn finish(self) {
        drop(self.end);
        let _ = self.done.await;
    }
}

/// Tells the upstreams' keeper whether the cloud is there.
async fn follow(mut link: watch::Receiver<LinkState>, sources: Sources) {
    loop {
        sources.set_online(!link.borrow_and_update().phase.is_outage());
        if link.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_to_this_machine_alone_goes_to_the_network_with_what_is_asked_for_it_only() {
        let last = Settings { listen: ([127, 0, 0, 1], 5000).into(), ..Settings::default() };
        let asked = |listen: &str| Settings {
            listen: listen.parse().unwrap(),
            tls_certificate: Some("/nowhere/tls.crt".into()),
            tls_key: Some("/nowhere/tls.key".into()),
            ..last.clone()
        };
        assert!(before(&last, &asked("127.0.0.1:5000")).is_some());
        assert!(before(&last, &asked("127.0.0.1:5001")).is_some());
        assert!(before(&last, &asked("0.0.0.0:5000")).is_none());
    }
}
