//! How the configuration changes while edge runs: by a join or a leave, by a reload, and by what a snap's hook has
//! prepared and snapd has committed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use nix::libc::O_NONBLOCK;

use super::prepared::{self, Settling, Verdict};
use super::{Daemon, DaemonError, Order, accepted, membership};
use crate::config::{Config, KEYS, Key, is_at_start};

impl Daemon {
    /// The configuration names a cloud now: the proxy begins, or goes on with the credentials that it finds.
    pub(super) async fn join(&mut self) -> Result<(), DaemonError> {
        self.take_cloud()?;
        self.door.open(&self.config).await
    }

    /// The configuration names no cloud any more.
    pub(super) async fn leave(&mut self) -> Result<(), DaemonError> {
        self.take_cloud()?;
        self.door.leave(&self.config).await
    }

    fn take_cloud(&mut self) -> Result<(), DaemonError> {
        let mut new = Config::load(&self.overrides)?;
        self.config.cloud.clone_from(&new.cloud);
        self.taken();
        self.place.set_config(self.config.clone());
        self.waits.send_replace(hold(&self.config, &mut new));
        Ok(())
    }

    /// The configuration of today is good.
    fn taken(&self) {
        self.refused.send_replace(None);
        accepted::keep(&self.overrides, &self.config);
    }

    /// Keeps a configuration that snapd may yet refuse; the one that waited before is forgotten.
    pub(super) fn prepare(&mut self, text: &str) -> Result<(), String> {
        let defaults = self.overrides.defaults();
        let wanted = Config::parse_over(defaults.clone(), text).map_err(|e| e.to_string())?;
        if self.overrides.snap.is_none() {
            return Err("nothing is prepared outside a snap hint: `edge config set` changes edge.toml".into());
        }
        if self.has(&wanted, text) {
            return Ok(());
        }
        let written = prepared::in_force(&defaults).ok().flatten();
        allowed(&wanted, [Some(&self.config), written.as_ref()])?;
        prepared::stage(&defaults.file, text).map_err(|e| e.to_string())?;
        self.settle_what_waits();
        Ok(())
    }

    /// Whether `wanted`, which `text` says, is what the file holds and what was read of it last, and nothing else waits.
    fn has(&self, wanted: &Config, text: &str) -> bool {
        let defaults = self.overrides.defaults();
        let is_written = prepared::in_force(&defaults).is_ok_and(|held| held.as_ref() == Some(wanted));
        let is_alone = prepared::waiting(&defaults.file).is_ok_and(|waiting| waiting.is_none());
        let is_read = || {
            Config::load_text(&self.overrides, text).is_ok_and(|mut new| {
                let held = hold(&self.config, &mut new);
                new == self.config && held == *self.waits.borrow()
            })
        };
        is_written && is_alone && is_read()
    }

    /// Waits beside for snapd's word on the configuration that waits, if one does.
    pub(super) fn settle_what_waits(&mut self) {
        let Some(snap) = self.overrides.snap.clone() else { return };
        let defaults = self.overrides.defaults();
        let text = match prepared::waiting(&defaults.file) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, "a prepared configuration cannot be read"),
        };
        let wanted = match Config::parse_over(defaults.clone(), &text) {
            Ok(wanted) => wanted,
            Err(error) => return tracing::error!(%error, "a prepared configuration is damaged"),
        };
        let orders = self.orders.clone();
        let mut settling = Settling::new(snap, defaults, wanted);
        let task = tokio::spawn(async move {
            loop {
                let verdict = settling.next().await;
                let goes_on = matches!(verdict, Verdict::Meanwhile(_));
                if orders.send(Order::Settled(text.clone(), verdict)).await.is_err() || !goes_on {
                    return;
                }
            }
        });
        if let Some(before) = self.settling.replace(task.abort_handle()) {
            before.abort();
        }
    }

    pub(super) async fn settled(&mut self, text: &str, verdict: Verdict) {
        let file = self.overrides.file();
        // Another one may have been prepared since.
        if !prepared::waiting(&file).is_ok_and(|waiting| waiting.as_deref() == Some(text)) {
            return;
        }
        let is_last = !matches!(verdict, Verdict::Meanwhile(_));
        let found = match verdict {
            Verdict::Committed(found) | Verdict::Meanwhile(found) => Some(*found),
            Verdict::Other(found) => {
                tracing::warn!("a prepared configuration is dropped: snapd did not commit it");
                found.inspect_err(|why| tracing::warn!(why, "what snapd did commit cannot be taken")).ok()
            }
        };
        let text = found.and_then(|found| self.follow(found));
        if text.is_none() && !is_last {
            return;
        }
        let settled = match text {
            Some(text) => prepared::put(&file, &text),
            None => Ok(()),
        };
        let settled = settled.and_then(|()| if is_last { prepared::drop_waiting(&file) } else { Ok(()) });
        let applied = match settled {
            Ok(()) => self.reload().await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match applied {
            Ok(()) => tracing::info!("the configuration that snapd committed is in force"),
            Err(error) => tracing::error!(%error, "not all of what snapd committed is in force"),
        }
    }

    /// The text of what snapd has committed, if that is not in the file. Of the cloud, what was joined or left counts.
    fn follow(&self, mut found: Config) -> Option<String> {
        let in_force = prepared::in_force(&self.overrides.defaults()).ok().flatten();
        if let Some(why) = membership::follow(&mut found, in_force.as_ref()) {
            tracing::warn!("{why}");
        }
        (in_force.as_ref() != Some(&found)).then(|| prepared::text_of(&found))
    }

    /// Reads the configuration anew and applies what can be applied while running.
    pub(super) async fn reload(&mut self) -> Result<(), DaemonError> {
        let mut new = Config::load(&self.overrides)?;
        tell_ignored(&new);
        let held = hold(&self.config, &mut new);
        for name in &held {
            tracing::warn!(setting = name, "changed: takes effect when edge is started the next time");
        }
        self.waits.send_replace(held);
        self.config = new;
        self.taken();
        self.pins.set(&self.config);
        self.pods.set(&self.config);
        self.registry.set(&self.config);
        self.place.set_config(self.config.clone());
        self.upkeep.set(&self.config.registry);
        if let Some(node) = &self.node {
            node.set(&self.config.node);
        }
        // Last: on a full disk it fails, and for a slow reader it waits, which is nothing to all else.
        match self.door.proxy() {
            Some(proxy) => {
                proxy.set_offline_mode(self.config.offline_mode).await.map_err(DaemonError::Forget)
            }
            None => Ok(()),
        }
    }
}

/// Refuses what names a file anew that this process may not read, as a strict snap most of the host's. The hook cannot
/// know: it has none of the daemon's plugs. One that is not there may come later.
fn allowed(wanted: &Config, held: [Option<&Config>; 2]) -> Result<(), String> {
    let held: Vec<_> = held.into_iter().flatten().flat_map(Config::files).collect();
    let denied = |(key, path): (&str, PathBuf)| {
        // A pipe would let an opening without it wait for ever.
        let opened = File::options().read(true).custom_flags(O_NONBLOCK).open(&path);
        let error = opened.err().filter(|error| error.kind() == ErrorKind::PermissionDenied)?;
        Some(format!("`{key}`: cannot read `{}`: {error}", path.display()))
    };
    let mut denied = wanted.files().into_iter().filter(|named| !held.contains(named)).filter_map(denied);
    denied.next().map_or(Ok(()), Err)
}

/// Says of what is written in the configuration that it is of no use.
pub(super) fn tell_ignored(config: &Config) {
    for fault in config.mirror.ignored() {
        tracing::warn!(setting = fault.key, why = fault.why, "is ignored");
    }
}

/// Leaves what cannot change while edge runs as it was: [`crate::config::AT_START`]. The keys that were to change.
fn hold(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let is_to_change = |key: &&Key| {
        let value = |config: &Config| config.get(key.path).ok().flatten().map(|value| value.to_string());
        is_at_start(key.path) && value(old) != value(new)
    };
    let held = KEYS.iter().filter(is_to_change).map(|key| key.path).collect();
    new.state_dir.clone_from(&old.state_dir);
    new.socket.clone_from(&old.socket);
    new.cloud.clone_from(&old.cloud);
    new.proxy.clone_from(&old.proxy);
    new.runtime.endpoint.clone_from(&old.runtime.endpoint);
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_what_people_are_told_waits_for_a_start() {
        let old = Config::default();
        for key in KEYS {
            let (section, name) = key.split();
            // Any other value will do; some kinds of keys take none of these.
            let values = [
                "true",
                "false",
                "7",
                "\"127.0.0.1:7\"",
                "\"169.254.7.7:7\"",
                "\"/x\"",
                "\"7s\"",
                "\"7h\"",
                "\"7MiB\"",
                "\"7MiB/s\"",
                "[\"x\"]",
                "[\"agent:x\"]",
                "[\"x.y\"]",
                "[\"/x\"]",
                "\"unix:///x\"",
                "\"x\"",
                "\"after-import\"",
            ];
            let texts = values.iter().map(|value| match section {
                "" => format!("{name} = {value}\n"),
                section => format!("[{section}]\n{name} = {value}\n"),
            });
            let mut others =
                texts.filter_map(|text| Config::parse(&old.file, &text).ok()).filter(|new| *new != old);
            let Some(mut new) = others.next() else {
                // Tables, and keys that go with others.
                assert!(!is_at_start(key.path), "{}", key.path);
                continue;
            };
            let wanted = new.clone();
            let held = hold(&old, &mut new);
            let expected = Vec::from_iter(is_at_start(key.path).then_some(key.path));
            assert_eq!(held, expected);
            assert_eq!(new == wanted, held.is_empty(), "{}", key.path);
        }
    }
}
