//! `index.yaml`, made from the lines in the store and kept in memory until a chart changes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};

use crate::oci::chart::{newest_first, sound};
use crate::registry::Registry;
use crate::registry::reply::{self, Body, Refusal};
use crate::store::Chart;
use crate::sys::digest::Digest;

/// The indexes that were asked for, by repository, each good for one epoch of the store's charts.
#[derive(Default)]
pub(in crate::registry) struct Indexes(Mutex<HashMap<String, Index>>);

#[derive(Clone)]
struct Index {
    epoch: u64,
    text: Bytes,
    etag: String,
}

impl Registry {
    pub(super) async fn chart_index(
        &self,
        repository: String,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let index = self.index_of(repository).await?;
        let known =
            headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == index.etag.as_bytes());
        let mut response = match known {
            true => reply::empty(StatusCode::NOT_MODIFIED),
            // The whole of it is JSON, which is YAML too, and which Helm reads many times faster.
            false => reply::typed("application/x-yaml", index.text),
        };
        reply::set(&mut response, "etag", &index.etag);
        Ok(response)
    }

    async fn index_of(&self, repository: String) -> Result<Index, Refusal> {
        let epoch = self.store().chart_epoch();
        let known = self.indexes().get(&repository).filter(|index| index.epoch == epoch).cloned();
        if let Some(index) = known {
            return Ok(index);
        }
        let wanted = repository.clone();
        let index = self
            .blocking(move |store| {
                let text: Bytes = render(store.charts(&wanted, None)?).into();
                let etag = format!("\"{}\"", Digest::sha256(&text).hex());
                Ok(Index { epoch, text, etag })
            })
            .await?;
        let mut indexes = self.indexes();
        // Repositories that hold nothing are not remembered: anybody can ask for any path.
        if index.text.len() > EMPTY {
            indexes.insert(repository, index.clone());
        }
        Ok(index)
    }

    fn indexes(&self) -> std::sync::MutexGuard<'_, HashMap<String, Index>> {
        self.inner.indexes.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An index without entries is shorter than this.
const EMPTY: usize = 100;

fn render(mut charts: Vec<Chart>) -> String {
    let generated = charts.iter().map(|chart| chart.created).max().unwrap_or(0);
    let generated = jiff::Timestamp::from_second(generated).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let size: usize = charts.iter().map(|chart| chart.entry.len() + 80).sum();
    let mut text = String::with_capacity(size + EMPTY);
    text.push_str("{\"apiVersion\":\"v1\",\"entries\":{");
    for (n, versions) in charts.chunk_by_mut(|a, b| a.name == b.name).enumerate() {
        versions.sort_by(|a, b| newest_first(&a.version, &b.version));
        text.push_str(if n == 0 { "\n" } else { ",\n" });
        text.push_str(&serde_json::Value::from(versions[0].name.as_str()).to_string());
        text.push_str(":[");
        for (n, chart) in versions.iter().enumerate() {
            text.push_str(if n == 0 { "\n" } else { ",\n" });
            // One field of another shape makes an index of thousands unusable.
            text.push_str(&sound(&chart.entry));
        }
        text.push(']');
    }
    text.push_str("},\n\"generated\":\"");
    text.push_str(&generated.to_string());
    text.push_str("\"}\n");
    text
}
