//! The query parameters of a Kubernetes request, decoded and typed.
//!
//! Owns how apiserver reads them (first value wins, a flag without a value is true). Refuses to judge
//! whether a combination makes sense: that is the server's answer to give.

/// What a request's query string says. Parameters that are absent or empty are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `watch`: the caller wants a stream of changes.
    pub watch: bool,
    /// `labelSelector`, not parsed.
    pub label_selector: Option<String>,
    /// `fieldSelector`, not parsed.
    pub field_selector: Option<String>,
    /// `resourceVersion`; `"0"` means "any version, the cache's will do".
    pub resource_version: Option<String>,
    /// `resourceVersionMatch`: `Exact` or `NotOlderThan`.
    pub resource_version_match: Option<String>,
    /// `allowWatchBookmarks`.
    pub allow_watch_bookmarks: bool,
    /// `sendInitialEvents`; `Some(true)` asks for the list as a stream (WatchList).
    pub send_initial_events: Option<bool>,
    /// `timeoutSeconds` of a list or watch.
    pub timeout_seconds: Option<u64>,
    /// `limit`: objects a page; 0 is no limit.
    pub limit: Option<u64>,
    /// `continue`: the token of the next page.
    pub continue_token: Option<String>,
    /// `fieldManager` of a write.
    pub field_manager: Option<String>,
    /// `fieldValidation` of a write: `Ignore`, `Warn` or `Strict`.
    pub field_validation: Option<String>,
    /// `dryRun`, every value given.
    pub dry_run: Vec<String>,
    /// `force` of a server-side apply.
    pub force: Option<bool>,
    /// `gracePeriodSeconds` of a delete.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy` of a delete.
    pub propagation_policy: Option<String>,
    /// The first parameter whose value is not of its type: the server answers 400 to such a request.
    pub invalid: Option<&'static str>,
    /// Every other parameter, decoded, in the order given (`container`, `follow`, `pretty`, `shardSelector`, ...).
    pub other: Vec<(String, String)>,
}

impl Query {
    /// Decodes the part of the URL behind `?` (without it). A pair that is not validly percent-encoded
    /// is dropped, as Go's `url.Query` drops it.
    pub fn parse(query: &str) -> Query {
        let mut out = Query::default();
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key, Plus::Space), decode(value, Plus::Space)) else {
                continue;
            };
            if key != "dryRun" {
                if seen.contains(&key) {
                    continue;
                }
                seen.push(key.clone());
            }
            out.set(key, value);
        }
        out
    }

    /// The first value of a parameter that has no field of its own.
    pub fn other(&self, name: &str) -> Option<&str> {
        self.other.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the list is wanted as a stream that ends its first part with a bookmark (WatchList).
    pub fn wants_initial_events(&self) -> bool {
        self.watch && self.send_initial_events == Some(true)
    }

    /// Whether only a part of the list is wanted, by a hash of its objects.
    pub fn is_of_a_shard(&self) -> bool {
        self.other("shardSelector").is_some_and(|selector| !selector.is_empty())
    }

    fn set(&mut self, key: String, value: String) {
        match key.as_str() {
            "watch" => self.watch = flag(&value),
            "labelSelector" => self.label_selector = text(value),
            "fieldSelector" => self.field_selector = text(value),
            "resourceVersion" => self.resource_version = text(value),
            "resourceVersionMatch" => self.resource_version_match = text(value),
            "allowWatchBookmarks" => self.allow_watch_bookmarks = flag(&value),
            "sendInitialEvents" => self.send_initial_events = Some(flag(&value)),
            "timeoutSeconds" => self.timeout_seconds = self.number("timeoutSeconds", &value),
            "limit" => self.limit = self.number("limit", &value),
            "continue" => self.continue_token = text(value),
            "fieldManager" => self.field_manager = text(value),
            "fieldValidation" => self.field_validation = text(value),
            "dryRun" => self.dry_run.push(value),
            "force" => self.force = Some(flag(&value)),
            "gracePeriodSeconds" => self.grace_period_seconds = self.number("gracePeriodSeconds", &value),
            "propagationPolicy" => self.propagation_policy = text(value),
            _ => self.other.push((key, value)),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, name: &'static str, value: &str) -> Option<T> {
        let parsed = value.parse().ok();
        if parsed.is_none() && self.invalid.is_none() {
            self.invalid = Some(name);
        }
        parsed
    }
}

fn text(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

/// apiserver's reading: only `0` and `false` are false, an empty value is true.
fn flag(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

/// What a `+` stands for: itself in a path, a space in a query.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Plus {
    Itself,
    Space,
}

/// Percent-decodes; `None` where an escape is broken or the result is not UTF-8.
pub(super) fn decode(text: &str, plus: Plus) -> Option<String> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                let [high, low, tail @ ..] = rest else { return None };
                out.push(hex(*high)? << 4 | hex(*low)?);
                rest = tail;
            }
            b'+' if plus == Plus::Space => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|n| n as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_watchlist() {
        let q = Query::parse(
            "allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dship-7&resourceVersionMatch=NotOlderThan\
             &sendInitialEvents=true&timeoutSeconds=427&watch=true",
        );
        assert!(q.wants_initial_events() && q.allow_watch_bookmarks);
        assert_eq!(q.field_selector.as_deref(), Some("spec.nodeName=ship-7"));
        assert_eq!(q.timeout_seconds, Some(427));
        assert_eq!(q.resource_version, None);
        assert_eq!(q.invalid, None);
    }

    #[test]
    fn flags_as_apiserver_reads_them() {
        for (query, want) in
            [("watch", true), ("watch=", true), ("watch=1", true), ("watch=FALSE", false), ("watch=0", false)]
        {
            assert_eq!(Query::parse(query).watch, want, "{query}");
        }
        assert!(Query::parse("watch=true&watch=false").watch, "the first value wins");
        assert_eq!(Query::parse("dryRun=All&dryRun=x").dry_run, ["All", "x"]);
    }

    #[test]
    fn broken_values() {
        let q = Query::parse("limit=many&a=%zz&labelSelector=a+b&b=c;d&container=x&%6cimit=9");
        assert_eq!(q.invalid, Some("limit"));
        assert_eq!(q.limit, None);
        assert_eq!(q.label_selector.as_deref(), Some("a b"));
        assert_eq!(q.other, [("container".to_owned(), "x".to_owned())]);
        assert_eq!(q.other("container"), Some("x"));
    }
}
