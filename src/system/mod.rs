//! The appliance: two slots of one root file system each, the partition of the machine's identity, and the encrypted
//! one of its data.
//!
//! - `slot`, `record`, `partition`  the two slots and the states that follow; what is noted; partitions by label
//! - `loader`    how this board boots: systemd-boot or the Raspberry Pi's own. What differs is asked here
//!   - `entry`, `esp`, `uki`, `firmware`, `armed`  systemd-boot: boot entries, whose names count tries; EFI variables
//!   - `tryboot`, `autoboot`, `fat`  the Raspberry Pi: two boot partitions, one of them tried once
//! - `stage`     the other slot written, read back and made bootable, as an import goes on
//! - `mend`      what starts the machine, read again and mended: no hash tree covers it
//!   - `starter`, `first`, `copies`  what starts a slot, what is read before that, and what it is mended from
//! - `rot`       the root is read before it is found good, where the last boot was cut short or the tries are its second
//! - `data`      the data partition: made, opened, and made anew after a reset
//! - `provision` a first boot's configuration, from a stick, the EFI system partition or what was taken before
//! - `given`, `network`  its files: names, places, and when one is good
//! - `intake`    which of them were taken, and which were refused and are still asked for
//! - `keep`      the copy of the trust state that outlives the data
//! - `kubelet`   what it is asked before it is started: its version, and whether it takes its settings
//!
//! Which slot boots is said by file names on the EFI system partition alone: the highest number that has tries left; on a
//! Raspberry Pi by `autoboot.txt`. What `system.json` on identity says besides is about those; where they differ, they are
//! right.
//!
//! Refuses to write the slot that is booted, and to format data that it once made and cannot open.

mod armed;
mod autoboot;
mod copies;
mod data;
mod entry;
mod error;
mod esp;
mod fat;
mod firmware;
mod first;
mod given;
mod identity;
mod intake;
mod keep;
mod kubelet;
mod loader;
mod mend;
mod network;
mod partition;
mod places;
mod provision;
mod record;
mod rot;
mod run;
mod settings;
mod slot;
mod stage;
mod starter;
mod tryboot;
mod uki;

pub use armed::{Fallback, Outcome};
pub use data::Opened;
pub use entry::{Entry, VerityId};
pub use error::Error;
pub use given::{Checks, check_keys, check_pods, client_ca, own_kubelet};
pub use keep::{
    Kept, forget_kubeconfig, keep_kubeconfig, keep_own_key, keep_time, kept_kubeconfig, kept_time,
    kubeconfig_place,
};
pub use kubelet::{kubelet_version, refused_settings, restart_kubelet};
pub use loader::{Loader, arm, begin_trial, roll_back, unhealthy};
pub use mend::{Damage, Looked, mend_boot};
pub use places::Places;
pub use provision::{Provisioned, provision};
pub use record::{Record, Recorded, Sum};
pub use rot::check_root;
pub use settings::Settings;
pub use slot::{Slot, SlotReport, State, Status};
pub use stage::{Again, Image, Part, Stage, judge_image};

use serde::Deserialize;

/// Which image a system is, as its builder wrote it into the root file system.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Release {
    /// For people.
    pub version: String,
    /// The platform's architecture in Go's words, such as `arm64`.
    pub arch: String,
    /// The board that it was made for, such as `generic-efi`.
    pub board: String,
    /// How that board boots.
    #[serde(default, rename = "boot")]
    pub loader: Loader,
    /// Whether its kernel can ask a Raspberry Pi's boot loader for a trial.
    #[serde(default)]
    pub tryboot: bool,
}

impl Release {
    /// Of the system that runs.
    ///
    /// # Errors
    /// Where its file is missing or damaged.
    pub fn read(places: &Places) -> Result<Self, Error> {
        let path = places.release();
        let bytes = std::fs::read(&path).map_err(|e| crate::sys::durable::named(e, "read", &path))?;
        let damaged = |e: serde_json::Error| Error::Unfit(format!("`{}` is damaged: {e}", path.display()));
        serde_json::from_slice(&bytes).map_err(damaged)
    }
}

/// How the appliance below `places` is.
///
/// # Errors
/// [`Error::NotAppliance`] for another machine.
pub fn status(places: &Places) -> Result<Status, Error> {
    Status::read(places)
}

pub use data::{ask_reset, open as open_data};

/// The id of the system that runs; `None` where its slot holds none that is known.
///
/// # Errors
/// [`Error::NotAppliance`] for another machine; its partition cannot be read.
pub fn running(places: &Places) -> Result<Option<VerityId>, Error> {
    partition::verity_id(places, places.booted()?)
}

/// The id of the system that an image of a Raspberry Pi's boot partition boots; `None` where it names none.
///
/// # Errors
/// Where it cannot be read.
pub fn verity_of_boot(path: &std::path::Path) -> std::io::Result<Option<VerityId>> {
    tryboot::verity_of(path, &[])
}

/// Notes for edge-fallback.service that this boot was judged: it has nothing left to decide.
///
/// # Errors
/// Where it cannot be noted.
pub fn judged(places: &Places) -> Result<(), Error> {
    Ok(crate::sys::durable::write(&places.judged(), b"", 0o600)?)
}

/// Has the machine start anew.
///
/// # Errors
/// Where systemd does not do it.
pub fn reboot() -> Result<(), Error> {
    run::run("systemctl", &["reboot"]).map(drop)
}
