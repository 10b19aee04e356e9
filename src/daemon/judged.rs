//! How the snap is, in snapd's words, of what the daemon reports.

use super::Report;
use crate::health::State;
use crate::sys::program;

/// The length of a message, in characters, that snapd takes.
const LEAST: usize = 7;
const MOST: usize = 70;

/// One of snapd's words, a short code, and what to say.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// `okay`, `blocked` or `error`.
    pub state: &'static str,
    said: Option<(&'static str, String)>,
}

impl Judged {
    /// The code and what to say, where it is not okay.
    pub fn said(&self) -> Option<(&str, &str)> {
        self.said.as_ref().map(|(code, message)| (*code, message.as_str()))
    }
}

/// A link that is away is what edge is for, and no fault of the snap's.
pub fn judge(report: &Report) -> Judged {
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
    Judged { state: "okay", said: None }
}

/// What is wrong, as one line of a length that snapd takes.
pub fn problem(state: &'static str, code: &'static str, text: &str) -> Judged {
    let line = program::one_line(text);
    let line = line.split(" hint: ").next().unwrap_or_default();
    let mut message: String = line.chars().take(MOST).collect();
    if line.chars().count() > MOST {
        message = line.chars().take(MOST - 3).collect::<String>() + "...";
    }
    if message.chars().count() < LEAST {
        message = format!("trouble: {message}");
    }
    Judged { state, said: Some((code, message)) }
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
            let judged = judge(&serde_json::from_value::<Report>(report.clone()).unwrap());
            report[without] = serde_json::json!([]);
            let (code, message) = judged.said.unwrap_or(("", String::new()));
            format!("{} {code}: {message}", judged.state)
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
