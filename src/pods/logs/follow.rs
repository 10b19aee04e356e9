//! A log as it grows: over rotation, and over restarts of the container, until the caller stops it.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::Piece;
use super::line::Joiner;
use super::read::each;
use super::{Error, Line, LogFolder, Options, Sink, Which};

/// Between two looks at a log that has nothing new.
const LOOK: Duration = Duration::from_millis(200);

/// Gives what [`read`](super::read()) gives, and then every further line. Returns in order when the log has
/// vanished with its pod, or when `ended` says so after all is read; it is asked whenever nothing new is there.
///
/// # Errors
/// As `read`.
pub async fn follow(
    folder: &LogFolder,
    options: &Options,
    sink: Sink<'_>,
    ended: &mut (dyn FnMut() -> bool + Send),
) -> Result<(), Error> {
    let mut attempt = folder.attempt(Which::Current)?;
    let mut out = Out { options, sink, held: options.tail.map(|_| VecDeque::new()) };
    let mut joiner = Joiner::default();
    // Opened before the folder is listed: a file that is rotated in between is read once, by this handle.
    let mut open = Open::at(folder.current(attempt))?;
    for piece in folder.open(attempt)? {
        let held = open.as_ref().is_some_and(|open| open.piece.identity == piece.identity);
        if !held && piece.path != folder.current(attempt) {
            each(&piece, &mut joiner, &mut |line| out.give(line))?;
        }
    }
    loop {
        let grew = open.as_mut().map_or(Ok(false), |open| open.drain(&mut joiner, &mut out))?;
        out.release()?;
        if grew {
            continue;
        }
        if let Some(next) = next_attempt(folder, attempt, open.as_ref())? {
            // The last lines may have come between the last look and the renaming.
            open.as_mut().map_or(Ok(false), |open| open.drain(&mut joiner, &mut out))?;
            if next != attempt {
                joiner.rest().try_for_each(|line| out.give(&line))?;
            }
            attempt = next;
            open = Open::at(folder.current(attempt))?;
            continue;
        }
        if ended() || !folder.path.exists() {
            open.as_mut().map_or(Ok(false), |open| open.drain(&mut joiner, &mut out))?;
            return joiner.rest().try_for_each(|line| out.give(&line));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Holds lines back until all that was there at the start is read, where only the last of them are wanted.
struct Out<'o, 's> {
    options: &'o Options,
    sink: Sink<'s>,
    held: Option<VecDeque<Line>>,
}

impl Out<'_, '_> {
    fn give(&mut self, line: &Line) -> Result<(), Error> {
        let Some(held) = &mut self.held else {
            return match self.options.show(line) {
                Some(text) => (self.sink)(&text).map_err(Error::Write),
                None => Ok(()),
            };
        };
        held.push_back(line.clone());
        if held.len() > self.options.tail.unwrap_or(usize::MAX) {
            held.pop_front();
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), Error> {
        self.held.take().into_iter().flatten().try_for_each(|line| self.give(&line))
    }
}

/// The file that is written to.
struct Open {
    piece: Piece,
    /// What was read of a line that is not written to its end.
    begun: Vec<u8>,
}

impl Open {
    fn at(path: PathBuf) -> Result<Option<Self>, Error> {
        Ok(Piece::open(path)?.map(|piece| Self { piece, begun: Vec::new() }))
    }

    /// Gives what is new up to the end of the file; true if there was anything.
    fn drain(&mut self, joiner: &mut Joiner, out: &mut Out<'_, '_>) -> Result<bool, Error> {
        let mut buffer = vec![0; 64 << 10];
        let mut grew = false;
        loop {
            let read = self.piece.reader().read(&mut buffer);
            let read = read.map_err(|source| Error::Read { path: self.piece.path.clone(), source })?;
            if read == 0 {
                return Ok(grew);
            }
            grew = true;
            for part in buffer[..read].split_inclusive(|b| *b == b'\n') {
                match part.strip_suffix(b"\n") {
                    None => self.begun.extend_from_slice(part),
                    Some(end) => {
                        self.begun.extend_from_slice(end);
                        if let Some(line) = joiner.take(&self.begun) {
                            out.give(&line)?;
                        }
                        self.begun.clear();
                    }
                }
            }
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The attempt whose file is to be read next: a newer one, or the same one after its rotation.
fn next_attempt(folder: &LogFolder, attempt: u32, open: Option<&Open>) -> Result<Option<u32>, Error> {
    let newest = match folder.attempt(Which::Current) {
        Ok(newest) => newest,
        Err(Error::NoLog { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if newest > attempt {
        return Ok(Some(newest));
    }
    let there = identity(&folder.current(attempt));
    Ok((there.is_some() && there != open.map(|o| o.piece.identity)).then_some(attempt))
}
