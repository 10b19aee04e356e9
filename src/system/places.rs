//! Where everything of an appliance lies, below one root: the builder of the image puts it there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::Error;
use super::slot::Slot;
use crate::sys::durable;

/// Tries of an entry that was just staged, or found good.
pub const TRIES: u32 = 3;

/// The paths of an appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Below `root`, which is `/` but for tests.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Any path of the appliance.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The slot that is booted, as the initrd wrote it down.
    ///
    /// # Errors
    /// [`Error::NotAppliance`] where no initrd did.
    pub fn booted(&self) -> Result<Slot, Error> {
        let path = self.at("/run/edge-slot");
        let text = std::fs::read_to_string(&path).map_err(|_| Error::NotAppliance(path.clone()))?;
        text.trim()
            .parse()
            .map_err(|()| Error::BootedSlot { path, text: text.trim().chars().take(40).collect() })
    }

    /// The EFI system partition.
    pub fn esp(&self) -> PathBuf {
        self.at("/efi")
    }

    /// Where it has the kernels.
    pub fn entries(&self) -> PathBuf {
        self.at("/efi/EFI/Linux")
    }

    /// What outlives a reset.
    pub fn identity(&self) -> PathBuf {
        self.at("/identity")
    }

    /// Says that this boot was judged, and how; of the boot alone.
    pub fn judged(&self) -> PathBuf {
        self.at("/run/edge-judged")
    }

    /// Waits for the lock `name` of this boot. A folder of theirs is made.
    ///
    /// # Errors
    /// With the path.
    pub fn lock(&self, name: &str) -> Result<Flock<File>, Error> {
        let folder = self.at("/run/edge");
        std::fs::create_dir_all(&folder).map_err(|e| durable::named(e, "make folder", &folder))?;
        let path = folder.join(name);
        let failed = |e: std::io::Error| durable::named(e, "lock", &path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        Ok(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))?)
    }

    /// What is known of the slots besides.
    pub fn record(&self) -> PathBuf {
        self.at("/identity/system.json")
    }

    /// Says which image this is: `version`, `arch`, `board`.
    pub fn release(&self) -> PathBuf {
        self.at("/usr/share/edge/system.json")
    }
}
