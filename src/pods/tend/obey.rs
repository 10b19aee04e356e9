//! Orders of the cloud: begun once they are remembered, carried out, and told.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::act::{Error, Hand};
use super::notebook::Notebook;
use super::orders::{Order, Orders};
use super::rows::Row;
use super::{Ended, Tender, What};
use crate::pods::event::Kind;
use crate::pods::restart;
use crate::pods::view::runtime_uid;

/// How long an order waits for a kubelet or a runtime that is away.
const ORDER_WAITS: Duration = Duration::from_secs(120);
/// Between two tries of such an order.
const RETRY: Duration = Duration::from_secs(1);

impl Tender {
    /// Begins what the cloud ordered anew; true if some of it must wait.
    pub(super) async fn obey(&mut self, rows: &[Row]) -> bool {
        let mut ordered = Vec::new();
        for row in rows {
            let values = row.orders.each_ref().map(Option::as_deref);
            match self.book.page(&row.uid) {
                None => self.book.begin(&row.uid, Orders::first(values)),
                Some(page) => {
                    let before = page.orders.clone();
                    ordered.extend(page.orders.take(values).map(|order| (row, before, order)));
                }
            }
        }
        if ordered.is_empty() {
            return false;
        }
        // Before anything is stopped: a value is carried out once, also over a power cut.
        if !self.saved(Notebook::save) {
            for (row, before, order) in ordered {
                if let Some(page) = self.book.page(&row.uid) {
                    page.orders = before;
                }
                self.put_off(row, &order).await;
            }
            return true;
        }
        self.put_off.clear();
        for (row, _, order) in ordered {
            let Some(pod) = self.cached(row).await else { continue };
            tracing::info!(pod = row.name(), order = order.given, "a restart was ordered");
            let hand = self.hand.clone();
            self.at_work.spawn(async move {
                let outcome = obey(&hand, &pod, order.part.clone()).await;
                Ended { pod, what: What::Obeyed(order, outcome) }
            });
        }
        false
    }

    /// Tells once that an order waits until it can be remembered.
    async fn put_off(&mut self, row: &Row, order: &Order) {
        if !self.put_off.insert((row.uid.clone(), order.given.clone())) {
            return;
        }
        let Some(pod) = self.cached(row).await else { return };
        let why = self.unsaved.clone().unwrap_or_default();
        let message = format!("restart by {} put off until it can be remembered: {why}", order.given);
        self.say(&pod, Kind::Warning, "RestartFailed", &message).await;
    }

    async fn cached(&self, row: &Row) -> Option<Value> {
        let key = row.key.clone();
        let read = self.hand.cache.read(move |reader| reader.object(&key)).await;
        read.ok().flatten().map(|pod| pod.body)
    }

    /// Tells how an order ended, and remembers it.
    pub(super) async fn obeyed(
        &mut self,
        uid: &str,
        pod: &Value,
        order: &Order,
        outcome: Result<(bool, String), Error>,
    ) {
        if let Some(page) = self.book.page(uid) {
            page.orders.begun = None;
        }
        self.saved(Notebook::save);
        let (kind, reason, message) = match outcome {
            Ok((whole, runs)) => {
                let what = if whole { "the whole pod" } else { "its containers" };
                (Kind::Normal, "Restarted", format!("{what} restarted by {}: {runs}", order.given))
            }
            Err(Error::Refused(why)) => {
                (Kind::Warning, "RestartRefused", format!("not restarted by {}: {why}", order.given))
            }
            Err(error) => (Kind::Warning, "RestartFailed", format!("restart by {}: {error}", order.given)),
        };
        self.say(pod, kind, reason, &message).await;
    }

    /// Orders that had begun when the daemon ended: nobody knows how far they came, and a value counts once.
    pub(super) async fn tell_interrupted(&mut self) {
        let begun: Vec<(String, String)> = self
            .book
            .pages()
            .filter_map(|(uid, page)| Some((uid.to_owned(), page.orders.begun.take()?)))
            .collect();
        if begun.is_empty() {
            return;
        }
        self.saved(Notebook::save);
        let pods = self.hand.cache.read(|reader| reader.all("v1/pods")).await.unwrap_or_default();
        for (uid, given) in begun {
            if let Some(pod) = pods.iter().find(|pod| runtime_uid(pod) == Some(&uid)) {
                let message =
                    format!("edge ended while it restarted the pod by {given}: it is not done again");
                self.say(pod, Kind::Warning, "RestartFailed", &message).await;
            }
        }
    }
}

/// Carries an order out, waiting a while for a kubelet or a runtime that is away. Whether it was the whole pod, which it
/// may be unasked where nothing of it runs; and what runs then.
async fn obey(hand: &Hand, pod: &Value, part: restart::Part) -> Result<(bool, String), Error> {
    let until = Instant::now() + ORDER_WAITS;
    let plan = loop {
        match hand.stop(pod, part.clone()).await {
            Err(error) if error.passes() && Instant::now() < until => tokio::time::sleep(RETRY).await,
            stopped => break stopped?,
        }
    };
    Ok((plan.sandbox.is_some(), hand.wait(pod, &plan).await?))
}
