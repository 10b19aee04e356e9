//! What the last run found, for `list`, `explain`, `prune`, `status` and the schedule: a file in the state folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::address::relabelled;
use super::error::Error;
use super::plan::{ImageName, Reason, SourceFailure};
use super::schedule::Past;
use crate::sys::digest::Digest;
use crate::sys::durable;

/// What the last run found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// When the last run began; absent before the first.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Runs in a row that could not reach all that they wanted.
    pub cut_short: u32,
    /// Bytes that travelled in the last run.
    pub bytes: u64,
    /// All images that are wanted.
    pub images: Vec<ImageRecord>,
    /// All charts that are wanted.
    pub charts: Vec<ChartRecord>,
    /// All git repositories that are wanted.
    pub git: Vec<GitRecord>,
    /// Sources that could not be read.
    pub failures: Vec<SourceFailure>,
    /// When it was last looked for what hangs on an image: its digest, seconds since 1970.
    pub looked: BTreeMap<Digest, i64>,
}

/// A wanted image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// Which.
    #[serde(flatten)]
    pub image: ImageName,
    /// What it stood for upstream, if that is known.
    pub digest: Option<Digest>,
    /// Why it is wanted.
    pub reasons: Vec<Reason>,
    /// Why it did not come the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether nothing of that name is here.
    #[serde(default)]
    pub missing: bool,
    /// Bytes of all of it.
    #[serde(default)]
    pub size: u64,
    /// Names of what hangs on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<String>,
}

/// A wanted chart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChartRecord {
    /// The chart repository here.
    pub repository: String,
    /// The chart's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it came from.
    pub from: String,
    /// Why it is wanted.
    pub reasons: Vec<Reason>,
    /// Why it did not come the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether nothing of that name is here.
    #[serde(default)]
    pub missing: bool,
}

/// A wanted git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitRecord {
    /// `config.git`
    pub name: String,
    /// Where it came from.
    pub from: String,
    /// Why it is wanted.
    pub reasons: Vec<Reason>,
    /// Why it did not come the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether nothing of it is here.
    #[serde(default)]
    pub missing: bool,
    /// Bytes of it here.
    #[serde(default)]
    pub size: u64,
    /// Refs that upstream has no more, or has replaced, and that are here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// Where the record lies.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("mirror.json")
}

impl Record {
    /// Reads the record; an empty one where there is none yet.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn read(state_dir: &Path) -> Result<Self, Error> {
        let path = path(state_dir);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|e| Error::Record(durable::named(e, "read", &path).to_string()))?,
        };
        let mut read: Self = serde_json::from_slice(&text).map_err(|e| {
            let path = path.display();
            Error::Record(format!(
                "`{path}` cannot be read: {e} hint: remove it, the next run writes it anew"
            ))
        })?;
        read.relabel();
        Ok(read)
    }

    /// Names rules as they are named now: else what an edge of before has noted would be of rules that are no more, and
    /// what they want unwanted.
    fn relabel(&mut self) {
        let images = self.images.iter_mut().flat_map(|known| &mut known.reasons);
        let charts = self.charts.iter_mut().flat_map(|known| &mut known.reasons);
        let reasons = images.chain(charts).map(|reason| &mut reason.rule);
        for rule in reasons.chain(self.failures.iter_mut().map(|failure| &mut failure.rule)) {
            if let Some(now) = relabelled(rule) {
                *rule = now;
            }
        }
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn write(&self, state_dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec(self).map_err(|e| Error::Record(e.to_string()))?;
        durable::write(&path(state_dir), &text, 0o600).map_err(|e| Error::Record(e.to_string()))
    }

    /// What the schedule needs to know.
    pub fn past(&self) -> Past {
        Past { last: self.started, cut_short: self.cut_short, ended: self.ended }
    }

    /// An image that is wanted.
    pub fn image(&self, image: &ImageName) -> Option<&ImageRecord> {
        self.images.iter().find(|known| known.image == *image)
    }

    /// What is wanted and did not come in any run.
    pub fn missing(&self) -> Vec<String> {
        let images = self.images.iter().filter(|image| image.missing).map(|image| image.image.to_string());
        let charts =
            self.charts.iter().filter(|chart| chart.missing).map(|c| format!("{}-{}", c.name, c.version));
        let git = self.git.iter().filter(|one| one.missing).map(|one| one.name.clone());
        images.chain(charts).chain(git).collect()
    }

    /// Things of the last run that went wrong, as lines: what, and why.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let images = self.images.iter().filter_map(|i| Some((i.image.to_string(), i.error.clone()?)));
        let charts =
            self.charts.iter().filter_map(|c| Some((format!("{}-{}", c.name, c.version), c.error.clone()?)));
        let sources = self.failures.iter().map(|failure| (failure.rule.clone(), failure.why.clone()));
        let git = self.git.iter().filter_map(|one| Some((one.name.clone(), one.error.clone()?)));
        sources.chain(images).chain(charts).chain(git).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mirror::Settings;

    /// What an edge of before has noted is wanted still by the same rules.
    #[test]
    fn a_record_of_before_is_of_the_rules_of_now() {
        let folder = tempfile::tempdir().unwrap();
        let (chart, manifest) =
            ("https://ann:pw@x.example/charts", "https://x.example/all.yaml?token=secret");
        let settings = Settings {
            charts: vec![serde_json::from_value(json!({"repository": chart, "name": "app"})).unwrap()],
            manifests: vec![serde_json::from_value(json!({"url": manifest})).unwrap()],
            ..Settings::default()
        };
        let reasons = |rule: String| json!([{"rule": rule, "by": "x"}]);
        let before = json!({
            "images": [{"repository": "q.io/a", "name": "1", "digest": null, "reasons": reasons(format!("manifests {manifest}"))}],
            "charts": [{"repository": "", "name": "app", "version": "1", "from": "x",
                        "reasons": reasons(format!("charts {chart} app"))}],
            "failures": [{"rule": format!("manifests {manifest}"), "why": "x", "unreachable": false}],
        });
        durable::write(&path(folder.path()), before.to_string().as_bytes(), 0o600).unwrap();
        let read = Record::read(folder.path()).unwrap();
        let (charts, manifests) = (settings.charts[0].label(), settings.manifests[0].label());
        assert_eq!([&read.images[0].reasons[0].rule, &read.failures[0].rule], [&manifests; 2]);
        assert_eq!(read.charts[0].reasons[0].rule, charts);
        assert!(!serde_json::to_string(&read).unwrap().contains("secret"));
    }

    #[test]
    fn what_is_written_is_read_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Record::default());
        let image = ImageName { repository: "q.io/a".into(), name: "1".into() };
        let reasons = vec![Reason { rule: "images q.io/a".into(), by: "exact".into() }];
        let image = ImageRecord {
            image,
            digest: None,
            reasons,
            error: Some("x".into()),
            missing: false,
            size: 1,
            attached: vec![],
        };
        let record =
            Record { images: vec![image], started: Some(Timestamp::UNIX_EPOCH), ..Record::default() };
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), record);
        assert_eq!(record.troubles(), [("q.io/a:1".to_owned(), "x".to_owned())]);
        durable::write(&path(folder.path()), b"{", 0o600).unwrap();
        assert!(Record::read(folder.path()).unwrap_err().to_string().contains("mirror.json"));
    }
}
