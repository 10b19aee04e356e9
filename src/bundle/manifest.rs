//! The signed manifest: small, whatever the bundle holds. The two lists that it names are hashed streams.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Fault;
use super::system::SystemPart;
use crate::oci::Platform;
use crate::sys::digest::{Algorithm, Digest};
use crate::trust::is_name;

/// What the manifest is signed as.
pub const PAYLOAD_TYPE: &str = "application/vnd.edge.bundle.manifest.v1+json";
/// The largest `manifest.dsse`, in bytes.
pub const LARGEST: u64 = 1 << 20;
/// The content of `FORMAT`.
pub const FORMAT: &str = "edge-bundle 1";
/// The newest version of the importer: it knows systems of appliances.
pub const IMPORTER: u32 = 2;
/// What a bundle without one asks for, so that every importer ever released takes it.
pub const FIRST_IMPORTER: u32 = 1;
/// How far a bundle may be dated after the latest time of which anything is known: a year.
pub const FARTHEST: SignedDuration = SignedDuration::from_hours(366 * 24);
/// The largest list that is taken, in bytes: ten million blobs.
pub const LARGEST_LIST: u64 = 1 << 30;

/// What is signed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The least version of the importer.
    pub importer: u32,
    /// Whose refs these are.
    pub stream: String,
    /// Rises with each bundle of the stream.
    pub seq: u64,
    /// The envelope of the one before, as the depot remembers it.
    pub previous: Option<Digest>,
    /// Snapshots that the left-out blobs are taken from; empty in a full bundle.
    pub bases: Vec<Digest>,
    /// The state after the import: the digest of `refs.list`.
    pub snapshot: Digest,
    /// Whom it is for.
    pub audience: Audience,
    /// When it was made; this time has passed.
    pub created: Timestamp,
    /// Until when it may be used.
    pub not_after: Option<Timestamp>,
    /// The root that it was signed under.
    pub root: u64,
    /// For people.
    pub notes: String,
    /// How the blobs lie.
    pub layout: Layout,
    /// Bytes of a part of a blob, but for the last one.
    pub part_size: u64,
    /// What it comes to.
    pub totals: Totals,
    /// `blobs.list`.
    pub blobs: List,
    /// `refs.list`.
    pub refs: List,
    /// The system of an appliance that rides along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemPart>,
}

/// Whom a bundle is for; an empty list is everybody.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct Audience {
    /// Gateways by name.
    pub gateways: Vec<String>,
    /// Fleets by name.
    pub fleets: Vec<String>,
    /// Platforms whose images it holds, such as `linux/arm64`.
    pub platforms: Vec<String>,
}

/// How blobs lie below `blobs/`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `sha256/<hex>`, as in an OCI layout.
    Flat,
    /// `sha256/<xx>/<hex>`: a folder of FAT32 takes no more than some 10,000 names of this length.
    Sharded,
}

/// What a bundle comes to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// Blobs of the whole state.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that lie in the bundle.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
}

/// A list beside the manifest.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct List {
    /// Of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Lines.
    pub lines: u64,
}

/// Who this gateway is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name, where it has one.
    pub gateway: Option<String>,
    /// Its fleet, where it has one.
    pub fleet: Option<String>,
}

impl Manifest {
    /// Refuses what no depot writes. The signature was checked before.
    ///
    /// # Errors
    /// [`Fault::Format`], [`Fault::Manifest`].
    pub fn check(&self) -> Result<(), Fault> {
        if self.format != FORMAT || self.importer > IMPORTER {
            let found =
                format!("{} (importer {})", self.format.chars().take(40).collect::<String>(), self.importer);
            return Err(Fault::Format { found, wanted: format!("{FORMAT} (importer {IMPORTER})") });
        }
        let fault = |why: &str| Err(Fault::Manifest(why.into()));
        if !is_name(&self.stream) {
            return fault("its stream has no proper name");
        }
        if self.part_size < 512 || self.part_size > 2 << 30 {
            return fault("its parts are of no proper size");
        }
        if self.snapshot != self.refs.digest {
            return fault("its snapshot is not its list of refs");
        }
        for list in [&self.blobs, &self.refs] {
            if list.digest.algorithm() != Algorithm::Sha256
                || list.size > LARGEST_LIST
                || list.lines > list.size
            {
                return fault("a list is of no proper size");
            }
        }
        if self.bases.len() > 1000 || self.totals.carried > self.totals.blobs {
            return fault("its totals contradict one another");
        }
        match &self.system {
            // An importer that knows nothing of it would take its parts for layers.
            Some(_) if self.importer <= FIRST_IMPORTER => {
                fault("it holds a system, and does not say that its importer must know of it")
            }
            Some(part) => part.check(),
            None => Ok(()),
        }
    }

    /// Whether this gateway is meant.
    ///
    /// # Errors
    /// [`Fault::Audience`].
    pub fn check_audience(&self, me: &Identity, platform: &Platform) -> Result<(), Fault> {
        let of = |what: &str, names: &[String]| format!("{what} `{}`", names.join("`, `"));
        let Audience { gateways, fleets, platforms } = &self.audience;
        for (what, names, mine, hint) in [
            ("gateway", gateways, &me.gateway, " hint: `bundle.gateway` says who this is"),
            ("fleet", fleets, &me.fleet, " hint: `bundle.fleet` says whose this is"),
        ] {
            let meant = mine.as_ref().is_some_and(|mine| names.contains(mine));
            if !names.is_empty() && !meant {
                let found = match mine {
                    Some(mine) => format!("{what} `{mine}`"),
                    None => format!("a {what} without a name"),
                };
                return Err(Fault::Audience { wanted: of(what, names), found, hint });
            }
        }
        let runs =
            |text: &String| text.parse::<Platform>().is_ok_and(|theirs| platform.rank(&theirs).is_some());
        if !platforms.is_empty() && !platforms.iter().any(runs) {
            let wanted = of("platform", platforms);
            return Err(Fault::Audience { wanted, found: format!("`{platform}`"), hint: "" });
        }
        Ok(())
    }

    /// Judges its dates by a time that has certainly passed; no clock that may step back is asked.
    ///
    /// # Errors
    /// [`Fault::Late`], [`Fault::Dated`].
    pub fn check_time(&self, passed: Timestamp, root_expires: Option<Timestamp>) -> Result<(), Fault> {
        if let Some(until) = self.not_after.filter(|until| *until < passed) {
            return Err(Fault::Late { until, passed });
        }
        // Else a stolen bundle key could move the time that counts as passed beyond the end of every root.
        match root_expires.filter(|expires| *expires < self.created) {
            Some(expires) => Err(Fault::Dated { created: self.created, expires }),
            None => Ok(()),
        }
    }

    /// Refuses a date more than [`FARTHEST`] after `known`, the latest time of which anything is known: what it says
    /// would count as passed, and every honest bundle with an end as late.
    ///
    /// # Errors
    /// [`Fault::Ahead`].
    pub fn check_step(&self, known: Timestamp) -> Result<(), Fault> {
        match self.created.duration_since(known) > FARTHEST {
            true => Err(Fault::Ahead { created: self.created, known }),
            false => Ok(()),
        }
    }
}

/// The platform that this edge was built for, in Go's words.
pub fn own_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bundle) fn manifest() -> Manifest {
        let list = List { digest: Digest::sha256(b""), size: 0, lines: 0 };
        Manifest {
            format: FORMAT.into(),
            importer: 1,
            stream: "main".into(),
            seq: 1,
            previous: None,
            bases: vec![],
            snapshot: list.digest.clone(),
            audience: Audience::default(),
            created: Timestamp::from_second(1000).unwrap(),
            not_after: None,
            root: 1,
            notes: String::new(),
            layout: Layout::Flat,
            part_size: 2 << 30,
            totals: Totals::default(),
            blobs: list.clone(),
            refs: list,
            system: None,
        }
    }

    #[test]
    fn what_no_depot_writes_is_refused() {
        manifest().check().unwrap();
        type Spoil = fn(&mut Manifest);
        let cases: [(&str, Spoil); 6] = [
            ("importer", |m| m.importer = 3),
            ("format", |m| m.format = "edge-bundle 2".into()),
            ("stream", |m| m.stream = "../x".into()),
            ("part", |m| m.part_size = 0),
            ("snapshot", |m| m.snapshot = Digest::sha256(b"x")),
            ("totals", |m| m.totals.carried = 1),
        ];
        for (name, spoil) in cases {
            let mut spoiled = manifest();
            spoil(&mut spoiled);
            assert!(spoiled.check().is_err(), "{name}");
        }
    }

    #[test]
    fn the_audience_is_who_is_named() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let me = |gateway: Option<&str>| Identity {
            gateway: gateway.map(Into::into),
            fleet: Some("north".into()),
        };
        let mut m = manifest();
        m.check_audience(&me(None), &amd64).unwrap();
        m.audience.gateways = vec!["ship-7".into()];
        assert!(m.check_audience(&me(None), &amd64).is_err());
        assert!(m.check_audience(&me(Some("ship-8")), &amd64).is_err());
        m.check_audience(&me(Some("ship-7")), &amd64).unwrap();
        m.audience.fleets = vec!["south".into()];
        assert!(m.check_audience(&me(Some("ship-7")), &amd64).is_err());
        m.audience.fleets = vec!["south".into(), "north".into()];
        m.audience.platforms = vec!["linux/arm64".into()];
        let error = m.check_audience(&me(Some("ship-7")), &amd64).unwrap_err().to_string();
        assert!(error.contains("linux/arm64") && error.contains("linux/amd64"), "{error}");
    }

    #[test]
    fn dates_are_judged_by_time_that_has_passed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut m = manifest();
        m.check_time(at(9_000_000_000), None).unwrap();
        m.not_after = Some(at(2000));
        m.check_time(at(0), None).unwrap();
        m.check_time(at(2000), None).unwrap();
        assert!(matches!(m.check_time(at(2001), None), Err(Fault::Late { .. })));
        assert!(matches!(m.check_time(at(0), Some(at(999))), Err(Fault::Dated { .. })));
        m.created = at(366 * 86_400);
        m.check_step(at(0)).unwrap();
        m.check_step(at(9_000_000_000)).unwrap();
        m.created = at(366 * 86_400 + 1);
        assert!(matches!(m.check_step(at(0)), Err(Fault::Ahead { .. })));
    }
}
