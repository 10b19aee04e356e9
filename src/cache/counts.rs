//! How much is kept, of whom, and how old it is.

use rusqlite::params;

use super::fresh::KNOWN;
use super::{CacheError, Freshness, Reader};

/// `list`, of that and [`Freshness::is_complete`] as `?2`: until when each list that was read in full is known to be as
/// the cloud has it, whether it is in use, and whether it is watched now.
const LISTS: &str = "list AS MATERIALIZED (SELECT scope.id, scope.identity, scope.resource, scope.used,
    max(scope.synced, coalesce(known.until, fresh.until, scope.synced)) AS until,
    known.scope IS NOT NULL OR (NOT ?2 AND fresh.scope IS NOT NULL) AS in_use, coalesce(known.current, 0) AS current
    FROM scope LEFT JOIN known ON known.scope = scope.id LEFT JOIN fresh ON fresh.scope = scope.id)";

/// Of some lists the oldest that is in use. Where none is, the oldest of those that were asked for, or that a pod needs,
/// on the last days: one that somebody read once, long ago, says nothing.
const OLDEST: &str = "coalesce(min(until) FILTER (WHERE in_use),
    min(until) FILTER (WHERE used >= (SELECT max(used) FROM list) - 1), max(until)),
    coalesce(min(current) FILTER (WHERE in_use AND until NOT NULL), 0)";

/// How much of one resource is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Such as `v1/pods`.
    pub resource: String,
    /// Objects.
    pub objects: i64,
    /// Bytes of their bodies.
    pub bytes: i64,
    /// Seconds since 1970 until when the oldest of its lists that are in use was as the cloud has it.
    pub synced: Option<i64>,
    /// All of these are being watched.
    pub is_current: bool,
}

/// What one identity has read of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Who.
    pub identity: String,
    /// Such as `v1/pods`.
    pub resource: String,
    /// Objects that it may read back.
    pub objects: i64,
    /// As [`Count::synced`]; `None` if no list is complete.
    pub synced: Option<i64>,
    /// As [`Count::is_current`].
    pub is_current: bool,
}

impl Reader {
    /// What each identity has read, by identity and resource.
    ///
    /// # Errors
    /// The statement's.
    pub fn readings(&self, fresh: &Freshness) -> Result<Vec<Reading>, CacheError> {
        let sql = format!(
            "WITH {KNOWN}, {LISTS} SELECT identity.name, list.resource, COUNT(DISTINCT member.object), {OLDEST}
             FROM list JOIN identity ON identity.id = list.identity LEFT JOIN member ON member.scope = list.id
             GROUP BY identity.name, list.resource ORDER BY identity.name, list.resource"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let given = params![fresh.located(self.db())?, fresh.is_complete];
        let rows = statement.query_map(given, |row| {
            Ok(Reading {
                identity: row.get(0)?,
                resource: row.get(1)?,
                objects: row.get(2)?,
                synced: row.get(3)?,
                is_current: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How much is kept of each resource.
    ///
    /// # Errors
    /// The statement's.
    pub fn counts(&self, fresh: &Freshness) -> Result<Vec<Count>, CacheError> {
        let sql = format!(
            "WITH {KNOWN}, {LISTS} SELECT list.resource,
                    (SELECT COUNT(*) FROM object WHERE object.resource = list.resource),
                    (SELECT COALESCE(SUM(LENGTH(body)), 0) FROM object WHERE object.resource = list.resource),
                    {OLDEST}
             FROM list GROUP BY list.resource ORDER BY list.resource"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let given = params![fresh.located(self.db())?, fresh.is_complete];
        let rows = statement.query_map(given, |row| {
            Ok(Count {
                resource: row.get(0)?,
                objects: row.get(1)?,
                bytes: row.get(2)?,
                synced: row.get(3)?,
                is_current: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
