//! Removing what nobody needs.
//!
//! What is needed is marked and the rest's rows removed in one transaction of the writer, so that no
//! push falls between the two. Files go after the commit, each only while its row is still gone.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::error::During;
use super::lived::Lived;
use super::quarantine::Aside;
use super::{Error, Store, failpoint, untagged};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::durable;

/// Files removed in one piece of the writer's time.
const SLICE: usize = 100;

/// What a collection may remove. Periods are of at most seven days.
#[derive(Clone, Debug)]
pub struct GcSettings {
    /// What was stored or used within this time stays: somebody may be about to refer to it. Times are what this gateway
    /// ran: neither a clock that jumps nor a time without power makes anything old. Under a limit this is not for what something refers to already.
    pub grace: Duration,
    /// Bytes that may be held by pull-through alone; the least recently used goes beyond them.
    pub pull_through_limit: Option<u64>,
    /// Uploads that nobody wrote to within this time go.
    pub uploads: Duration,
}

impl Default for GcSettings {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { grace: day, pull_through_limit: None, uploads: 7 * day }
    }
}

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default)]
pub struct GcPlan {
    /// Blobs and manifests that are here.
    pub blobs: u64,
    /// Those among them that go, with their bytes.
    pub remove: Vec<(Digest, u64)>,
    /// Names of pull-through that go for the limit, as `repository:tag`.
    pub evict: Vec<String>,
    /// Files in the blobs' folders that no row names.
    pub orphans: u64,
    /// Uploads given up.
    pub uploads: u64,
    /// Blobs that nobody needs either, and that stay since they are younger than the grace or come right now.
    pub young: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// What lies in the quarantine.
    pub aside: Aside,
}

impl GcPlan {
    /// Bytes that are freed.
    pub fn bytes(&self) -> u64 {
        self.remove.iter().map(|(_, size)| size).sum::<u64>() + self.aside.freed_bytes
    }
}

/// Starts of the transfers that are under way, in seconds since 1970.
#[derive(Default)]
pub(super) struct Holds(Mutex<BTreeMap<u64, i64>>);

impl Holds {
    /// Whether there is another one than `id`.
    pub(super) fn has_other(&self, id: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().any(|other| *other != id)
    }
}

/// While it lives, nothing that was stored since it was made is collected, however long that takes.
pub struct Hold {
    store: Store,
    pub(super) id: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.store.inner.holds.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Store {
    /// Keeps what is stored from now on until the hold is dropped; for imports and mirror runs.
    pub fn hold(&self) -> Hold {
        let mut holds = self.inner.holds.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = holds.last_key_value().map_or(0, |(last, _)| last + 1);
        holds.insert(id, clock::now().as_second());
        Hold { store: self.clone(), id }
    }

    /// What a collection would remove now.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn plan_gc(&self, settings: &GcSettings) -> Result<GcPlan, Error> {
        let (cutoff, recent) = self.spared(settings, &self.lived()?);
        let limit = settings.pull_through_limit;
        let aside = self.in_quarantine()?;
        self.inner.writer.write(move |batch| {
            let (_, mut plan) = decide(batch.tx, cutoff, &recent, limit)?;
            for file in aside {
                let wanted = file.is_wanted(batch.tx, true)?;
                plan.aside.count(&file, wanted);
            }
            batch.tx.execute_batch("DROP TABLE temp.keep").during("end a mark")?;
            Ok(plan)
        })
    }

    /// Removes what nobody needs.
    ///
    /// # Errors
    /// Where the database or the folders cannot be changed; what was removed by then stays removed.
    pub fn collect(&self, settings: &GcSettings) -> Result<GcPlan, Error> {
        self.flush_used()?;
        let lived = self.live_on()?;
        let (cutoff, recent) = self.spared(settings, &lived);
        let limit = settings.pull_through_limit;
        let mut plan = self.inner.writer.write(move |batch| {
            let (mark, plan) = decide(batch.tx, cutoff, &recent, limit)?;
            sweep_rows(batch.tx, &mark)?;
            Ok(plan)
        })?;
        self.changed();
        self.charts_changed();
        for slice in plan.remove.chunks(SLICE) {
            self.remove_files(slice.iter().map(|(digest, _)| digest.clone()).collect())?;
        }
        plan.aside = self.clear_quarantine()?;
        // Times of files are the machine's. A clock that is behind the floor would make all of them old.
        plan.orphans = self.remove_orphans(lived.machine_ago(seconds(settings.grace)))?;
        plan.uploads = self.drop_stale_uploads(lived.machine_ago(seconds(settings.uploads)))?;
        Ok(plan)
    }

    /// The last second that counts as old, and the blobs that this process used lately.
    fn spared(&self, settings: &GcSettings, lived: &Lived) -> (i64, Vec<i64>) {
        let holds = self.inner.holds.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = holds.values().min().copied().unwrap_or(i64::MAX);
        ((held - 1).min(lived.wall_ago(seconds(settings.grace))), self.recently_used(settings.grace))
    }

    /// Unlinks files on the writer's thread, so that no upload of the same bytes is renamed in between.
    pub(super) fn remove_files(&self, digests: Vec<Digest>) -> Result<u64, Error> {
        let store = self.clone();
        self.inner.writer.write(move |batch| {
            let mut removed = 0;
            for digest in digests {
                let known: bool = batch
                    .tx
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM blob WHERE digest = ?1 AND state = 1)")
                    .and_then(|mut q| q.query_row([digest.as_str()], |row| row.get(0)))
                    .during("find a blob")?;
                let path = store.blob_path(&digest);
                if !known {
                    failpoint::pass("gc-unlink");
                    match std::fs::remove_file(&path) {
                        Ok(()) => removed += 1,
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                        Err(e) => return Err(durable::named(e, "remove", &path).into()),
                    }
                }
            }
            Ok(removed)
        })
    }

    /// Removes files of blobs that no row names, older than `before`: left by a power cut between a
    /// rename and its commit, or between a sweep and its unlinking.
    fn remove_orphans(&self, before: i64) -> Result<u64, Error> {
        let mut found = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let folder = self.inner.settings.folder.join("blobs").join(algorithm);
            for shard in list(&folder)? {
                for path in list(&shard)? {
                    let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else { continue };
                    let old =
                        std::fs::metadata(&path).is_ok_and(|meta| meta.mtime().max(meta.ctime()) < before);
                    if old {
                        found.push(digest);
                    }
                }
            }
        }
        let mut removed = 0;
        for slice in found.chunks(SLICE) {
            removed += self.remove_files(slice.to_vec())?;
        }
        Ok(removed)
    }
}

fn seconds(period: Duration) -> i64 {
    i64::try_from(period.as_secs()).unwrap_or(i64::MAX / 2)
}

fn list(folder: &std::path::Path) -> Result<Vec<PathBuf>, Error> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(e) => Err(durable::named(e, "list", folder).into()),
    }
}

/// The keys of refs that go: repository, name, owner, and how people write them.
type Evicted = Vec<(i64, String, i64, String)>;

/// Fills `temp.keep` with the rows of all blobs that stay, and says which pull-through refs go. What stays for its youth
/// alone is `young` there: it is marked after what is needed, so that a blob which is both is needed.
fn mark(tx: &Connection, cutoff: i64, recent: &[i64], limit: Option<u64>) -> Result<Evicted, Error> {
    tx.execute_batch(
        "DROP TABLE IF EXISTS temp.keep; CREATE TEMP TABLE keep (id INTEGER PRIMARY KEY, young INTEGER NOT NULL)",
    )
    .during("begin a mark")?;
    let unlimited = i64::from(limit.is_none());
    let needed = "SELECT f.blob FROM ref f JOIN owner o ON o.id = f.owner WHERE o.kind <> 2 OR ?1
         UNION SELECT blob FROM chart UNION SELECT provenance FROM chart WHERE provenance IS NOT NULL
         UNION SELECT blob FROM pin";
    tx.execute(&keep(needed, 0), [unlimited]).during("mark what is needed")?;
    let young = "SELECT id FROM blob WHERE max(stored, used) > ?2 AND state <> 0 AND (?1 OR id NOT IN (
             SELECT child FROM link UNION SELECT f.blob FROM ref f JOIN owner o ON o.id = f.owner WHERE o.kind = 2))
         UNION SELECT blob.id FROM json_each(?3) JOIN blob ON blob.id = json_each.value";
    let recent = serde_json::Value::from(recent).to_string();
    tx.execute(&keep(young, 1), (unlimited, cutoff, recent)).during("mark what is young")?;
    match limit {
        None => Ok(Vec::new()),
        Some(limit) => mark_pulled(tx, limit),
    }
}

/// All that `roots` selects, is linked to from there, or is about it; not gone into where it is needed already.
fn below(roots: &str) -> String {
    let new = |id: &str| format!("NOT EXISTS (SELECT 1 FROM temp.keep k WHERE k.id = {id} AND NOT k.young)");
    format!(
        "WITH RECURSIVE root (id) AS ({roots}), needed (id) AS (
           SELECT id FROM root WHERE {}
           UNION SELECT l.child FROM link l JOIN needed ON l.parent = needed.id WHERE {}
           UNION SELECT m.blob FROM manifest m JOIN needed ON m.subject = needed.id WHERE {})",
        new("root.id"),
        new("l.child"),
        new("m.blob")
    )
}

/// Keeps all that is [`below`]. What is kept already can only become needed.
fn keep(roots: &str, young: u8) -> String {
    format!(
        "INSERT INTO temp.keep (id, young) {} SELECT id, {young} FROM needed WHERE true
         ON CONFLICT (id) DO UPDATE SET young = min(young, excluded.young)",
        below(roots)
    )
}

/// Marks pull-through refs, the most recently used first, for as long as their bytes fit.
fn mark_pulled(tx: &Connection, limit: u64) -> Result<Evicted, Error> {
    let mut query = tx
        .prepare(
            "SELECT f.repository, f.name, f.owner, f.blob, r.name FROM ref f JOIN owner o ON o.id = f.owner
             JOIN repository r ON r.id = f.repository WHERE o.kind = 2 ORDER BY f.used DESC, f.stored DESC",
        )
        .during("list pull-through")?;
    let refs: Vec<(i64, String, i64, i64, String)> = query
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))
        .and_then(Iterator::collect)
        .during("list pull-through")?;
    let size = format!(
        "{} SELECT coalesce(sum(b.size), 0) FROM needed JOIN blob b ON b.id = needed.id
         WHERE b.state = 1 AND b.id NOT IN (SELECT id FROM temp.keep)",
        below("SELECT ?1")
    );
    let insert = keep("SELECT ?1", 0);
    let (mut total, mut full, mut evicted) = (0_u64, false, Vec::new());
    for (repository, name, owner, blob, repository_name) in refs {
        let more: u64 = tx
            .prepare_cached(&size)
            .and_then(|mut q| q.query_row([blob], |row| row.get(0)))
            .during("size pull-through")?;
        full |= more > 0 && total.saturating_add(more) > limit;
        if !full {
            total += more;
            tx.prepare_cached(&insert).and_then(|mut q| q.execute([blob])).during("mark pull-through")?;
        } else if more > 0 {
            let between = if name.contains(':') { '@' } else { ':' };
            let text = format!("{repository_name}{between}{name}");
            evicted.push((repository, name, owner, text));
        }
    }
    Ok(evicted)
}

/// Marks what stays, and says what goes.
fn decide(
    tx: &Connection,
    cutoff: i64,
    recent: &[i64],
    limit: Option<u64>,
) -> Result<(Evicted, GcPlan), Error> {
    let evicted = mark(tx, cutoff, recent, limit)?;
    let mut plan =
        GcPlan { evict: evicted.iter().map(|(.., text)| text.clone()).collect(), ..GcPlan::default() };
    plan.blobs = tx
        .query_row("SELECT count(*) FROM blob WHERE state = 1", [], |row| row.get(0))
        .during("count blobs")?;
    (plan.young, plan.young_bytes) = tx
        .query_row(
            "SELECT count(*), coalesce(sum(b.size), 0) FROM temp.keep k JOIN blob b ON b.id = k.id
             WHERE k.young AND b.state = 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .during("count what is young")?;
    let mut query = tx
        .prepare("SELECT digest, size FROM blob WHERE state = 1 AND id NOT IN (SELECT id FROM temp.keep) ORDER BY digest")
        .during("list garbage")?;
    let mut rows = query.query([]).during("list garbage")?;
    while let Some(row) = rows.next().during("list garbage")? {
        let digest: String = row.get(0).during("list garbage")?;
        if let Ok(digest) = digest.parse() {
            plan.remove.push((digest, row.get(1).during("list garbage")?));
        }
    }
    Ok((evicted, plan))
}

/// Removes the rows of all that is not marked.
fn sweep_rows(tx: &Connection, evicted: &Evicted) -> Result<(), Error> {
    for (repository, name, owner, _) in evicted {
        tx.execute(
            "DELETE FROM ref WHERE repository = ?1 AND name = ?2 AND owner = ?3",
            (repository, name, owner),
        )
        .during("evict")?;
    }
    untagged::forget(tx)?;
    tx.execute_batch(
        "DELETE FROM manifest WHERE blob NOT IN (SELECT id FROM temp.keep);
         DELETE FROM link WHERE parent NOT IN (SELECT id FROM temp.keep);
         DELETE FROM member WHERE blob NOT IN (SELECT id FROM temp.keep);
         DELETE FROM blob WHERE id NOT IN (SELECT id FROM temp.keep)
           AND id NOT IN (SELECT child FROM link) AND id NOT IN (SELECT subject FROM manifest WHERE subject IS NOT NULL);
         UPDATE blob SET state = 0 WHERE id NOT IN (SELECT id FROM temp.keep);
         DROP TABLE temp.keep;",
    )
    .during("sweep")
}
