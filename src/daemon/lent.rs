//! The files that a command names, where the daemon sees another file system than whoever typed it: systemd gives it a
//! `/tmp` of its own, hides `/home` and lets it write nowhere else.
//!
//! With a task comes an open handle of every file and folder that it names, or of the folder in which it is to be made.
//! A daemon that has the command's view of the file system goes by the paths; another goes by the handles, through
//! `/proc/self/fd`. What it says then names the paths as they were given.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bundle::{Create, Order};
use super::stores::StoreTask;
use super::task::{Task, TaskError};
use crate::bundle;
use crate::sys::descriptors;
use crate::sys::pass;
use crate::sys::progress::Event;
use crate::sys::service::Service;

/// Where a process finds its own handles.
const HANDLES: &str = "/proc/self/fd/";

/// What comes with a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Offer {
    /// What the command sees of the file system: [`pass::view`].
    view: Option<String>,
    /// What was opened, an absolute path for each handle.
    opened: Vec<PathBuf>,
}

/// What a task does with a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Reads that file, or folder, and nothing beside it.
    Source,
    /// Reads a bundle there, and writes a receipt on its stick.
    Stick,
    /// Makes it, or something in it.
    Target,
}

/// Shows `each` all paths in a task that are the caller's. Those of `edge join` are not among them: they are kept, and
/// the daemon itself reads them later.
fn paths(task: &mut Task, each: &mut dyn FnMut(&mut PathBuf, Use)) {
    match task {
        Task::Store(StoreTask::ImageImport { path, .. }) => each(path, Use::Source),
        Task::Store(StoreTask::ImageExport { path, .. }) => each(path, Use::Target),
        Task::Store(StoreTask::ChartAdd { path, provenance, .. }) => {
            each(path, Use::Source);
            provenance.iter_mut().for_each(|path| each(path, Use::Source));
        }
        Task::Bundle { order } => match order {
            Order::Create(create) => {
                let Create { keys, passphrase_file, to, files, receipts, system, .. } = &mut **create;
                each(keys, Use::Source);
                each(to, Use::Target);
                passphrase_file.iter_mut().chain(receipts).for_each(|path| each(path, Use::Source));
                files.iter_mut().for_each(|file| each(&mut file.path, Use::Source));
                system.iter_mut().for_each(|path| each(path, Use::Source));
            }
            Order::Import { folder } => each(folder, Use::Stick),
            Order::Inspect { folder, root } | Order::Verify { folder, root } => {
                each(folder, Use::Stick);
                root.iter_mut().for_each(|path| each(path, Use::Source));
            }
            Order::Extract { folder, to, root, .. } => {
                each(folder, Use::Stick);
                each(to, Use::Target);
                root.iter_mut().for_each(|path| each(path, Use::Source));
            }
            Order::Pin { file } => each(file, Use::Source),
            Order::Enrol { receipt } => each(receipt, Use::Source),
            Order::History { .. } | Order::Rollback { .. } | Order::Show => {}
        },
        Task::Store(
            StoreTask::ImagePull { .. }
            | StoreTask::ImageRemove { .. }
            | StoreTask::ChartRemove { .. }
            | StoreTask::Verify { .. },
        )
        | Task::Gc { .. }
        | Task::Mirror(_)
        | Task::Join(_)
        | Task::Leave { .. }
        | Task::System(_) => {}
    }
}

/// What is opened for a path: itself, as far as it is there and nothing beside it counts, else the folder above.
fn handle_of(path: &Path, used: Use) -> PathBuf {
    let is_here = match used {
        Use::Source => path.exists(),
        Use::Stick | Use::Target => path.is_dir(),
    };
    let at = match used {
        Use::Stick => top_of_stick(path),
        _ => path,
    };
    if is_here {
        return at.to_owned();
    }
    let above = path.ancestors().skip(1).find(|folder| folder.is_dir());
    above.unwrap_or(Path::new("/")).to_owned()
}

/// The folder in which bundles and receipts lie, of a stick, of its folder of bundles, or of a bundle in that.
fn top_of_stick(path: &Path) -> &Path {
    let is_bundles = |folder: &&Path| folder.file_name().is_some_and(|name| name == bundle::BUNDLES);
    let bundles = Some(path).filter(is_bundles).or_else(|| path.parent().filter(is_bundles));
    bundles.and_then(Path::parent).unwrap_or(path)
}

/// Opens what `task` names.
///
/// # Errors
/// What cannot be opened, with its path.
pub(super) fn offer(task: &Task) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut opened = BTreeSet::new();
    paths(&mut task.clone(), &mut |path, used| {
        opened.insert(handle_of(path, used));
    });
    // Each takes a descriptor, of which a shell grants few. What is too much all the same is told where it is opened.
    if let Err(error) = descriptors::raise() {
        tracing::debug!(%error, "no more files can be opened than before");
    }
    // Only a place: nothing is read, and a pipe does not wait.
    let place = |path: &PathBuf| {
        open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| crate::sys::durable::named(e.into(), "open", path))
    };
    let handles = opened.iter().map(place).collect::<io::Result<_>>()?;
    Ok((Offer { view: pass::view(), opened: opened.into_iter().collect() }, handles))
}

/// The handles of a task that the daemon goes by, for as long as any of its work lasts.
#[derive(Debug)]
pub(super) struct Lent(BTreeMap<PathBuf, OwnedFd>);

impl Lent {
    /// Turns the paths of `task` into those by which this process finds what came with it. `None` where its own are the
    /// same.
    ///
    /// # Errors
    /// A line, where not everything came.
    pub(super) fn take(offer: Offer, handles: Vec<OwnedFd>, task: &mut Task) -> Result<Option<Self>, String> {
        if offer.view == pass::view() {
            return Ok(None);
        }
        if offer.opened.len() != handles.len() {
            let stop = Service::Edge.stop();
            return Err(format!(
                "the daemon sees other files than you, and yours did not reach it hint: `{stop}`, and run this again"
            ));
        }
        let lent = Self(offer.opened.into_iter().zip(handles).collect());
        paths(task, &mut |path, _| *path = lent.place(path));
        Ok(Some(lent))
    }

    /// Where this process finds what lies at `path`.
    fn place(&self, path: &Path) -> PathBuf {
        let within = |at: &Path| Some((self.0.get(at)?, path.strip_prefix(at).ok()?));
        let Some((handle, rest)) = path.ancestors().find_map(within) else { return path.to_owned() };
        let own = PathBuf::from(format!("{HANDLES}{}", handle.as_raw_fd()));
        let is_folder = fstat(handle).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        match (rest.as_os_str().is_empty(), is_folder) {
            (false, _) => own.join(rest),
            // The handle itself looks like a link to whoever does not follow one.
            (true, true) => own.join("."),
            (true, false) => own,
        }
    }

    /// A text with the paths as they were given.
    pub(super) fn told(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(HANDLES) {
            out.push_str(before);
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let number = after[..digits].parse();
            let known = self.0.iter().find(|(_, handle)| number == Ok(handle.as_raw_fd()));
            rest = &after[digits..];
            let Some((given, _)) = known else {
                let _ = write!(out, "{HANDLES}{}", &after[..digits]);
                continue;
            };
            // The folder itself, and not a hidden name in it.
            if let Some(further) = rest.strip_prefix("/.")
                && !further.starts_with(|c: char| c.is_alphanumeric() || "._-".contains(c))
            {
                rest = further;
            }
            let given = given.display().to_string();
            out.push_str(if rest.starts_with('/') { given.trim_end_matches('/') } else { &given });
        }
        out + rest
    }

    /// A result with the paths as they were given.
    pub(super) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.told(&text)),
            Value::Array(many) => many.into_iter().map(|one| self.value(one)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (key, self.value(value))).collect()
            }
            other => other,
        }
    }

    /// An event with the paths as they were given.
    pub(super) fn event(&self, event: Event) -> Event {
        match event {
            Event::Note { line } => Event::Note { line: self.told(&line) },
            Event::Item { id, name, done, total, unit, stage } => {
                Event::Item { id, name: self.told(&name), done, total, unit, stage }
            }
        }
    }

    /// An error with the paths as they were given, and with what to do where the daemon may do less than whoever asked.
    pub(super) fn error(&self, error: TaskError) -> TaskError {
        let mut message = self.told(&error.message);
        let kept = ["Permission denied", "Read-only file system"].iter().any(|why| message.contains(why));
        if kept && !message.contains(" hint: ") {
            let stop = Service::Edge.stop();
            message +=
                &format!(" hint: the daemon does it, and may do less than you: `{stop}`, and run this again");
        }
        TaskError { message, ..error }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;

    /// What was offered, as if it came from elsewhere.
    fn taken(task: &mut Task) -> Lent {
        let (offer, handles) = offer(task).unwrap();
        Lent::take(Offer { view: Some("another".into()), ..offer }, handles, task).unwrap().unwrap()
    }

    #[test]
    fn each_path_is_found_by_its_handle_and_told_as_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let at = |below: &str| folder.path().join(below);
        std::fs::create_dir_all(at("stick/edge-bundle/main-1")).unwrap();
        std::fs::write(at("stick/edge-bundle/main-1/FORMAT"), "x").unwrap();
        std::fs::write(at("root.json"), "root").unwrap();
        let mut task = Task::Bundle {
            order: Order::Extract {
                folder: at("stick/edge-bundle/main-1"),
                name: "a".into(),
                to: at("new/a"),
                root: Some(at("root.json")),
            },
        };
        let given = format!("{task:?}");
        let lent = taken(&mut task);
        assert_eq!(lent.0.len(), 3);
        let mut found = Vec::new();
        paths(&mut task, &mut |path, _| found.push(path.clone()));
        assert!(found.iter().all(|path| path.starts_with(HANDLES)), "{found:?}");
        assert_eq!(std::fs::read(found[0].join("FORMAT")).unwrap(), b"x");
        // Receipts lie beside the folder of bundles.
        assert!(found[0].parent().unwrap().ends_with(bundle::BUNDLES), "{found:?}");
        std::fs::create_dir(found[1].parent().unwrap()).unwrap();
        assert!(at("new").is_dir());
        assert_eq!(std::fs::read(&found[2]).unwrap(), b"root");
        assert_eq!(lent.told(&format!("{task:?}")), given);
    }

    #[test]
    fn a_folder_itself_is_no_link_and_its_hidden_files_keep_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().to_owned();
        let mut task = Task::Store(StoreTask::ImageImport {
            path: to.clone(),
            called: None,
            name: None,
            platforms: Vec::new(),
        });
        let lent = taken(&mut task);
        let Task::Store(StoreTask::ImageImport { path, .. }) = task else { unreachable!() };
        assert!(path.symlink_metadata().unwrap().is_dir());
        let shown = |below: &str| lent.told(&format!("cannot read `{}`: x", path.join(below).display()));
        let wanted = |below: &str| format!("cannot read `{}`: x", to.join(below).display());
        for below in ["a", ".a.part", "a/b", "..a"] {
            assert_eq!(shown(below), wanted(below));
        }
        assert_eq!(
            lent.told(&format!("`{}` and {HANDLES}99999/x", path.display())),
            format!("`{}` and {HANDLES}99999/x", to.display())
        );
        let denied = lent.error(TaskError::failed(format!("`{}`: Permission denied", path.display())));
        assert!(
            denied.message.contains(" hint: ") && denied.message.starts_with(&format!("`{}`", to.display()))
        );
    }

    /// The daemon's own file of the name that a link leads to may be another one, and would be signed.
    #[test]
    fn a_file_that_rides_along_is_the_one_that_the_command_sees_by_the_name_that_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("seen"), "seen by the command").unwrap();
        std::os::unix::fs::symlink(at("seen"), at("site.conf")).unwrap();
        let create = Create {
            keys: folder.path().into(),
            to: folder.path().into(),
            files: vec![at("site.conf").into()],
            ..Create::default()
        };
        let mut task = Task::Bundle { order: Order::Create(Box::new(create)) };
        let _lent = taken(&mut task);
        std::fs::rename(at("seen"), at("elsewhere")).unwrap();
        std::fs::write(at("seen"), "seen by the daemon").unwrap();
        let Task::Bundle { order: Order::Create(create) } = task else { unreachable!() };
        let [file] = &create.files[..] else { unreachable!() };
        assert_eq!(
            (file.name.as_str(), &*std::fs::read(&file.path).unwrap()),
            ("site.conf", &b"seen by the command"[..])
        );
    }

    #[test]
    fn who_sees_the_same_goes_by_the_paths_and_who_does_not_needs_all_handles() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.root.json");
        let mut task = Task::Bundle { order: Order::Pin { file: path.clone() } };
        let (same, handles) = offer(&task).unwrap();
        assert_eq!(same.opened, [folder.path()], "what is not there is looked for where it would be");
        assert!(Lent::take(same.clone(), handles, &mut task).unwrap().is_none());
        let Task::Bundle { order: Order::Pin { file } } = &task else { unreachable!() };
        assert_eq!(*file, path);
        let other = Offer { view: None, ..same };
        assert!(Lent::take(other, Vec::new(), &mut task).unwrap_err().contains("hint:"));
    }
}
