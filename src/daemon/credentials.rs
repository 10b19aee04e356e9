//! What is wrong with the node's credentials for the cloud, and what mends it.

use jiff::{SignedDuration, Timestamp};

use crate::link::Phase;
use crate::proxy::REFUSED;

/// What mends them. Nothing else does: who has lost his certificate can ask for no other, and edge keeps no token that would
/// let it join by itself.
const MEND: &str = "`edge join --from` a new kubeconfig of this node, or a bootstrap kubeconfig with a token: pods run on, and what is kept stays";

/// For how long the cloud may not have been asked: pods, leases and probes ask it more often.
const UNASKED: SignedDuration = SignedDuration::from_mins(10);

/// What is wrong with the certificate that `ends` then, by this machine's clock and by what the cloud says to it.
pub fn trouble(ends: Option<Timestamp>, now: Timestamp, phase: &Phase) -> Option<String> {
    let is_refused = matches!(phase, Phase::Offline(why) if why == REFUSED);
    match ends.filter(|ends| *ends < now) {
        // An idle link is not asked anything, and is online until a request fails.
        Some(ended)
            if matches!(phase, Phase::Online | Phase::Replaying) && now.duration_since(ended) > UNASKED =>
        {
            Some(format!(
                "by this machine's clock the node's certificate for the cloud ended at {ended}, and the cloud takes it hint: set the clock"
            ))
        }
        Some(ended) => Some(format!("the node's certificate for the cloud ended at {ended} hint: {MEND}")),
        None if is_refused => Some(format!("{REFUSED} hint: {MEND}")),
        None => None,
    }
}

/// What is wrong with credentials that cannot be read, for this reason.
pub fn unread(why: &str) -> String {
    let why = why.split(" hint: ").next().unwrap_or(why);
    format!("{why} hint: {MEND}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mends_credentials_that_cannot_be_read_is_said_once() {
        let said = unread("`x` line 1 is not YAML hint: is it a kubeconfig?");
        assert!(said.starts_with("`x` line 1 is not YAML hint: `edge join --from` a new"), "{said}");
    }

    #[test]
    fn a_certificate_that_ended_or_is_refused_is_one_line_with_what_mends_it() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let offline = |why: &str| Phase::Offline(why.to_owned());
        for (ends, phase, expected) in [
            (
                Some(5),
                offline("no route"),
                Some("certificate for the cloud ended at 1970-01-01T00:00:05Z hint: `edge join"),
            ),
            (Some(5), offline(REFUSED), Some("ended at 1970-01-01T00:00:05Z hint: `edge join")),
            (Some(5), Phase::Online, Some("ended at 1970-01-01T00:00:05Z hint: `edge join")),
            (Some(-600), Phase::Online, Some("and the cloud takes it hint: set the clock")),
            (Some(20), offline(REFUSED), Some("the cloud refuses the node's credentials hint: `edge join")),
            (None, offline(REFUSED), Some("the cloud refuses the node's credentials hint: `edge join")),
            (Some(20), offline("no route"), None),
            (Some(20), Phase::Online, None),
        ] {
            let said = trouble(ends.map(at), at(10), &phase);
            assert_eq!(said.is_some(), expected.is_some(), "{said:?}");
            assert!(expected.is_none_or(|expected| said.unwrap().contains(expected)), "{ends:?} {phase:?}");
        }
    }
}
