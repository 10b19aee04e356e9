//! An archive that comes through standard input: it is kept as a file until it is imported, since its parts are read in
//! another order than they come.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cli::failure::Usage;
use crate::config::Config;
use crate::sys::durable;

/// The file; gone when this is dropped. What a power cut leaves goes as a stale upload does.
pub(super) struct Piped(PathBuf);

impl Piped {
    /// Reads standard input to its end.
    pub(super) fn read(config: &Config) -> Result<Self> {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let why = "standard input is a terminal hint: `docker save IMAGE | edge image import -`";
            return Err(Usage(why.into()).into());
        }
        let folder = crate::store::Settings::below(&config.state_dir).folder.join("uploads");
        durable::folder(&folder, 0o700)?;
        let piped = Self(folder.join(format!("piped-{}", uuid::Uuid::new_v4())));
        let mut file = piped.create().with_context(|| format!("cannot create `{}`", piped.0.display()))?;
        let taken = std::io::copy(&mut stdin.lock(), &mut file);
        if taken.with_context(|| format!("cannot keep standard input in `{}`", piped.0.display()))? == 0 {
            return Err(Usage("standard input is empty hint: pipe an archive in".into()).into());
        }
        Ok(piped)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn create(&self) -> std::io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0)
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // One that stays goes with the next collection.
        let _ = std::fs::remove_file(&self.0);
    }
}
