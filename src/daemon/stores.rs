//! Tasks on images, charts and the store: the arms of `task::run` that call the registry's room.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::needs;
use super::task::{Place, TaskError, blocking};
use crate::oci::chart::{ChartPackage, check_provenance};
use crate::oci::{Archive, ArchiveForm, Platform, Reference};
use crate::registry::images::{self, ImageError, Wanted};
use crate::registry::{Sources, add_chart, is_chart_repository};
use crate::store::{self, GcSettings, Owner, Replace, Store, VerifyReport, VerifySettings};
use crate::sys::digest::Digest;
use crate::sys::durable;
use crate::sys::priority;
use crate::sys::progress::{Progress, Unit};

/// What is to be done with images, charts or the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum StoreTask {
    /// Fetch an image and keep it.
    ImagePull {
        /// Its name.
        image: String,
        /// The platforms to fetch, such as `linux/arm64`; this machine's where there are none.
        platforms: Vec<String>,
        /// All of them.
        all: bool,
    },
    /// Bring in the images of an archive.
    ImageImport {
        /// The archive, an absolute path.
        path: PathBuf,
        /// What errors call it, if not by its path.
        called: Option<PathBuf>,
        /// A name for what has none.
        name: Option<String>,
        /// Only these platforms, where there are any.
        platforms: Vec<String>,
    },
    /// Write images to an archive.
    ImageExport {
        /// Their names.
        images: Vec<String>,
        /// The archive, an absolute path.
        path: PathBuf,
        /// Whether it is a folder.
        folder: bool,
        /// Only these platforms, where there are any.
        platforms: Vec<String>,
    },
    /// Remove names of images.
    ImageRemove {
        /// Their names.
        images: Vec<String>,
        /// Also what pods need.
        force: bool,
    },
    /// Add a packed chart.
    ChartAdd {
        /// The package, an absolute path.
        path: PathBuf,
        /// The file that vouches for it, if there is one; likewise.
        #[serde(default)]
        provenance: Option<PathBuf>,
        /// The chart repository.
        repository: String,
        /// Put it in the place of the same version.
        force: bool,
    },
    /// Remove a version of a chart.
    ChartRemove {
        /// The chart repository.
        repository: String,
        /// The chart.
        name: String,
        /// The version.
        version: String,
    },
    /// Read everything again.
    Verify {
        /// Bytes a second to stay under.
        rate: Option<u64>,
    },
}

impl StoreTask {
    /// The command that a person types for it.
    pub fn command(&self) -> &'static str {
        match self {
            Self::ImagePull { .. } => "edge image pull",
            Self::ImageImport { .. } => "edge image import",
            Self::ImageExport { .. } => "edge image export",
            Self::ImageRemove { .. } => "edge image remove",
            Self::ChartAdd { .. } => "edge chart add",
            Self::ChartRemove { .. } => "edge chart remove",
            Self::Verify { .. } => "edge store verify",
        }
    }
}

impl From<ImageError> for TaskError {
    fn from(error: ImageError) -> Self {
        match error {
            error if error.is_damage() => Self::refused(error),
            error if error.is_usage() => Self::usage(error),
            error => Self::failed(error),
        }
    }
}

impl From<store::Error> for TaskError {
    fn from(error: store::Error) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        Self::failed(format!("{error}{}", source.unwrap_or_default()))
    }
}

/// Does one.
pub(super) async fn run(task: StoreTask, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    match task {
        StoreTask::ImagePull { image, platforms, all } => {
            let wanted = wanted(&platforms)?;
            let wanted = match (all, platforms.is_empty()) {
                (true, _) => Wanted::All,
                (false, true) => Wanted::here(),
                (false, false) => wanted,
            };
            let reference: Reference = image.parse().map_err(ImageError::from)?;
            let (store, sources) = (place.store().await?, sources(place)?);
            told(images::pull(&store, &sources, &reference, &wanted, progress).await?)
        }
        StoreTask::ImageImport { path, called, name, platforms } => {
            let (store, wanted) = (place.store().await?, wanted(&platforms)?);
            let (scratch, progress) = (place.door().folder().join("uploads"), progress.clone());
            let imported = blocking(move || {
                let called = called.as_ref().unwrap_or(&path);
                let room = |bytes| {
                    store.room_for(bytes).map_err(|error| {
                        let full = error.is_full().then_some(std::io::ErrorKind::StorageFull);
                        std::io::Error::new(full.unwrap_or(std::io::ErrorKind::Other), error)
                    })
                };
                let archive = Archive::open(&path, called, &scratch, &room).map_err(ImageError::from)?;
                Ok(images::import(&store, &archive, name.as_deref(), &wanted, &progress)?)
            });
            told(imported.await?)
        }
        StoreTask::ImageExport { images: names, path, folder, platforms } => {
            let (store, wanted, progress) = (place.store().await?, wanted(&platforms)?, progress.clone());
            let form = if folder { ArchiveForm::Folder } else { ArchiveForm::Tar };
            let exported =
                blocking(move || Ok(images::export(&store, &names, &path, form, &wanted, &progress)?));
            told(exported.await?)
        }
        StoreTask::ImageRemove { images, force } => {
            let (store, folder) = (place.store().await?, place.config().state_dir.clone());
            blocking(move || remove(&store, &folder, &images, force)).await
        }
        StoreTask::ChartAdd { path, provenance, repository, force } => {
            let store = place.store().await?;
            blocking(move || chart_add(&store, &path, provenance.as_deref(), repository, force)).await
        }
        StoreTask::ChartRemove { repository, name, version } => {
            let store = place.store().await?;
            let removed = blocking(move || {
                let removed = store.remove_chart(&repository, &name, &version, &Owner::Push)?;
                let unknown =
                    || TaskError::failed(format!("there is no chart `{name}` of version `{version}`"));
                removed.then_some(json!({"name": name, "version": version})).ok_or_else(unknown)
            });
            removed.await
        }
        StoreTask::Verify { rate } => {
            let settings = VerifySettings { rate, after: None };
            mend(place, &read_again(place, settings, progress, || true).await?).await
        }
    }
}

fn told(value: impl Serialize) -> Result<Value, TaskError> {
    serde_json::to_value(value).map_err(TaskError::failed)
}

fn wanted(platforms: &[String]) -> Result<Wanted, TaskError> {
    if platforms.is_empty() {
        return Ok(Wanted::All);
    }
    let read: Result<Vec<Platform>, String> = platforms.iter().map(|text| text.parse()).collect();
    let hinted = |e: String| TaskError::usage(e);
    Ok(Wanted::Platforms(read.map_err(hinted)?))
}

fn sources(place: &Place) -> Result<Sources, TaskError> {
    let mut settings = place.config().registry.clone();
    // Who asks by hand means it.
    settings.pull_through = true;
    Sources::new(&settings).map_err(TaskError::usage)
}

/// What nobody needs, removed, or only told.
pub(super) async fn collect(place: &Place, dry_run: bool) -> Result<Value, TaskError> {
    let (store, config) = (place.store().await?, place.config());
    let settings = GcSettings { pull_through_limit: config.registry.size_limit, ..GcSettings::default() };
    let folder = config.state_dir.clone();
    let plan = blocking(move || {
        needs::pin(&store, &folder)?;
        Ok(if dry_run { store.plan_gc(&settings)? } else { store.collect(&settings)? })
    });
    let plan = plan.await?;
    let remove: Vec<Value> =
        plan.remove.iter().map(|(digest, size)| json!({"digest": digest, "size": size})).collect();
    Ok(json!({
        "dryRun": dry_run, "blobs": plan.blobs, "bytes": plan.bytes(), "remove": remove,
        "young": {"blobs": plan.young, "bytes": plan.young_bytes}, "evict": plan.evict,
        "orphans": plan.orphans, "uploads": plan.uploads,
        "quarantine": {"removed": plan.aside.freed, "removedBytes": plan.aside.freed_bytes,
                       "blobs": plan.aside.kept, "bytes": plan.aside.kept_bytes},
    }))
}

/// Reads everything again, until `go_on` says no; what is damaged is set aside, and [`mend`] fetches it.
pub(super) async fn read_again(
    place: &Place,
    settings: VerifySettings,
    progress: &Progress,
    mut go_on: impl FnMut() -> bool + Send + 'static,
) -> Result<VerifyReport, TaskError> {
    let (reading, progress) = (place.store().await?, progress.clone());
    let report = blocking(move || {
        // Whoever asks for it does not want pods and the link to wait for it.
        if let Err(error) = priority::give_way() {
            tracing::warn!(%error, "verification does not give way to others");
        }
        let held = reading.held()?;
        let mut item = progress.item("verify", Some(held.bytes), Unit::Bytes);
        let mut seen = 0;
        let report = reading.verify(&settings, |report| {
            item.add(report.bytes - seen);
            seen = report.bytes;
            go_on()
        })?;
        item.done();
        Ok(report)
    });
    report.await
}

/// Fetches what this verification or an earlier one found damaged, and says what came of it.
pub(super) async fn mend(place: &Place, report: &VerifyReport) -> Result<Value, TaskError> {
    let store = place.store().await?;
    let reading = store.clone();
    // Also what earlier runs set aside or missed, and nobody had then.
    let (back, lost): (Vec<Digest>, Vec<Digest>) = blocking(move || {
        let (mut back, mut lost) = (Vec::new(), Vec::new());
        for digest in reading.damaged()? {
            if reading.take_back(&digest)? { back.push(digest) } else { lost.push(digest) }
        }
        Ok((back, lost))
    })
    .await?;
    let mut mended = match sources(place) {
        _ if lost.is_empty() => images::Mended::default(),
        Ok(sources) => images::mend(&store, &sources, &lost).await?,
        // A file of the configuration is no reason to say nothing of what is lost.
        Err(error) => images::Mended {
            left: lost.iter().map(|digest| (digest.clone(), error.message.clone())).collect(),
            ..images::Mended::default()
        },
    };
    mended.mended.extend(back);
    let left: Vec<Value> =
        mended.left.iter().map(|(digest, why)| json!({"digest": digest, "why": why})).collect();
    // Whoever had it read, the daemon's board tells what came of it.
    place.lost.send_replace((!left.is_empty()).then(|| lost_line(left.len())));
    Ok(json!({
        "blobs": report.blobs, "bytes": report.bytes, "damaged": report.damaged,
        "missing": report.missing, "mended": mended.mended, "left": left,
    }))
}

fn lost_line(count: usize) -> String {
    format!(
        "{count} blobs are damaged and no upstream has them hint: `edge store verify` names them; push them again"
    )
}

fn remove(store: &Store, folder: &Path, names: &[String], force: bool) -> Result<Value, TaskError> {
    let pods = needs::pods(folder)?;
    let mut removed = Vec::new();
    for name in names {
        let found = images::find(store, name)?;
        let (reference, repository, full) = (&found.reference, &found.repository, found.name());
        let needed = pods.of(&full, &found.manifest.blob.digest);
        if let Some(first) = needed.first().filter(|_| !force) {
            return Err(TaskError::failed(format!("`{full}` is needed by {first} hint: --force removes it")));
        }
        match &reference.digest {
            Some(digest) => store.remove_manifest(repository, digest, &Owner::Push)?,
            None => store.remove_tag(repository, reference.name(), &Owner::Push)?,
        };
        removed.push(json!({"name": full, "digest": found.manifest.blob.digest}));
    }
    Ok(Value::Array(removed))
}

fn chart_add(
    store: &Store,
    path: &Path,
    provenance: Option<&Path>,
    repository: String,
    force: bool,
) -> Result<Value, TaskError> {
    let named = |e: std::io::Error| TaskError::failed(format!("cannot read `{}`: {e}", path.display()));
    let hinted = |e: crate::oci::chart::ChartError| TaskError::failed(format!("`{}`: {e}", path.display()));
    if !is_chart_repository(&repository) {
        let why = "names parted by slashes, such as `team/stable`";
        return Err(TaskError::usage(format!("`{repository}` cannot be a chart repository hint: {why}")));
    }
    let size = std::fs::metadata(path).map_err(named)?.len();
    if size > crate::oci::chart::LARGEST as u64 {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        return Err(hinted(crate::oci::chart::ChartError::TooLarge(size)));
    }
    let bytes = std::fs::read(path).map_err(named)?;
    let package = ChartPackage::read(&bytes).map_err(hinted)?;
    let provenance = provenance.map(|path| std::fs::read(path).map_err(|e| durable::named(e, "read", path)));
    let provenance = provenance.transpose().map_err(TaskError::failed)?;
    if let Some(provenance) = &provenance {
        let (said, stem) =
            (String::from_utf8_lossy(provenance), format!("{}-{}", package.name, package.version));
        check_provenance(&said, &stem, &Digest::sha256(&bytes)).map_err(hinted)?;
    }
    let replace = if force { Replace::Always } else { Replace::Never };
    add_chart(store, repository.clone(), &package, &bytes, provenance.as_deref(), replace).map_err(|e| {
        match e {
            store::Error::ChartExists { .. } => TaskError::failed(format!("{e} hint: --force replaces it")),
            e => e.into(),
        }
    })?;
    Ok(json!({"repository": repository, "name": package.name, "version": package.version,
              "digest": Digest::sha256(&bytes), "provenance": provenance.is_some()}))
}
