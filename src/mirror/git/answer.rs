//! An upstream's answer with a pack: what of its lines is the pack, and the pack for a thread that reads it.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::remote::Speech;
use crate::git::pkt::Line;

/// Pieces of a pack that wait for the disk.
const WAITING: usize = 4;

/// Where in an answer with a pack we are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Version 2, before the pack.
    Sections,
    /// Version 0, before the pack: with a side band or without.
    Acknowledgements { band: bool },
    /// The pack, in a side band.
    Band,
    /// The pack, as it is.
    Bare,
    /// All came.
    Over,
}

impl Reading {
    pub(super) fn of(speech: &Speech) -> Self {
        match speech {
            Speech::Two => Self::Sections,
            Speech::Zero(offered) => {
                Self::Acknowledgements { band: offered.iter().any(|one| one == "side-band-64k") }
            }
        }
    }

    /// Data of the pack that a line carries.
    pub(super) fn take(&mut self, line: Line) -> Result<Option<Vec<u8>>, String> {
        let text = line.text();
        if let Some(why) = text.strip_prefix(b"ERR ") {
            return Err(String::from_utf8_lossy(why).trim().to_owned());
        }
        match self {
            Self::Sections if text == b"packfile" => *self = Self::Band,
            Self::Sections if line == Line::Flush => return Err("it sends no pack".into()),
            Self::Acknowledgements { band } => match text {
                text if text == b"NAK" || (text.starts_with(b"ACK ") && text.len() == 44) => {
                    *self = if *band { Self::Band } else { Self::Bare };
                }
                text if text.starts_with(b"ACK ") => {}
                _ => return Err("its answer is none".into()),
            },
            Self::Band => {
                let Line::Data(mut data) = line else {
                    *self = if line == Line::Flush {
                        Self::Over
                    } else {
                        return Err("its answer is none".into());
                    };
                    return Ok(None);
                };
                return match data.first() {
                    Some(1) => Ok(Some(data.split_off(1))),
                    Some(2) => Ok(None),
                    // `ACK` of a common commit, after which a last one comes.
                    Some(b'A' | b'N') => Ok(None),
                    Some(3) => Err(String::from_utf8_lossy(&data[1..]).trim().to_owned()),
                    _ => Err("its answer is none".into()),
                };
            }
            _ => {}
        }
        Ok(None)
    }
}

/// What comes, for a thread that reads it; at its end comes nothing, and then the pack is found to be short.
pub(super) struct Coming {
    pieces: mpsc::Receiver<Bytes>,
    now: VecDeque<Bytes>,
}

impl Coming {
    pub(super) fn channel() -> (mpsc::Sender<Bytes>, Self) {
        let (hand, pieces) = mpsc::channel(WAITING);
        (hand, Self { pieces, now: VecDeque::new() })
    }
}

impl BufRead for Coming {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.now.front().is_none_or(Bytes::is_empty) {
            self.now.pop_front();
            match self.pieces.blocking_recv() {
                Some(piece) => self.now.push_back(piece),
                None => return Ok(&[]),
            }
        }
        Ok(self.now.front().map_or(&[], |piece| piece))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(piece) = self.now.front_mut() {
            piece.advance(amount.min(piece.len()));
        }
    }
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let length = ready.len().min(buffer.len());
        buffer[..length].copy_from_slice(&ready[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line::Data(text.as_bytes().to_vec())
    }

    #[test]
    fn an_answer_s_pack_is_what_the_first_band_carries() {
        for (speech, before) in [
            (Speech::Two, vec![line("packfile\n")]),
            (Speech::Zero(vec!["side-band-64k".into()]), vec![line("NAK\n")]),
        ] {
            let mut reading = Reading::of(&speech);
            for line in before {
                assert_eq!(reading.take(line), Ok(None));
            }
            assert_eq!(reading.take(line("\u{1}PACK")), Ok(Some(b"PACK".to_vec())));
            assert_eq!(reading.take(line("\u{2}counting")), Ok(None));
            assert!(reading.take(line("\u{3}no space")).unwrap_err().contains("no space"));
            assert_eq!((reading.take(Line::Flush), reading), (Ok(None), Reading::Over));
        }
        let mut bare = Reading::of(&Speech::Zero(vec![]));
        bare.take(line("NAK\n")).unwrap();
        assert_eq!(bare, Reading::Bare);
        assert!(Reading::of(&Speech::Two).take(line("ERR not our ref")).is_err());
    }
}
