//! Clients other than kubelet: whose readings are kept, which resources are left out, and what each was refused.
//!
//! Decides nothing about who may read: the cloud does, and `caller` while it is away.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{StatusCode, header};

use super::caller::Caller;
use super::forward::Call;
use super::replay::plain;
use super::settings::ClientSettings;
use super::torn::Torn;
use crate::cache::{Cache, CacheError, Era, Right};
use crate::kube::{Request as KubeRequest, ResourceRequest};

/// Clients that are remembered at the most; of more, the one that was not seen for longest goes.
const REMEMBERED: usize = 256;

/// Under which name it is kept which settings were in force last.
const META: &str = "clients";

/// What was seen of one client since the daemon began.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it calls itself, such as `kube-proxy`; empty if it does not.
    pub agent: String,
    /// When it asked last.
    pub at: jiff::Timestamp,
    /// How often edge refused it while the cloud was away.
    pub refused: u64,
    /// The last time it did.
    pub last: Option<Refusal>,
}

/// A request that edge refused while the cloud was away.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Such as `list apps/v1/deployments`.
    pub request: String,
    /// The HTTP status.
    pub code: u16,
    /// When.
    pub at: jiff::Timestamp,
}

/// Clients since the daemon began, by identity.
#[derive(Debug, Default)]
pub struct Clients {
    seen: Mutex<HashMap<String, Seen>>,
    /// Whose statuses of which resources the cloud has taken, and in which era of the cache that was recorded.
    told: Mutex<HashSet<(String, Right, Era)>>,
}

impl Clients {
    /// Notes a request, and the status that edge itself refused it with, if it did. Who is not `known` goes by the hash
    /// of its token, whatever that says of itself.
    pub fn note(&self, call: &Call, known: bool, refused: Option<StatusCode>) {
        let Caller::Bearer(bearer) = &call.caller else { return };
        let now = crate::sys::clock::now();
        let mut seen = self.locked();
        let identity = if known { bearer.identity() } else { bearer.hashed() };
        if seen.len() >= REMEMBERED && !seen.contains_key(&identity) {
            // Anybody can make up tokens; those that have a name are not pushed out by them.
            let oldest =
                seen.iter().min_by_key(|(identity, seen)| (!identity.starts_with("token:"), seen.at));
            let oldest = oldest.map(|(identity, _)| identity.clone());
            oldest.and_then(|identity| seen.remove(&identity));
        }
        let entry = seen.entry(identity);
        let entry = entry.or_insert_with(|| Seen { agent: String::new(), at: now, refused: 0, last: None });
        agent(call).clone_into(&mut entry.agent);
        entry.at = now;
        if let Some(code) = refused {
            entry.refused += 1;
            entry.last = Some(Refusal { request: describe(call), code: code.as_u16(), at: now });
        }
    }

    /// Whether the cloud takes a status of this resource from this client for the first time in this era of the cache.
    pub fn is_first_status(&self, identity: &str, right: &Right, era: Era) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert((identity.to_owned(), right.clone(), era))
    }

    /// The cloud does not take it any more.
    pub fn forget_status(&self, identity: &str, right: &Right, era: Era) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.remove(&(identity.to_owned(), right.clone(), era));
    }

    /// What was forgotten is noted again by this.
    pub fn forget_statuses(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All that were seen, by identity.
    pub fn all(&self) -> HashMap<String, Seen> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The program in a User-Agent: what stands before the first slash.
pub fn agent(call: &Call) -> &str {
    let text = call.head.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(['/', ' ']).next().unwrap_or_default()
}

fn describe(call: &Call) -> String {
    match &call.request {
        KubeRequest::Resource(request) => {
            let sub = request.subresource.as_ref().map_or_else(String::new, |sub| format!("/{sub}"));
            format!("{} {}{sub}", format!("{:?}", request.verb).to_lowercase(), request.gvr)
        }
        KubeRequest::NonResource { path, .. } => format!("{} {path}", call.head.method),
    }
}

impl ClientSettings {
    /// Why nothing of what `call` reads is kept; `None` if it is.
    pub fn why_not(&self, call: &Call) -> Option<String> {
        let Caller::Bearer(bearer) = &call.caller else { return None };
        if !self.is_chosen(&bearer.identity(), agent(call)) {
            return Some("this client is not among `proxy.clients.cached`".to_owned());
        }
        let left_out = call.request.resource().filter(|request| self.is_left_out(request))?;
        Some(format!("{} is among `proxy.clients.leave-out`", left_out.gvr))
    }

    fn is_chosen(&self, identity: &str, agent: &str) -> bool {
        let account = identity.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split('/').next());
        let account = account.and_then(|account| account.split_once(':'));
        self.cached.iter().any(|choice| match (choice.strip_prefix("agent:"), choice.split_once('/')) {
            (Some(wanted), _) => wanted == agent,
            (None, Some((namespace, name))) => {
                account.is_some_and(|(of, is)| namespace == of && (name == "*" || name == is))
            }
            (None, None) => choice == "*",
        })
    }

    fn is_left_out(&self, request: &ResourceRequest) -> bool {
        self.leaves_out(&request.gvr.group, &request.gvr.resource)
    }

    fn leaves_out(&self, group: &str, resource: &str) -> bool {
        self.leave_out.iter().any(|written| match written.split_once('.') {
            Some((name, of)) => of == group && (name == "*" || name == resource),
            None => group.is_empty() && written == resource,
        })
    }

    /// Removes from the disk what was kept before these settings were in force and is not any more. What a client calls
    /// itself is not kept: whoever is chosen by that alone reads anew.
    ///
    /// # Errors
    /// When it cannot be removed; it is tried again when the cloud comes the next time.
    pub async fn leave_behind(&self, cache: &Cache, torn: &Torn) -> Result<(), CacheError> {
        let now = serde_json::json!([self.cached, self.leave_out]).to_string();
        if cache.read(|reader| reader.meta(META)).await?.as_deref() == Some(&*now) {
            return Ok(());
        }
        let settings = self.clone();
        let forget = move |writer: &mut crate::cache::Writer| {
            let is_left_out = |kept: &str| {
                let (of, resource) = plain(kept).rsplit_once('/').unwrap_or_default();
                settings.leaves_out(of.split_once('/').map_or("", |(group, _)| group), resource)
            };
            writer.keep_clients(|identity| settings.is_chosen(identity, ""), is_left_out)
        };
        let lists = cache.commit(forget).await?;
        lists.iter().for_each(|list| torn.reread(list));
        // Documents may have gone where no list has.
        cache.compact().await?;
        if !lists.is_empty() {
            tracing::info!(lists = lists.len(), "forgot what `proxy.clients` leaves out");
        }
        cache.commit(move |writer| writer.set_meta(META, &now)).await
    }

    /// What is wrong with the entries: the key, the entry, and what it should be.
    pub fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let word = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._*".contains(c))
        };
        let client = |choice: &str| match (choice.strip_prefix("agent:"), choice.split_once('/')) {
            (Some(agent), _) => word(agent),
            (None, Some((namespace, name))) => word(namespace) && namespace != "*" && word(name),
            (None, None) => choice == "*",
        };
        if let Some(bad) = self.cached.iter().find(|choice| !client(choice)) {
            let what = "`*`, `NAMESPACE/ACCOUNT`, `NAMESPACE/*` or `agent:NAME`";
            return Some(("proxy.clients.cached", bad.clone(), what));
        }
        let bad = self.leave_out.iter().find(|resource| !word(resource))?;
        Some((
            "proxy.clients.leave-out",
            bad.clone(),
            "a resource such as `secrets` or `ipamblocks.crd.projectcalico.org`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::cache::{NODE, Object};
    use crate::kube::Request;

    fn call(subject: &str, signature: &str) -> Call {
        let claims = serde_json::json!({ "sub": subject }).to_string();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        let mut head = http::Request::new(()).into_parts().0;
        let token = format!("Bearer e30.{claims}.{signature}").parse().unwrap();
        head.headers.insert(header::AUTHORIZATION, token);
        let caller = Caller::of(false, &head.headers).unwrap();
        let accept = crate::proxy::answer::Accept::parse("application/json");
        Call { head, caller, request: Request::parse("GET", "/api/v1/pods", ""), accept }
    }

    #[test]
    fn nobody_goes_by_a_name_that_only_its_token_says() {
        let clients = Clients::default();
        let account = "system:serviceaccount:kube-system:kube-proxy";
        clients.note(&call(account, "forged"), false, Some(StatusCode::UNAUTHORIZED));
        let all = clients.all();
        assert!(all.len() == 1 && all.keys().all(|key| key.starts_with("token:")), "{all:?}");
        clients.note(&call(account, "good"), true, None);
        for n in 0..2 * REMEMBERED {
            clients.note(&call(account, &format!("forged{n}")), false, None);
        }
        let all = clients.all();
        assert!(all.contains_key(&format!("{account}/")), "whoever is known is not pushed out");
        assert_eq!(all.len(), REMEMBERED);
    }

    fn settings(cached: &[&str], leave_out: &[&str]) -> ClientSettings {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        ClientSettings { cached: own(cached), leave_out: own(leave_out) }
    }

    #[test]
    fn clients_are_chosen_by_account_or_by_what_they_call_themselves() {
        let proxy = "system:serviceaccount:kube-system:kube-proxy/uid";
        let token = "token:00ff";
        for (choice, identity, agent, chosen) in [
            ("*", token, "curl", true),
            ("kube-system/*", proxy, "x", true),
            ("kube-system/kube-proxy", proxy, "x", true),
            ("kube-system/kube", proxy, "x", false),
            ("default/*", proxy, "x", false),
            ("kube-system/*", token, "x", false),
            ("agent:flanneld", proxy, "flanneld", true),
            ("agent:flanneld", proxy, "flannel", false),
        ] {
            assert_eq!(
                settings(&[choice], &[]).is_chosen(identity, agent),
                chosen,
                "{choice} {identity} {agent}"
            );
        }
        assert!(!settings(&[], &[]).is_chosen(proxy, "x"));
    }

    #[test]
    fn resources_are_left_out_by_name_and_group() {
        let left_out = |list: &[&str], path: &str| {
            settings(&["*"], list).is_left_out(Request::parse("GET", path, "").resource().unwrap())
        };
        let blocks = "/apis/crd.projectcalico.org/v1/ipamblocks";
        assert!(left_out(&["ipamblocks.crd.projectcalico.org"], blocks));
        assert!(left_out(&["*.crd.projectcalico.org"], blocks));
        assert!(!left_out(&["ipamblocks"], blocks));
        assert!(left_out(&["secrets"], "/api/v1/namespaces/a/secrets"));
        let default = ClientSettings::default();
        for blocks in
            [blocks, "/apis/projectcalico.org/v3/ipamblocks", "/apis/projectcalico.org/v3/ipamhandles"]
        {
            let request = Request::parse("GET", blocks, "");
            assert!(default.is_left_out(request.resource().unwrap()), "{blocks} changes all the time");
        }
    }

    #[tokio::test]
    async fn what_is_left_out_later_goes_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let [kept, unchosen] = ["a:client/u1", "b:other/u2"].map(|of| format!("system:serviceaccount:{of}"));
        let read = |identity: &str, resource: &str| {
            let meta =
                serde_json::json!({"name": "s", "namespace": "ns", "uid": resource, "resourceVersion": "1"});
            let object = Object::new(resource, serde_json::json!({ "metadata": meta })).unwrap();
            let identity = identity.to_owned();
            cache.commit(move |writer| writer.put_single(&identity, &object))
        };
        for identity in [NODE, &kept, &unchosen] {
            for resource in ["v1/secrets", "metadata/apps/v1/deployments", "apps/v1/deployments"] {
                read(identity, resource).await.unwrap();
            }
        }
        let left = async || {
            let (cache, identities) = (cache.clone(), [NODE.to_owned(), kept.clone(), unchosen.clone()]);
            let lists = cache.read(move |reader| {
                let of = |identity: &String, resource| {
                    reader.scopes(identity, resource, "ns").map(|all| all.len())
                };
                let both = |identity| Ok((of(identity, "v1/secrets")?, of(identity, "apps/v1/deployments")?));
                identities.iter().map(both).collect::<Result<Vec<_>, CacheError>>()
            });
            lists.await.unwrap()
        };
        let torn = Torn::default();
        settings(&["*"], &["configmaps"]).leave_behind(&cache, &torn).await.unwrap();
        assert_eq!(left().await, [(1, 1), (1, 1), (1, 1)]);
        settings(&["a/*"], &["secrets"]).leave_behind(&cache, &torn).await.unwrap();
        assert_eq!(left().await, [(1, 1), (0, 1), (0, 0)], "kubelet's stays");
        settings(&["agent:x"], &["*.apps"]).leave_behind(&cache, &torn).await.unwrap();
        assert_eq!(left().await, [(1, 1), (0, 0), (0, 0)]);
    }

    #[test]
    fn what_is_no_client_or_resource_is_named() {
        assert_eq!(settings(&["*", "a/b", "a/*", "agent:x"], &["secrets", "*.metrics.k8s.io"]).fault(), None);
        assert_eq!(settings(&["kube-system"], &[]).fault().unwrap().1, "kube-system");
        assert_eq!(settings(&["*/x"], &[]).fault().unwrap().1, "*/x");
        assert_eq!(settings(&[], &["a b"]).fault().unwrap().0, "proxy.clients.leave-out");
    }
}
