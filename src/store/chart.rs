//! Charts: packages by repository, name and version, with the line that the index has of each.

use rusqlite::{Connection, OptionalExtension, Row};

use super::blob;
use super::error::During;
use super::refs::{Owner, each_first};
use super::{Error, Store};
use crate::sys::digest::Digest;

/// A chart to store; its package, and its provenance if there is one, are stored already.
#[derive(Clone, Debug)]
pub struct NewChart {
    /// The path of the chart repository, empty for the one at the root.
    pub repository: String,
    /// The chart's name.
    pub name: String,
    /// Its version, which need not be a semantic one.
    pub version: String,
    /// The package.
    pub digest: Digest,
    /// The provenance file.
    pub provenance: Option<Digest>,
    /// When it came, in seconds since 1970.
    pub created: i64,
    /// Its entry in the index, a JSON object on one line.
    pub entry: String,
}

/// A chart that is here.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The path of the chart repository.
    pub repository: String,
    /// The chart's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The package.
    pub digest: Digest,
    /// The provenance file.
    pub provenance: Option<Digest>,
    /// When it came, in seconds since 1970.
    pub created: i64,
    /// Its entry in the index, a JSON object on one line.
    pub entry: String,
    /// Whose it is.
    pub owner: Owner,
}

/// What to do where the same version is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Refuse.
    Never,
    /// Put the new one in its place.
    Always,
}

const CHARTS: &str =
    "SELECT c.repository, c.name, c.version, b.digest, p.digest, c.created, c.entry, o.kind, o.name
    FROM chart c CROSS JOIN owner o ON o.id = c.owner AND o.current = c.generation
    CROSS JOIN blob b ON b.id = c.blob AND b.state = 1 LEFT JOIN blob p ON p.id = c.provenance AND p.state = 1";

impl Store {
    /// Stores a chart for `owner`.
    ///
    /// # Errors
    /// [`Error::ChartExists`] unless it may be replaced, [`Error::BlobUnknown`], [`Error::Owned`].
    pub fn put_chart(&self, chart: NewChart, owner: &Owner, replace: Replace) -> Result<(), Error> {
        let owner = owner.clone();
        self.inner.writer.write(move |batch| {
            let (id, generation) = owner.row(batch.tx)?;
            let there = effective(batch.tx, &chart.repository, &chart.name, &chart.version)?;
            if let Some(there) = there {
                if there.owner.kind() < owner.kind() {
                    return Err(owned(there));
                }
                if replace == Replace::Never {
                    return Err(Error::ChartExists { name: chart.name, version: chart.version });
                }
            }
            insert_chart(batch.tx, &chart, id, generation, None)
        })?;
        self.charts_changed();
        Ok(())
    }

    /// Sets the provenance of a pushed chart that is there, given by name and version. False where it is not.
    ///
    /// # Errors
    /// [`Error::ProvenanceExists`] unless it may be replaced, [`Error::BlobUnknown`] where it is not stored,
    /// [`Error::Owned`] where the chart was not pushed.
    pub fn set_provenance(
        &self,
        repository: &str,
        (name, version): (&str, &str),
        provenance: &Digest,
        replace: Replace,
    ) -> Result<bool, Error> {
        let (repository, name, version) = (repository.to_owned(), name.to_owned(), version.to_owned());
        let provenance = provenance.clone();
        let changed = self.inner.writer.write(move |batch| {
            let blob =
                blob::here(batch.tx, &provenance)?.ok_or_else(|| Error::BlobUnknown(provenance.clone()))?;
            let Some(there) = effective(batch.tx, &repository, &name, &version)? else { return Ok(0) };
            if there.owner != Owner::Push {
                return Err(owned(there));
            }
            if there.provenance.is_some() && replace == Replace::Never {
                return Err(Error::ProvenanceExists { name, version });
            }
            batch
                .tx
                .execute(
                    "UPDATE chart SET provenance = ?4 WHERE repository = ?1 AND name = ?2 AND version = ?3
                     AND owner IN (SELECT id FROM owner WHERE kind = 3 AND current = chart.generation)",
                    (&repository, &name, &version, blob),
                )
                .during("note a provenance")
        })?;
        self.charts_changed();
        Ok(changed > 0)
    }

    /// Removes a chart on behalf of `by`. False where it is not there.
    ///
    /// # Errors
    /// [`Error::Owned`] where it belongs to somebody who goes before.
    pub fn remove_chart(
        &self,
        repository: &str,
        name: &str,
        version: &str,
        by: &Owner,
    ) -> Result<bool, Error> {
        let key = (repository.to_owned(), name.to_owned(), version.to_owned());
        let by = by.clone();
        let removed = self.inner.writer.write(move |batch| {
            let Some(there) = effective(batch.tx, &key.0, &key.1, &key.2)? else { return Ok(false) };
            if there.owner.kind() < by.kind() {
                return Err(owned(there));
            }
            batch
                .tx
                .execute(
                    "DELETE FROM chart WHERE repository = ?1 AND name = ?2 AND version = ?3
                     AND EXISTS (SELECT 1 FROM owner o WHERE o.id = chart.owner AND o.current = chart.generation)",
                    (&key.0, &key.1, &key.2),
                )
                .during("remove a chart")?;
            Ok(true)
        })?;
        self.charts_changed();
        Ok(removed)
    }

    /// One chart.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn chart(&self, repository: &str, name: &str, version: &str) -> Result<Option<Chart>, Error> {
        self.inner.readers.read(|c| effective(c, repository, name, version))
    }

    /// The chart whose package is named `<name>-<version>`, wherever the dash between the two lies.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn chart_by_file(&self, repository: &str, stem: &str) -> Result<Option<Chart>, Error> {
        for (at, _) in stem.match_indices('-') {
            if let Some(chart) = self.chart(repository, &stem[..at], &stem[at + 1..])? {
                return Ok(Some(chart));
            }
        }
        Ok(None)
    }

    /// The charts of one repository, ordered by name; all versions of a name stand together, unordered.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn charts(&self, repository: &str, name: Option<&str>) -> Result<Vec<Chart>, Error> {
        let filter = "c.repository = ?1 AND (?2 IS NULL OR c.name = ?2)";
        let mut charts = self.inner.readers.read(|c| select(c, filter, (repository, name)))?;
        // What goes before stands before; the others of the same name and version are hidden by it.
        charts.dedup_by(|later, first| later.name == first.name && later.version == first.version);
        Ok(charts)
    }

    /// Hands `each` all charts, in the order of repositories, names and versions and as they are at one moment.
    ///
    /// # Errors
    /// Where the database cannot be read, and what `each` says.
    pub fn each_chart<E: From<Error>>(&self, mut each: impl FnMut(Chart) -> Result<(), E>) -> Result<(), E> {
        let sql = format!("{CHARTS} ORDER BY c.repository, c.name, c.version");
        let same =
            |a: &Chart, b: &Chart| a.repository == b.repository && a.name == b.name && a.version == b.version;
        self.inner.readers.read(|c| {
            let mut query = c.prepare_cached(&sql).during("list charts")?;
            let rows = query.query([]).during("list charts")?;
            each_first(rows, chart_of, same, |chart| &chart.owner, &mut each)
        })?
    }

    /// The paths of the chart repositories that hold something.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn chart_repositories(&self) -> Result<Vec<String>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached("SELECT DISTINCT repository FROM chart ORDER BY 1")
                .during("list chart repositories")?;
            let rows = query.query_map([], |row| row.get(0)).during("list chart repositories")?;
            rows.collect::<Result<_, _>>().during("list chart repositories")
        })
    }
}

fn owned(there: Chart) -> Error {
    Error::Owned { repository: there.name, name: there.version, owner: there.owner.to_string() }
}

fn effective(tx: &Connection, repository: &str, name: &str, version: &str) -> Result<Option<Chart>, Error> {
    let filter = "c.repository = ?1 AND c.name = ?2 AND c.version = ?3";
    Ok(select(tx, filter, [repository, name, version])?.into_iter().next())
}

/// The charts in force that `filter` (over `c`) selects, by name and version, the owner who goes before first.
fn select(tx: &Connection, filter: &str, values: impl rusqlite::Params) -> Result<Vec<Chart>, Error> {
    let sql = format!("{CHARTS} WHERE {filter} ORDER BY c.name, c.version, o.kind, o.name");
    let mut query = tx.prepare_cached(&sql).during("find charts")?;
    let rows = query.query_map(values, chart_of).during("find charts")?;
    rows.filter_map(Result::transpose).collect::<Result<_, _>>().during("find charts")
}

fn chart_of(row: &Row<'_>) -> rusqlite::Result<Option<Chart>> {
    let digest: String = row.get(3)?;
    let provenance: Option<String> = row.get(4)?;
    let owner = Owner::from_row(row.get(7)?, row.get(8)?);
    let (Ok(digest), Some(owner)) = (digest.parse(), owner) else { return Ok(None) };
    Ok(Some(Chart {
        repository: row.get(0)?,
        name: row.get(1)?,
        version: row.get(2)?,
        digest,
        provenance: provenance.and_then(|p| p.parse().ok()),
        created: row.get(5)?,
        entry: row.get(6)?,
        owner,
    }))
}

/// Notes a chart in a generation of an owner. Its files must be here, unless the owner's generation `before` has the very
/// same chart: one that was set aside does not keep out others.
pub(super) fn insert_chart(
    tx: &Connection,
    chart: &NewChart,
    owner: i64,
    generation: u64,
    before: Option<u64>,
) -> Result<(), Error> {
    let known: Option<(i64, Option<i64>)> = tx
        .prepare_cached(
            "SELECT c.blob, c.provenance FROM chart c JOIN blob b ON b.id = c.blob
             LEFT JOIN blob p ON p.id = c.provenance
             WHERE c.repository = ?1 AND c.name = ?2 AND c.version = ?3 AND c.owner = ?4 AND c.generation = ?5
             AND b.digest = ?6 AND p.digest IS ?7",
        )
        .and_then(|mut q| {
            let provenance = chart.provenance.as_ref().map(Digest::as_str);
            let NewChart { repository, name, version, digest, .. } = chart;
            let key = (repository, name, version, owner, before, digest.as_str(), provenance);
            q.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .during("find a chart")?;
    let here = |digest: &Digest| blob::here(tx, digest)?.ok_or_else(|| Error::BlobUnknown(digest.clone()));
    let (package, provenance) = match known {
        Some(known) => known,
        None => (here(&chart.digest)?, chart.provenance.as_ref().map(here).transpose()?),
    };
    tx.prepare_cached(
        "INSERT OR REPLACE INTO chart (repository, name, version, owner, generation, blob, provenance, created, entry)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )
    .and_then(|mut q| {
        q.execute((
            &chart.repository,
            &chart.name,
            &chart.version,
            owner,
            generation,
            package,
            provenance,
            chart.created,
            &chart.entry,
        ))
    })
    .during("note a chart")?;
    Ok(())
}
