//! On an appliance, the `edge.toml` that each of its systems took last: where today's is refused, what runs goes on with that.
//! A newer system's key is unknown to the one that it falls back to, and a slip of the pen is found at the next boot, when
//! nobody may be there; pods start all the same, and the refusal is told.
//!
//! A system that never took any refuses as every edge does: it may be new, and the other one is the better then.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, Overrides};
use crate::proxy::join::Record;
use crate::sys::durable;
use crate::system::{self, Places};

/// One file for each slot; its first line says which system wrote it.
const FOLDER: &str = "/var/etc/edge/accepted";

/// The configuration to start with.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Why it is not today's.
    pub refused: Option<String>,
}

/// Reads today's configuration; where that is refused, the one that this system took last.
///
/// # Errors
/// Those of [`Config::load`], where there is no other.
pub fn load(overrides: &Overrides) -> Result<Loaded, config::Error> {
    let error = match Config::load(overrides) {
        Ok(config) => return Ok(Loaded { config, refused: None }),
        Err(error) => error,
    };
    let places = Places::below(overrides.system_root.as_deref().unwrap_or(Path::new("/")));
    let kept = read(&places).and_then(|text| Config::load_text(overrides, &text).ok());
    let Some(mut config) = kept else { return Err(error) };
    // What was joined or left since; kubelet goes by the same note.
    match Record::read(&config.state_dir) {
        Ok(Some(record)) => config.cloud.kubeconfig = Some(record.cloud_kubeconfig.path),
        _ => config.cloud.kubeconfig = config.cloud.kubeconfig.filter(|path| path.exists()),
    }
    let refused =
        format!("the configuration is refused, and the last one that this system took holds: {error}");
    Ok(Loaded { config, refused: Some(refused) })
}

/// Keeps what was taken, on an appliance.
pub(super) fn keep(overrides: &Overrides, config: &Config) {
    let places = Places::below(&config.system.root);
    let Some((path, head)) = place(&places) else { return };
    let today = match std::fs::read_to_string(&config.file) {
        Ok(today) => today,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return tracing::warn!(%error, "no copy of the configuration is kept"),
    };
    let text = head + &today;
    // Somebody may have changed it since it was read.
    let is_good = Config::load_text(overrides, &text).is_ok();
    if !is_good || std::fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
        return;
    }
    let folder = places.at(FOLDER);
    let written =
        durable::folder(&folder, 0o700).and_then(|()| durable::write(&path, text.as_bytes(), 0o600));
    if let Err(error) = written {
        tracing::warn!(%error, "no copy of the configuration is kept");
    }
}

fn read(places: &Places) -> Option<String> {
    let (path, head) = place(places)?;
    std::fs::read_to_string(path).ok().filter(|text| text.starts_with(&head))
}

/// Where the system that runs keeps it, and the line that it begins with; `None` on other machines.
fn place(places: &Places) -> Option<(PathBuf, String)> {
    let slot = places.booted().ok()?;
    let system = system::running(places).ok()??;
    Some((places.at(FOLDER).join(format!("{slot}.toml")), format!("# Taken by the system {system}.\n")))
}
