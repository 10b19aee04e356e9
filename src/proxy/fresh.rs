//! Until when what is kept is as the cloud has it: what the cache knows of that, and what the link does.

use super::{Proxy, Shared};
use crate::cache::Freshness;
use crate::link::Phase;

impl Shared {
    /// What is known of the lists in use.
    pub fn freshness(&self) -> Freshness {
        self.cache.freshness(self.link.heard().last(), self.link.state().is_online())
    }

    /// The same up to now, when the link has become this.
    pub fn fresh_until(&self, phase: &Phase) -> Freshness {
        let fresh = self.freshness();
        match phase {
            Phase::Online => self.cache.note_cloud(),
            Phase::Offline(_) => self.cache.note_outage(self.link.heard().last()),
            Phase::Starting | Phase::Replaying => {}
        }
        fresh
    }
}

impl Proxy {
    /// What is known of the lists in use.
    pub fn freshness(&self) -> Freshness {
        self.shared.freshness()
    }

    /// Has it written down, as before the end: what is in memory is lost with that.
    pub fn keep_fresh(&self) {
        let fresh = self.freshness();
        self.shared.cache.record(0, move |writer| writer.keep_fresh(&fresh));
    }
}
