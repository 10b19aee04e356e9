//! `[pods.self-heal]`, and what a pod's annotations say instead.

use std::time::Duration;

use serde_json::Value;

use crate::kube::meta;

/// When and how often a pod is healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Off unless turned on here or by the pod's annotation `edge.io/self-heal: "true"`.
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
    /// These settings as the annotations of `pod` change them. A value that cannot be read changes nothing.
    pub fn of(&self, pod: &Value) -> Self {
        let said = |name: &str| meta::annotation(pod, name);
        let number = |name: &str| said(name).and_then(|text| text.parse().ok());
        Self {
            enabled: said("edge.io/self-heal").and_then(|text| text.parse().ok()).unwrap_or(self.enabled),
            failures: number("edge.io/self-heal-failures").filter(|n| *n > 0).unwrap_or(self.failures),
            max_restarts: number("edge.io/self-heal-max-restarts").unwrap_or(self.max_restarts),
            ..self.clone()
        }
    }
}
