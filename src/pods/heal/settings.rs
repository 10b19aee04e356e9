//! `[pods.self-heal]`, and what a pod's annotations say instead.

use std::time::Duration;

use serde_json::Value;

use crate::kube::meta;

/// The annotation that turns it on or off for one pod: `true` or `false`.
pub const ENABLED: &str = "edge.io/self-heal";

/// More failed starts than this are not waited for, or remembered.
pub const MOST_FAILURES: u32 = 100;
/// Nothing is shorter than a look, or longer than a day.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When and how often a pod is healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Off unless turned on here or by the pod's annotation [`ENABLED`].
    pub enabled: bool,
    /// Static pods too.
    pub static_pods: bool,
    /// So many failed starts within the window are too many. `edge.io/self-heal-failures`.
    pub failures: u32,
    /// See `failures`.
    pub window: Duration,
    /// A shared context that has been broken for so long is not mending by itself.
    pub broken_for: Duration,
    /// After so many restarts without effect it is left alone. `edge.io/self-heal-max-restarts`.
    pub max_restarts: u32,
    /// From one restart to the next; doubled each time.
    pub back_off: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: false,
            static_pods: false,
            failures: 5,
            window: Duration::from_secs(600),
            broken_for: Duration::from_secs(300),
            max_restarts: 3,
            back_off: Duration::from_secs(300),
        }
    }
}

impl Settings {
    /// These settings as the annotations of `pod` change them. A value that cannot be read changes nothing; one beyond
    /// what `edge.toml` takes counts as its bound, since what is remembered of a pod grows with them.
    pub fn of(&self, pod: &Value) -> Self {
        let said = |name: &str| meta::annotation(pod, name);
        let span = |name: &str| said(name).and_then(span_of).filter(|span| !span.is_zero());
        let span = |name: &str| span(name).map(|span| span.clamp(SHORTEST, LONGEST));
        let number =
            |name: &str| said(name).and_then(|text| text.parse::<u32>().ok()).map(|n| n.min(MOST_FAILURES));
        Self {
            enabled: said(ENABLED).and_then(|text| text.parse().ok()).unwrap_or(self.enabled),
            failures: number("edge.io/self-heal-failures").filter(|n| *n > 0).unwrap_or(self.failures),
            max_restarts: number("edge.io/self-heal-max-restarts").unwrap_or(self.max_restarts),
            window: span("edge.io/self-heal-window").unwrap_or(self.window),
            broken_for: span("edge.io/self-heal-broken-for").unwrap_or(self.broken_for),
            back_off: span("edge.io/self-heal-back-off").unwrap_or(self.back_off),
            ..self.clone()
        }
    }

    /// Between two looks: often enough for the shortest of the times, and not all the time.
    pub fn look(&self) -> Duration {
        let shortest = self.window.min(self.broken_for).min(self.back_off);
        (shortest / 4).clamp(Duration::from_secs(1), Duration::from_secs(10))
    }
}

/// A span as people write it, such as `90s` or `1h30m`.
fn span_of(text: &str) -> Option<Duration> {
    Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_win_and_what_cannot_be_read_changes_nothing() {
        let pod = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        let settings = Settings::default().of(&pod(json!({
            "edge.io/self-heal": "true", "edge.io/self-heal-failures": "2", "edge.io/self-heal-window": "1m30s",
            "edge.io/self-heal-max-restarts": "1", "edge.io/self-heal-broken-for": "20s",
            "edge.io/self-heal-back-off": "5s",
        })));
        let expected = Settings {
            enabled: true,
            static_pods: false,
            failures: 2,
            window: Duration::from_secs(90),
            broken_for: Duration::from_secs(20),
            max_restarts: 1,
            back_off: Duration::from_secs(5),
        };
        assert_eq!(settings, expected);
        let beyond = json!({"edge.io/self-heal-failures": "4294967295", "edge.io/self-heal-max-restarts": "4294967295",
            "edge.io/self-heal-window": "876000h", "edge.io/self-heal-broken-for": "1ms",
            "edge.io/self-heal-back-off": "25h"});
        let bounded = Settings::default().of(&pod(beyond));
        assert_eq!((bounded.failures, bounded.max_restarts), (100, 100));
        assert_eq!((bounded.window, bounded.back_off), (LONGEST, LONGEST));
        assert_eq!(bounded.broken_for, SHORTEST);
        let wrong = json!({"edge.io/self-heal": "yes", "edge.io/self-heal-failures": "0",
            "edge.io/self-heal-window": "-1s", "edge.io/self-heal-back-off": "soon"});
        assert_eq!(Settings::default().of(&pod(wrong)), Settings::default());
    }
}
