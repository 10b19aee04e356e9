//! What one owner has in force: the start of its next generation.

use super::error::During;
use super::refs::Owner;
use super::{Error, NewChart, StateOf, StateRef, Store};

impl Store {
    /// All refs and charts of `owner` in the generation in force, and what it pins; also those that an owner who
    /// goes before hides.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn state_of(&self, owner: &Owner) -> Result<StateOf, Error> {
        let key = (owner.kind(), owner.name().to_owned());
        let holder = owner.to_string();
        self.inner.readers.read(|c| {
            let mut state = StateOf::default();
            let mut query = c
                .prepare_cached(
                    "SELECT r.name, f.name, b.digest FROM ref f
                     JOIN owner o ON o.id = f.owner AND o.current = f.generation
                     JOIN repository r ON r.id = f.repository JOIN blob b ON b.id = f.blob
                     WHERE o.kind = ?1 AND o.name = ?2 ORDER BY r.name, f.name",
                )
                .during("list refs")?;
            let mut rows = query.query((key.0, &key.1)).during("list refs")?;
            while let Some(row) = rows.next().during("list refs")? {
                let digest: String = row.get(2).during("list refs")?;
                let Ok(digest) = digest.parse() else { continue };
                let (repository, name) = (row.get(0).during("list refs")?, row.get(1).during("list refs")?);
                state.refs.push(StateRef { repository, name, digest });
            }
            let mut query = c
                .prepare_cached(
                    "SELECT c.repository, c.name, c.version, b.digest, p.digest, c.created, c.entry FROM chart c
                     JOIN owner o ON o.id = c.owner AND o.current = c.generation
                     JOIN blob b ON b.id = c.blob LEFT JOIN blob p ON p.id = c.provenance
                     WHERE o.kind = ?1 AND o.name = ?2 ORDER BY c.repository, c.name, c.version",
                )
                .during("list charts")?;
            let mut rows = query.query((key.0, &key.1)).during("list charts")?;
            while let Some(row) = rows.next().during("list charts")? {
                state.charts.extend(chart(row).during("list charts")?);
            }
            let mut query = c
                .prepare_cached(
                    "SELECT b.digest FROM pin p JOIN blob b ON b.id = p.blob WHERE p.holder = ?1",
                )
                .during("list pins")?;
            let rows = query.query_map([&holder], |row| row.get::<_, String>(0)).during("list pins")?;
            for digest in rows {
                state.pins.extend(digest.during("list pins")?.parse());
            }
            Ok(state)
        })
    }
}

fn chart(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<NewChart>> {
    let digest: String = row.get(3)?;
    let provenance: Option<String> = row.get(4)?;
    let Ok(digest) = digest.parse() else { return Ok(None) };
    Ok(Some(NewChart {
        repository: row.get(0)?,
        name: row.get(1)?,
        version: row.get(2)?,
        digest,
        provenance: provenance.and_then(|p| p.parse().ok()),
        created: row.get(5)?,
        entry: row.get(6)?,
    }))
}
