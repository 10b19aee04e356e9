//! A watch's last word: an event of edge's own behind those of the cloud, and never within one of them.

use bytes::{Bytes, BytesMut};

use crate::kube::stream::Encoding;

/// How far a watch has come in its events.
#[derive(Debug)]
pub struct LastWord {
    events: Events,
    /// What is to be said where the event that has begun ends.
    word: Option<Bytes>,
}

/// What tells where an event ends. A line of JSON ends with its newline; before an event in protobuf stand four bytes
/// with its length.
#[derive(Debug)]
enum Events {
    Lines { begun: bool },
    Lengths { head: [u8; 4], read: usize, left: u64 },
}

/// What becomes of a watch that is told to end.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// It ends with this.
    Now(Bytes),
    /// An event is under way; what comes is to be passed on until [`LastWord::pass`] says that it has ended.
    Later,
}

impl LastWord {
    /// Of a watch in that encoding, from its beginning.
    pub fn new(encoding: Encoding) -> Self {
        let events = match encoding {
            Encoding::Json => Events::Lines { begun: false },
            Encoding::Protobuf => Events::Lengths { head: [0; 4], read: 0, left: 0 },
        };
        Self { events, word: None }
    }

    /// Lets bytes pass, in order. If the last word waits, and an event ends in them, what the watch is to end with.
    pub fn pass(&mut self, bytes: &Bytes) -> Option<Bytes> {
        let end = self.events.last_end(bytes);
        let (end, word) = (end?, self.word.take()?);
        let mut all = BytesMut::with_capacity(end + word.len());
        all.extend_from_slice(&bytes[..end]);
        all.extend_from_slice(&word);
        Some(all.freeze())
    }

    /// Whether the last word still waits: where the watch ends now its client was not told.
    pub fn is_unsaid(&self) -> bool {
        self.word.is_some()
    }

    /// The watch is to end with `word`; an empty one may be said anywhere.
    pub fn say(&mut self, word: Bytes) -> Said {
        if word.is_empty() || self.events.is_between() {
            return Said::Now(word);
        }
        self.word = Some(word);
        Said::Later
    }
}

impl Events {
    /// Where in `bytes`, which come next, the last event ends that does.
    fn last_end(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Lines { begun } => {
                let end = bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
                *begun = if bytes.is_empty() { *begun } else { end != Some(bytes.len()) };
                end
            }
            Self::Lengths { head, read, left } => {
                let (mut at, mut end) = (0, None);
                while at < bytes.len() {
                    if *read < head.len() {
                        head[*read] = bytes[at];
                        (*read, at) = (*read + 1, at + 1);
                        *left = u64::from(u32::from_be_bytes(*head));
                    } else {
                        let step = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                        (*left, at) = (*left - step as u64, at + step);
                    }
                    if *read == head.len() && *left == 0 {
                        (*read, end) = (0, Some(at));
                    }
                }
                end
            }
        }
    }

    fn is_between(&self) -> bool {
        match self {
            Self::Lines { begun } => !begun,
            Self::Lengths { read, .. } => *read == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube::stream::{WatchKind, event};

    /// Wherever the bytes are cut, and whenever it is told to end, a client reads whole events and then the word.
    #[test]
    fn a_last_word_stands_between_events_alone() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let one = |kind| event(kind, object.as_bytes(), encoding);
            let all = [one(WatchKind::Added), one(WatchKind::Modified), one(WatchKind::Deleted)];
            let ends: Vec<usize> = all
                .iter()
                .scan(0, |at, event| Some(std::mem::replace(at, *at + event.len()) + event.len()))
                .collect();
            let (stream, word) = (Bytes::from(all.concat()), Bytes::from(one(WatchKind::Error)));
            for told in 0..stream.len() {
                for step in [1, 3, 64, stream.len()] {
                    let mut watch = LastWord::new(encoding);
                    assert_eq!(watch.pass(&stream.slice(..told)), None);
                    let between = told == 0 || ends.contains(&told);
                    let mut seen = stream[..told].to_vec();
                    match watch.say(word.clone()) {
                        Said::Now(word) => {
                            assert!(between, "{told}");
                            seen.extend_from_slice(&word);
                        }
                        Said::Later => {
                            assert!(!between, "{told}");
                            let mut rest = stream.slice(told..);
                            let last = loop {
                                let piece = rest.split_to(step.min(rest.len()));
                                assert!(!piece.is_empty(), "the end was passed over");
                                match watch.pass(&piece) {
                                    Some(last) => break last,
                                    None => seen.extend_from_slice(&piece),
                                }
                            };
                            seen.extend_from_slice(&last);
                        }
                    }
                    let events = seen.strip_suffix(&word[..]).unwrap();
                    assert!(events.is_empty() || ends.contains(&events.len()), "{told} {step} {encoding:?}");
                    assert!(stream.starts_with(events) && events.len() >= told);
                }
            }
        }
    }

    #[test]
    fn nothing_may_be_said_anywhere() {
        let mut watch = LastWord::new(Encoding::Json);
        assert_eq!(watch.pass(&Bytes::from_static(b"{\"type\":")), None);
        assert_eq!(watch.say(Bytes::new()), Said::Now(Bytes::new()));
    }
}
