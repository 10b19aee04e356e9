//! Where a container's log lies: `ROOT/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`, and beside it what was rotated:
//! `ATTEMPT.log.TIME`, later `ATTEMPT.log.TIME.gz`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use super::Error;

/// The log folder of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFolder {
    pub(super) path: PathBuf,
    pub(super) container: String,
}

/// A file of a log, held open: it can be read to its end, whatever becomes of its name.
pub(super) struct Piece {
    pub(super) path: PathBuf,
    file: File,
    /// Device and inode.
    pub(super) identity: (u64, u64),
}

impl Piece {
    /// None where there is no such file.
    pub(super) fn open(path: PathBuf) -> Result<Option<Self>, Error> {
        let found = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match found {
            Ok((meta, file)) => Ok(Some(Self { path, file, identity: (meta.dev(), meta.ino()) })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// What the container wrote, unpacked.
    pub(super) fn reader(&self) -> Box<dyn Read + '_> {
        match self.path.extension() {
            Some(e) if e == "gz" => Box::new(MultiGzDecoder::new(&self.file)),
            _ => Box::new(&self.file),
        }
    }
}

/// How often a log that is rotated while it is opened is opened anew.
const ATTEMPTS: u32 = 20;

/// Which run of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Current,
    /// The one before it.
    Previous,
}

impl Which {
    /// The run that has ended last, by what a merged pod says of the container: the newest of one that waits to be started
    /// again, else the one before.
    pub fn previous(pod: &Value, container: &str) -> Self {
        let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
        let mut statuses =
            lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
        let status = statuses.find(|status| status["name"] == container);
        let newest_ended = |status: &Value| {
            status["state"]["waiting"].is_object() && status["lastState"]["terminated"].is_object()
        };
        if status.is_some_and(newest_ended) { Self::Current } else { Self::Previous }
    }
}

impl LogFolder {
    /// Under `root` (`/var/log/pods`), for a pod by the uid under which the kubelet runs it.
    pub fn new(root: &Path, namespace: &str, name: &str, uid: &str, container: &str) -> Self {
        let path = root.join(format!("{namespace}_{name}_{uid}")).join(container);
        Self { path, container: container.to_owned() }
    }

    /// The number of the attempt.
    pub(super) fn attempt(&self, which: Which) -> Result<u32, Error> {
        let mut attempts: Vec<u32> = self.names()?.iter().filter_map(|n| attempt_of(n)).collect();
        attempts.sort_unstable();
        attempts.dedup();
        let newest = attempts.pop().ok_or_else(|| self.no_log())?;
        match which {
            Which::Current => Ok(newest),
            Which::Previous => {
                attempts.pop().ok_or_else(|| Error::NoPrevious { container: self.container.clone() })
            }
        }
    }

    /// The files of an attempt, oldest first; the last one is written to. All are of one moment: where the kubelet
    /// renamed, packed or removed one meanwhile, they are opened again, or lines would be missing or there twice.
    pub(super) fn open(&self, attempt: u32) -> Result<Vec<Piece>, Error> {
        let mut names = self.files(attempt)?;
        for _ in 0..ATTEMPTS {
            let pieces = names.iter().cloned().filter_map(|path| Piece::open(path).transpose());
            let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
            let now = self.files(attempt)?;
            if now == names {
                return Ok(pieces);
            }
            names = now;
        }
        Err(Error::Restless { container: self.container.clone() })
    }

    fn files(&self, attempt: u32) -> Result<Vec<PathBuf>, Error> {
        let current = format!("{attempt}.log");
        let mut rotated: Vec<String> = Vec::new();
        for name in self.names()? {
            // While a file is being compressed it is there as `….tmp`, too.
            let is_rotated = name.strip_prefix(&current).is_some_and(|rest| rest.starts_with('.'));
            if is_rotated && !name.ends_with(".tmp") {
                rotated.push(name);
            }
        }
        rotated.sort_unstable();
        // A name and the same compressed: the first is about to be removed.
        let compressed: Vec<String> =
            rotated.iter().filter_map(|n| n.strip_suffix(".gz")).map(str::to_owned).collect();
        rotated.retain(|name| !compressed.contains(name));
        Ok(rotated.into_iter().chain([current]).map(|name| self.path.join(name)).collect())
    }

    /// The file that is written to.
    pub(super) fn current(&self, attempt: u32) -> PathBuf {
        self.path.join(format!("{attempt}.log"))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => self.no_log(),
            _ => Error::Read { path: self.path.clone(), source },
        };
        let entries = std::fs::read_dir(&self.path).map_err(failed)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }

    fn no_log(&self) -> Error {
        let folder = self.path.parent().unwrap_or(&self.path).to_path_buf();
        Error::NoLog { container: self.container.clone(), folder }
    }
}

/// The pod of this name whose log was written last, and its folder under `root`: with its uid and the names of its
/// containers, which is all that folders tell.
///
/// # Errors
/// [`Error::Read`].
pub fn left_behind(root: &Path, namespace: &str, name: &str) -> Result<Option<(PathBuf, Value)>, Error> {
    let prefix = format!("{namespace}_{name}_");
    let pods = folders(root)?.into_iter().filter_map(|(path, folder)| {
        let uid = folder.strip_prefix(&prefix)?.to_owned();
        Some((path, uid))
    });
    let mut found = Vec::new();
    for (path, uid) in pods {
        let mut containers = Vec::new();
        for (folder, container) in folders(&path)? {
            let log = LogFolder { path: folder, container: container.clone() };
            let written = log.attempt(Which::Current).ok().map(|attempt| log.current(attempt));
            let at = written.and_then(|file| file.metadata().and_then(|meta| meta.modified()).ok());
            containers.extend(at.map(|at| (at, container)));
        }
        found.extend(containers.iter().map(|(at, _)| *at).max().map(|at| (at, path, uid, containers)));
    }
    let newest = found.into_iter().max_by_key(|(at, ..)| *at);
    Ok(newest.map(|(_, path, uid, mut containers)| {
        containers.sort_by(|(_, a), (_, b)| a.cmp(b));
        let containers: Vec<Value> = containers.into_iter().map(|(_, name)| json!({"name": name})).collect();
        let metadata = json!({"namespace": namespace, "name": name, "uid": uid});
        (path, json!({"metadata": metadata, "spec": {"containers": containers}}))
    }))
}

/// The folders in `path`, with their names; none where there is no `path`.
fn folders(path: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Read { path: path.to_path_buf(), source }),
    };
    let folder = |entry: std::fs::DirEntry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        Some((entry.path(), entry.file_name().into_string().ok()?)).filter(|_| is_folder)
    };
    Ok(entries.filter_map(|entry| folder(entry.ok()?)).collect())
}

fn attempt_of(name: &str) -> Option<u32> {
    let (attempt, rest) = name.split_once('.')?;
    (rest == "log" || rest.starts_with("log.")).then(|| attempt.parse().ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_pods_that_nobody_tells_of_the_one_that_wrote_last_is_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, minute: u64| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(path).unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(60 * minute);
            file.set_modified(at).unwrap();
        };
        for (path, minute) in [
            ("ns_web_old/main/0.log", 5),
            ("ns_web_new/side/3.log", 1),
            ("ns_web_new/main/0.log", 9),
            ("ns_web_new/main/0.log.20260101-000000.gz", 2),
            ("ns_web_empty/main/no-log", 50),
            ("ns_web-2_other/main/0.log", 60),
            ("other_web_other/main/0.log", 60),
        ] {
            write(path, minute);
        }
        let (path, pod) = left_behind(root.path(), "ns", "web").unwrap().unwrap();
        assert_eq!(path, root.path().join("ns_web_new"));
        assert_eq!(pod["metadata"], json!({"namespace": "ns", "name": "web", "uid": "new"}));
        assert_eq!(pod["spec"]["containers"], json!([{"name": "main"}, {"name": "side"}]));
        assert_eq!(left_behind(root.path(), "ns", "db").unwrap(), None);
        assert_eq!(left_behind(&root.path().join("none"), "ns", "web").unwrap(), None);
    }

    #[test]
    fn the_previous_run_of_one_that_waits_is_its_newest() {
        let (ended, waits) = (json!({"terminated": {"exitCode": 3}}), json!({"waiting": {}}));
        let pod = |state: &Value, last: &Value| json!({"status": {"containerStatuses": [{"name": "main", "state": state, "lastState": last}]}});
        let runs = json!({"running": {}});
        for (state, last, which) in [
            (&waits, &ended, Which::Current),
            (&runs, &ended, Which::Previous),
            (&ended, &ended, Which::Previous),
            (&waits, &json!({}), Which::Previous),
        ] {
            assert_eq!(Which::previous(&pod(state, last), "main"), which, "{state} {last}");
        }
        assert_eq!(Which::previous(&json!({}), "main"), Which::Previous);
    }
}
