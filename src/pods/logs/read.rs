//! A log as it is now, over all its files.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

use super::files::Piece;
use super::line::Joiner;
use super::{Error, Line, LogFolder, Options, Sink, Which};

/// Gives the lines of an attempt to `sink`, oldest first.
///
/// # Errors
/// [`Error::NoLog`], [`Error::NoPrevious`], or reading's.
pub fn read(folder: &LogFolder, which: Which, options: &Options, sink: Sink<'_>) -> Result<(), Error> {
    let files = folder.open(folder.attempt(which)?)?;
    let mut give = |line: &Line| match options.show(line) {
        Some(text) => sink(&text).map_err(Error::Write),
        None => Ok(()),
    };
    match options.tail {
        None => {
            let mut joiner = Joiner::default();
            for file in &files {
                each(file, &mut joiner, &mut give)?;
            }
            joiner.rest().try_for_each(|line| give(&line))
        }
        Some(0) => Ok(()),
        Some(tail) => last(&files, tail)?.iter().try_for_each(give),
    }
}

/// The last `count` lines; files that are not needed for them are not read.
fn last(files: &[Piece], count: usize) -> Result<VecDeque<Line>, Error> {
    let mut found: VecDeque<Line> = VecDeque::new();
    for file in files.iter().rev() {
        let mut joiner = Joiner::default();
        let mut here: VecDeque<Line> = VecDeque::new();
        let missing = count - found.len();
        let mut keep = |line: &Line| {
            if here.len() == missing {
                here.pop_front();
            }
            here.push_back(line.clone());
            Ok(())
        };
        each(file, &mut joiner, &mut keep)?;
        joiner.rest().try_for_each(|line| keep(&line))?;
        here.append(&mut found);
        found = here;
        if found.len() == count {
            break;
        }
    }
    Ok(found)
}

pub(super) fn each(
    piece: &Piece,
    joiner: &mut Joiner,
    give: &mut dyn FnMut(&Line) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Read { path: piece.path.clone(), source };
    let mut reader = BufReader::with_capacity(64 << 10, piece.reader());
    let mut raw = Vec::new();
    loop {
        raw.clear();
        // A line of the file is at most 16 KiB and its head: the runtime cuts there.
        let read = reader.by_ref().take(1 << 20).read_until(b'\n', &mut raw).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        if raw.last() == Some(&b'\n') {
            raw.pop();
        }
        if let Some(line) = joiner.take(&raw) {
            give(&line)?;
        }
    }
}
