//! Lists of clients of which a part came faster than it could be kept. Whoever goes on from one of them must read it
//! anew, and nobody else.

use std::collections::HashSet;

use tokio::sync::watch;

use crate::cache::ScopeKey;

/// Lists that are remembered at the most; of more, one of whoever has a new one goes first.
const REMEMBERED: usize = 1024;

/// The lists; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Torn {
    lists: watch::Sender<HashSet<ScopeKey>>,
}

impl Torn {
    /// Of this list a part is missing.
    pub fn note(&self, list: &ScopeKey) {
        tracing::debug!(
            identity = list.identity,
            resource = list.resource,
            "came faster than it can be kept"
        );
        self.lists.send_if_modified(|lists| {
            if lists.len() >= REMEMBERED && !lists.contains(list) {
                let own = lists.iter().find(|other| other.identity == list.identity);
                if let Some(other) = own.or(lists.iter().next()).cloned() {
                    lists.remove(&other);
                }
            }
            lists.insert(list.clone())
        });
    }

    /// Waits until a part of this list is missing, which is then no longer remembered: its client is told.
    pub async fn tell(&self, list: &ScopeKey) {
        // The sender is held here.
        let _ = self.lists.subscribe().wait_for(|lists| lists.contains(list)).await;
        self.forget(list);
    }

    /// It is read anew.
    pub fn forget(&self, list: &ScopeKey) {
        self.lists.send_if_modified(|lists| lists.remove(list));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn list(identity: &str, n: usize) -> ScopeKey {
        ScopeKey {
            identity: identity.into(),
            resource: "v1/configmaps".into(),
            namespace: String::new(),
            labels: format!("n={n}"),
            fields: String::new(),
        }
    }

    #[test]
    fn only_whoever_goes_on_from_a_torn_list_is_told_and_once() {
        let torn = Torn::default();
        torn.note(&list("a", 1));
        assert!(torn.tell(&list("b", 1)).now_or_never().is_none(), "of another client");
        assert!(torn.tell(&list("a", 2)).now_or_never().is_none(), "another list");
        assert!(torn.tell(&list("a", 1)).now_or_never().is_some());
        assert!(torn.tell(&list("a", 1)).now_or_never().is_none(), "it reads anew");
    }

    #[test]
    fn one_client_with_ever_new_lists_pushes_out_its_own() {
        let torn = Torn::default();
        torn.note(&list("other", 0));
        (0..3 * REMEMBERED).for_each(|n| torn.note(&list("greedy", n)));
        assert_eq!(torn.lists.borrow().len(), REMEMBERED);
        assert!(torn.tell(&list("other", 0)).now_or_never().is_some());
    }
}
