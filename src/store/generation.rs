//! Generations: sets of refs that change together, and the trust state that moves with them.
//!
//! A bundle's import and a mirror's run make one; the last three of each owner are kept, and the one that was in force
//! before the newest, and going back is one row. The highest sequence number and the time floor never go back.

use rusqlite::{Connection, OptionalExtension};

use super::chart::insert_chart;
use super::error::During;
use super::manifest::add_closure;
use super::refs::Owner;
use super::{Error, NewChart, Store, blob, untagged};
use crate::sys::clock;
use crate::sys::digest::Digest;

/// Generations kept of each owner, the one in force among them.
const KEPT: u64 = 3;

/// All refs, charts and pins that an owner has from now on.
#[derive(Clone, Debug, Default)]
pub struct StateOf {
    /// Its names; the manifests are stored already.
    pub refs: Vec<StateRef>,
    /// Its charts; the packages are stored already.
    pub charts: Vec<StateChart>,
    /// What it needs besides.
    pub pins: Vec<Digest>,
    /// Manifests below its refs that must be here with all their configurations and layers. An index may lack some of its
    /// images, so this says which of them count; an image that a ref points at always does.
    pub whole: Vec<Digest>,
    /// What made it, for the history.
    pub note: String,
}

/// One name of a new generation.
#[derive(Clone, Debug)]
pub struct StateRef {
    /// `<host>/<path>`.
    pub repository: String,
    /// A tag or a digest.
    pub name: String,
    /// The manifest.
    pub digest: Digest,
}

/// One chart of a new generation.
pub type StateChart = NewChart;

/// One of either.
#[derive(Clone, Debug)]
pub enum StateItem {
    /// A name.
    Ref(StateRef),
    /// A chart.
    Chart(Box<StateChart>),
}

/// What changes in the trust state, in the same transaction. Values only rise.
#[derive(Clone, Debug, Default)]
pub struct TrustUpdate {
    /// The version of the root that is pinned from now on.
    pub root_version: Option<u64>,
    /// A stream and the sequence number of what was accepted; must be above the highest seen. The highest itself is taken
    /// once more with the first generation of its owner: the data was reset, which is no step back.
    pub seq: Option<(String, u64)>,
    /// Seconds since 1970 that a bundle says have passed.
    pub time_floor: Option<i64>,
    /// The highest numbers seen of all streams are forgotten first, and the time floor: nothing that bore them is trusted
    /// any more.
    pub forget_seqs: bool,
}

/// One generation of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number; rises by one with each.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub made: i64,
    /// What made it.
    pub note: String,
    /// Whether it is in force.
    pub current: bool,
    /// The one that was in force before it, kept or not; 0 for none, `None` where an older release has not noted it.
    pub replaced: Option<u64>,
}

impl Store {
    /// Puts a new generation of `owner` in force, all of it or nothing, and says its number. What the generation in force
    /// has already is taken over as it is, also where a verification has set it aside.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] for what is new and not stored, [`Error::Rollback`] for an old sequence number.
    pub fn flip(&self, owner: &Owner, state: StateOf, trust: TrustUpdate) -> Result<u64, Error> {
        self.flip_with(owner, state, || Ok(None), trust)
    }

    /// As [`Store::flip`], with what `more` gives until it gives nothing besides what `state` holds.
    ///
    /// # Errors
    /// As there, and what `more` says.
    pub fn flip_with(
        &self,
        owner: &Owner,
        state: StateOf,
        mut more: impl FnMut() -> Result<Option<StateItem>, Error> + Send + 'static,
        trust: TrustUpdate,
    ) -> Result<u64, Error> {
        let owner = owner.clone();
        let number = self.inner.writer.write(move |batch| {
            let tx = batch.tx;
            let (id, before) = owner.row(tx)?;
            let number: u64 = tx
                .query_row(
                    "SELECT coalesce(max(number), 0) + 1 FROM generation WHERE owner = ?1",
                    [id],
                    |r| r.get(0),
                )
                .during("number a generation")?;
            // Where nothing of the owner is left, the data was reset.
            let floor = if number == 1 { Floor::Reached } else { Floor::Passed };
            update_trust(tx, &trust, floor)?;
            let now = clock::now().as_second();
            let add = |entry: &StateRef| {
                let (repository, manifest) = add_ref(tx, id, (before, number), entry, now)?;
                untagged::drop_below(tx, (repository, manifest), &owner)
            };
            let add_chart = |chart: &StateChart| insert_chart(tx, chart, id, number, Some(before));
            state.refs.iter().try_for_each(add)?;
            state.charts.iter().try_for_each(add_chart)?;
            while let Some(item) = more()? {
                match item {
                    StateItem::Ref(entry) => add(&entry)?,
                    StateItem::Chart(chart) => add_chart(&chart)?,
                }
            }
            for digest in &state.whole {
                let manifest = blob::here(tx, digest)?.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
                check_whole(tx, manifest)?;
            }
            set_owner_pins(tx, &owner, &state.pins)?;
            tx.execute(
                "INSERT INTO generation (owner, number, made, note) VALUES (?1, ?2, ?3, ?4)",
                (id, number, now, &state.note),
            )
            .during("note a generation")?;
            tx.execute(
                "INSERT OR REPLACE INTO replaced (owner, number, before) VALUES (?1, ?2, ?3)",
                (id, number, before),
            )
            .during("note a generation")?;
            tx.execute("UPDATE owner SET current = ?2 WHERE id = ?1", (id, number))
                .during("flip a generation")?;
            drop_old(tx, id, before)?;
            Ok(number)
        })?;
        self.changed();
        self.charts_changed();
        Ok(number)
    }

    /// Puts an earlier generation in force again; the trust state stays.
    ///
    /// # Errors
    /// [`Error::GenerationUnknown`] where it is not kept.
    pub fn roll_back(&self, owner: &Owner, number: u64) -> Result<(), Error> {
        let owner = owner.clone();
        self.inner.writer.write(move |batch| {
            let changed = batch
                .tx
                .execute(
                    "UPDATE owner SET current = ?3 WHERE kind = ?1 AND name = ?2 AND EXISTS
                     (SELECT 1 FROM generation g WHERE g.owner = owner.id AND g.number = ?3)",
                    (owner.kind(), owner.name(), number),
                )
                .during("roll back")?;
            if changed == 0 {
                return Err(Error::GenerationUnknown { owner: owner.to_string(), wanted: number });
            }
            Ok(())
        })?;
        self.changed();
        self.charts_changed();
        Ok(())
    }

    /// The generations kept of `owner`, the newest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn generations(&self, owner: &Owner) -> Result<Vec<Generation>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached(
                    "SELECT g.number, g.made, g.note, g.number = o.current, p.before FROM generation g
                     JOIN owner o ON o.id = g.owner
                     LEFT JOIN replaced p ON p.owner = g.owner AND p.number = g.number WHERE o.kind = ?1 AND o.name = ?2 ORDER BY g.number DESC",
                )
                .during("list generations")?;
            let rows = query
                .query_map((owner.kind(), owner.name()), |r| {
                    let (number, made, note) = (r.get(0)?, r.get(1)?, r.get(2)?);
                    Ok(Generation { number, made, note, current: r.get(3)?, replaced: r.get(4)? })
                })
                .during("list generations")?;
            rows.collect::<Result<_, _>>().during("list generations")
        })
    }

    /// The names of the streams of bundles that anything was imported of, in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn streams(&self) -> Result<Vec<String>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached("SELECT name FROM owner WHERE kind = 0 AND current > 0 ORDER BY name")
                .during("list streams")?;
            let rows = query.query_map([], |r| r.get(0)).during("list streams")?;
            rows.collect::<Result<_, _>>().during("list streams")
        })
    }

    /// What an owner's generation in force holds: refs as `repository:tag` or `repository@digest`, charts as
    /// `chart <repository>/<name>-<version>`, and what each stands for.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn refs_of(&self, owner: &Owner) -> Result<Vec<(String, Digest)>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached(
                    "SELECT r.name || iif(instr(f.name, ':'), '@', ':') || f.name, b.digest FROM ref f
                     JOIN owner o ON o.id = f.owner AND o.current = f.generation
                     JOIN repository r ON r.id = f.repository JOIN blob b ON b.id = f.blob
                     WHERE o.kind = ?1 AND o.name = ?2
                     UNION ALL SELECT 'chart ' || iif(c.repository = '', '', c.repository || '/') || c.name || '-' ||
                       c.version, b.digest FROM chart c JOIN owner o ON o.id = c.owner AND o.current = c.generation
                     JOIN blob b ON b.id = c.blob WHERE o.kind = ?1 AND o.name = ?2 ORDER BY 1",
                )
                .during("list an owner's refs")?;
            let rows = query
                .query_map((owner.kind(), owner.name()), |r| Ok((r.get(0)?, r.get::<_, String>(1)?)))
                .during("list an owner's refs")?;
            let mut found = Vec::new();
            for row in rows {
                let (name, digest) = row.during("list an owner's refs")?;
                found.extend(digest.parse().ok().map(|digest| (name, digest)));
            }
            Ok(found)
        })
    }

    /// Changes the trust state alone, as pinning a root does.
    ///
    /// # Errors
    /// [`Error::Rollback`] for an old sequence number.
    pub fn update_trust(&self, update: TrustUpdate) -> Result<(), Error> {
        self.inner.writer.write(move |batch| update_trust(batch.tx, &update, Floor::Passed))
    }

    /// A value of the trust state: `root-version`, `time-floor`, or `seq:<stream>`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn trust_value(&self, key: &str) -> Result<Option<i64>, Error> {
        self.inner.readers.read(|c| {
            c.query_row("SELECT value FROM trust WHERE key = ?1", [key], |r| r.get(0))
                .optional()
                .during("read the trust state")
        })
    }
}

impl Store {
    /// The highest sequence number seen of each stream.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn trust_seqs(&self) -> Result<Vec<(String, i64)>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached("SELECT substr(key, 5), value FROM trust WHERE key LIKE 'seq:%' ORDER BY key")
                .during("read the trust state")?;
            let rows = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).during("read the trust state")?;
            rows.collect::<Result<_, _>>().during("read the trust state")
        })
    }
}

/// Notes a ref in generation `number`, and gives the rows of its repository and manifest. Only what the one `before` does not have must be here: else one manifest that was set
/// aside, and that nobody has any more, would keep out all that is new.
fn add_ref(
    tx: &Connection,
    owner: i64,
    (before, number): (u64, u64),
    entry: &StateRef,
    now: i64,
) -> Result<(i64, i64), Error> {
    let found: Option<(i64, bool)> = tx
        .prepare_cached(
            "SELECT id, known FROM (SELECT b.id, b.state, EXISTS
               (SELECT 1 FROM ref f JOIN repository r ON r.id = f.repository
                WHERE r.name = ?2 AND f.name = ?3 AND f.owner = ?4 AND f.generation = ?5 AND f.blob = b.id) AS known
             FROM blob b JOIN manifest m ON m.blob = b.id WHERE b.digest = ?1) WHERE state = 1 OR known",
        )
        .and_then(|mut q| {
            let key = (entry.digest.as_str(), &entry.repository, &entry.name, owner, before);
            q.query_row(key, |r| Ok((r.get(0)?, r.get(1)?))).optional()
        })
        .during("find a manifest")?;
    let (manifest, known) = found.ok_or_else(|| Error::BlobUnknown(entry.digest.clone()))?;
    if !known {
        check_whole(tx, manifest)?;
    }
    let repository = blob::repository_id(tx, &entry.repository)?;
    add_closure(tx, repository, manifest)?;
    tx.prepare_cached(
        "INSERT OR REPLACE INTO ref (repository, name, owner, generation, blob, stored, used)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
    )
    .and_then(|mut q| q.execute((repository, &entry.name, owner, number, manifest, now)))
    .during("set a ref")?;
    Ok((repository, manifest))
}

/// Refuses a manifest whose configuration or layers are not here: what was found here when it was fetched may have gone.
fn check_whole(tx: &Connection, manifest: i64) -> Result<(), Error> {
    match absent(tx, manifest)? {
        Some(digest) => Err(Error::BlobUnknown(digest)),
        None => Ok(()),
    }
}

/// The first that is not here of a manifest's configuration and layers.
pub(super) fn absent(tx: &Connection, manifest: i64) -> Result<Option<Digest>, Error> {
    let absent: Option<String> = tx
        .prepare_cached(
            "SELECT b.digest FROM link l JOIN blob b ON b.id = l.child
             WHERE l.parent = ?1 AND l.kind = 0 AND b.state <> 1 LIMIT 1",
        )
        .and_then(|mut q| q.query_row([manifest], |r| r.get(0)).optional())
        .during("find what is absent")?;
    Ok(absent.and_then(|digest| digest.parse().ok()))
}

/// Sets what an owner pins. What it pinned before may have been set aside since.
fn set_owner_pins(tx: &Connection, owner: &Owner, pins: &[Digest]) -> Result<(), Error> {
    let holder = owner.to_string();
    let mut blobs: Vec<i64> = Vec::with_capacity(pins.len());
    for digest in pins {
        let blob = tx
            .prepare_cached(
                "SELECT b.id FROM blob b WHERE b.digest = ?1 AND
                 (b.state = 1 OR EXISTS (SELECT 1 FROM pin p WHERE p.holder = ?2 AND p.blob = b.id))",
            )
            .and_then(|mut q| q.query_row([digest.as_str(), &holder], |r| r.get(0)).optional())
            .during("find a blob")?;
        blobs.push(blob.ok_or_else(|| Error::BlobUnknown(digest.clone()))?);
    }
    tx.execute("DELETE FROM pin WHERE holder = ?1", [&holder]).during("remove pins")?;
    for blob in blobs {
        tx.execute("INSERT OR IGNORE INTO pin (holder, blob) VALUES (?1, ?2)", (&holder, blob))
            .during("pin a blob")?;
    }
    Ok(())
}

/// Forgets generations beyond those kept. The one in force is kept whatever its number, and so is the one `before` it: it
/// is the way back.
fn drop_old(tx: &Connection, owner: i64, before: u64) -> Result<(), Error> {
    let old = "(SELECT number FROM generation WHERE owner = ?1 AND number NOT IN
        (SELECT number FROM generation WHERE owner = ?1 ORDER BY number DESC LIMIT ?2)
        AND number <> (SELECT current FROM owner WHERE id = ?1) AND number <> ?3)";
    for statement in [
        format!("DELETE FROM ref WHERE owner = ?1 AND generation IN {old}"),
        format!("DELETE FROM chart WHERE owner = ?1 AND generation IN {old}"),
        format!("DELETE FROM replaced WHERE owner = ?1 AND number IN {old}"),
        format!("DELETE FROM generation WHERE owner = ?1 AND number IN {old}"),
    ] {
        tx.execute(&statement, (owner, KEPT, before)).during("forget old generations")?;
    }
    Ok(())
}

/// What the highest sequence number seen is to a new one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    /// The new one must be above it.
    Passed,
    /// It may come once more.
    Reached,
}

fn update_trust(tx: &Connection, update: &TrustUpdate, floor: Floor) -> Result<(), Error> {
    let rise = |key: &str, value: i64| {
        tx.execute(
            "INSERT INTO trust (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = max(value, ?2)",
            (key, value),
        )
        .during("note the trust state")
    };
    if update.forget_seqs {
        tx.execute("DELETE FROM trust WHERE key LIKE 'seq:%' OR key = 'time-floor'", [])
            .during("note the trust state")?;
    }
    if let Some((stream, seq)) = &update.seq {
        let key = format!("seq:{stream}");
        let highest: Option<u64> = tx
            .query_row("SELECT value FROM trust WHERE key = ?1", [&key], |r| r.get(0))
            .optional()
            .during("read the trust state")?;
        if let Some(highest) =
            highest.filter(|highest| seq < highest || (seq == highest && floor == Floor::Passed))
        {
            return Err(Error::Rollback { stream: stream.clone(), seq: *seq, highest });
        }
        rise(&key, i64::try_from(*seq).unwrap_or(i64::MAX))?;
    }
    if let Some(version) = update.root_version {
        rise("root-version", i64::try_from(version).unwrap_or(i64::MAX))?;
    }
    if let Some(floor) = update.time_floor {
        rise("time-floor", floor)?;
    }
    Ok(())
}
