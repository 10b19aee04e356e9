//! Addresses as people are told them: without what may be secret in them. Pure.

use super::settings::{Fault, Settings};
use crate::sys::digest::Digest;

/// What is wrong with an address that holds a credential.
pub(super) const CREDENTIAL: &str =
    "it holds a credential, which is not sent hint: put it in the file that `mirror.docker-config` names";

/// Whether a user or a password is written before the host of an address.
pub(super) fn holds_credential(address: &str) -> bool {
    shown(address) != without_query(address)
}

/// An address without what may be secret in it, as it is written besides.
pub(super) fn shown(address: &str) -> String {
    let address = without_query(address);
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let (server, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// The label of a rule for an address and what else tells it from others: `charts https://charts.example.com app`. In
/// place of the query, which may be secret, is a short digest of it: two rules may differ in that alone.
pub(super) fn label(kind: &str, address: &str, rest: &str) -> String {
    let query = address.split_once('?').map(|(_, query)| query.split('#').next().unwrap_or_default());
    let query = query.map(|query| format!(" (query {})", &Digest::sha256(query.as_bytes()).hex()[..8]));
    format!("{kind} {}{}{rest}", shown(address), query.unwrap_or_default())
}

/// A label as it is written now: an edge of before wrote addresses as they are.
pub(super) fn relabelled(known: &str) -> Option<String> {
    let (kind, named) = known.split_once(' ').filter(|(kind, _)| matches!(*kind, "charts" | "manifests"))?;
    let (address, rest) = named.split_at(named.find(' ').unwrap_or(named.len()));
    let is_address = address.contains("://");
    is_address.then(|| label(kind, address, rest)).filter(|label| label != known)
}

impl Settings {
    /// What is written in a rule and of no use to it. That is no reason to refuse it: an edge of before took it, and
    /// one that is updated must start.
    pub fn ignored(&self) -> Vec<Fault> {
        let mut ignored = Vec::new();
        for (at, rule) in self.charts.iter().enumerate() {
            let key = format!("mirror.charts[{at}].repository");
            if holds_credential(&rule.repository) {
                ignored.push(Fault::new(&key, CREDENTIAL));
            }
            if without_query(&rule.repository) != rule.repository {
                let why =
                    format!("`{}` has a query, which is not sent for an index", shown(&rule.repository));
                ignored.push(Fault::new(&key, why));
            }
        }
        for (at, rule) in self.manifests.iter().enumerate() {
            let key = format!("mirror.manifests[{at}]");
            if rule.url.as_deref().is_some_and(holds_credential) {
                ignored.push(Fault::new(format!("{key}.url"), CREDENTIAL));
            }
            if rule.insecure && rule.url.is_none() {
                let why = "it is for the web server of `url` hint: allow plain HTTP to a registry in a rule of its images";
                ignored.push(Fault::new(format!("{key}.insecure"), why));
            }
        }
        ignored
    }
}

fn without_query(address: &str) -> &str {
    address.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_rules_apart_and_nothing_that_is_secret() {
        for (address, rest, now) in [
            ("https://x.example/all.yaml", "", "manifests https://x.example/all.yaml"),
            ("https://a:b@x.example/all.yaml#c", " app", "manifests https://x.example/all.yaml app"),
            ("https://x.example/all.yaml?ref=1", "", "manifests https://x.example/all.yaml (query 0833e654)"),
            (
                "https://x.example/all.yaml?ref=2#c",
                "",
                "manifests https://x.example/all.yaml (query aa962a51)",
            ),
        ] {
            assert_eq!(label("manifests", address, rest), now);
            let before = format!("manifests {address}{rest}");
            assert_eq!(relabelled(&before).unwrap_or(before), now);
            assert_eq!(relabelled(now), None, "it is so already");
        }
        for other in
            ["images x.example/a", "manifests /etc/all.yaml?x", "cluster", "git https://a:b@x.example/a"]
        {
            assert_eq!(relabelled(other), None, "{other}");
        }
    }
}
