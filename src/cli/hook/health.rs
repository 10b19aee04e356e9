//! What `edge status` knows, as snapd shows it in `snap list` and `snap info`.

use std::time::Duration;

use anyhow::Result;

use super::Scene;
use crate::daemon::{ClientError, Report, ask_status};
use crate::health::State;

/// A daemon that has just been started may take this long to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// All of it may take this long: snapd ends the hook after 30 s, and takes that for a refresh that failed.
const MOST_TIME: Duration = Duration::from_secs(20);
/// The length of a message, in characters, that snapd takes.
const LEAST: usize = 7;
const MOST: usize = 70;

/// One of snapd's words, a short code, and what to say.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    state: &'static str,
    said: Option<(&'static str, String)>,
}

/// Asks the daemon, and tells snapd.
pub async fn check(scene: &Scene) -> Result<()> {
    // Which the file does not name: one that is spoiled is the daemon's to put right, and fails no refresh.
    let socket = scene.overrides.control_socket();
    let began = tokio::time::Instant::now();
    let asked = async {
        loop {
            match ask_status(&socket).await {
                Err(ClientError::Connect { .. }) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answer => break answer,
            }
        }
    };
    let verdict = match tokio::time::timeout(MOST_TIME, asked).await {
        Ok(Ok(report)) => judge(&report),
        // The kernel takes the connection for a daemon that hangs, too.
        Ok(Err(_)) | Err(_) => {
            problem("error", "no-daemon", "the edge daemon does not answer: see `snap logs edge`")
        }
    };
    let said = verdict.said.as_ref().map(|(code, message)| (*code, message.as_str()));
    Ok(scene.snapctl.set_health(verdict.state, said).await?)
}

/// A link that is away is what edge is for, and no fault of the snap's.
fn judge(report: &Report) -> Verdict {
    if let Some(error) = report.errors.first() {
        return problem("error", "trouble", error);
    }
    if let Some(part) = report.parts.iter().find(|part| part.state == State::Trouble) {
        return problem("error", "part-in-trouble", &format!("{}: {}", part.part, part.message));
    }
    if !report.refused.is_empty() {
        let count = report.refused.len();
        return problem(
            "blocked",
            "refused-by-cloud",
            &format!("the cloud refused {count} changes: edge status"),
        );
    }
    if !report.at_risk.is_empty() {
        let mut pods: Vec<&str> = report.at_risk.iter().map(|risk| risk.pod.as_str()).collect();
        pods.dedup();
        let text = format!("{} pods would not survive an outage: edge status", pods.len());
        return problem("blocked", "pods-at-risk", &text);
    }
    if let [first, ..] = &report.waits_for_start[..] {
        let text = format!("{first} waits for `snap restart edge.daemon`");
        return problem("blocked", "waits-for-start", &text);
    }
    Verdict { state: "okay", said: None }
}

fn problem(state: &'static str, code: &'static str, text: &str) -> Verdict {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.split(" hint: ").next().unwrap_or_default();
    let mut message: String = line.chars().take(MOST).collect();
    if line.chars().count() > MOST {
        message = line.chars().take(MOST - 3).collect::<String>() + "...";
    }
    if message.chars().count() < LEAST {
        message = format!("trouble: {message}");
    }
    Verdict { state, said: Some((code, message)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the order in which somebody has to act: what edge itself cannot do, what the cloud refused, what an outage would end.
    #[test]
    fn what_needs_an_owner_is_blocked_and_an_outage_is_okay() {
        let change = serde_json::json!({"change": "patch", "object": "v1/pods a/b", "at": "", "attempts": 1, "error": ""});
        let risk = |pod: &str| serde_json::json!({"pod": pod, "reason": "its image", "mend": []});
        let mut report = serde_json::json!({
            "version": "1", "started": "", "waitsForStart": ["proxy.listen"], "offlineMode": true, "cloud": null, "changes": [], "errors": [],
            "link": {"state": "offline", "since": "", "reason": "no route"},
            "cache": {"path": "", "bytes": 0, "resources": []},
            "refused": [change.clone(), change], "atRisk": [risk("a/b"), risk("a/b"), risk("a/c")],
            "parts": [{"part": "registry", "state": "trouble", "message": "port 5000 is taken", "since": "2026-01-01T00:00:00Z"}],
        });
        let mut judged = |without: &str| {
            let verdict = judge(&serde_json::from_value::<Report>(report.clone()).unwrap());
            report[without] = serde_json::json!([]);
            let (code, message) = verdict.said.unwrap_or(("", String::new()));
            format!("{} {code}: {message}", verdict.state)
        };
        assert_eq!(judged("parts"), "error part-in-trouble: registry: port 5000 is taken");
        assert_eq!(judged("refused"), "blocked refused-by-cloud: the cloud refused 2 changes: edge status");
        assert_eq!(judged("atRisk"), "blocked pods-at-risk: 2 pods would not survive an outage: edge status");
        let waits = "blocked waits-for-start: proxy.listen waits for `snap restart edge.daemon`";
        assert_eq!(judged("waitsForStart"), waits);
        assert_eq!(judged("waitsForStart"), "okay : ");
    }

    #[test]
    fn a_message_is_of_the_length_that_snapd_takes() {
        for text in ["", "x", "port 5000 is taken", &"long ".repeat(40), "two\nlines here hint: not told"] {
            let Some((_, message)) = problem("error", "trouble", text).said else { panic!("{text}") };
            let length = message.chars().count();
            assert!((LEAST..=MOST).contains(&length), "{message:?}");
            assert!(!message.contains('\n') && !message.contains("hint"));
        }
    }
}
