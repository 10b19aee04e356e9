//! Container logs from the runtime's files under `/var/log/pods`, with or without a kubelet: rotated and
//! compressed ones too, and followed over rotation and restart.

mod files;
mod follow;
mod line;
mod read;

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

pub use files::{LogFolder, Which, left_behind};
pub use follow::follow;
pub use line::Line;
pub use read::read;

/// Which lines, and how they look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The last so many lines.
    pub tail: Option<usize>,
    /// None older than this.
    pub since: Option<Timestamp>,
    /// Each line with its time before it.
    pub timestamps: bool,
}

/// Why a log cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No log of the container at all.
    #[error("no log of container `{container}` in `{}` hint: it has not been started yet", folder.display())]
    NoLog {
        /// The container's name.
        container: String,
        /// The pod's log folder.
        folder: PathBuf,
    },
    /// It was rotated each time it was looked at.
    #[error("the log of container `{container}` is rotated faster than it can be read. hint: try again")]
    Restless {
        /// The container's name.
        container: String,
    },
    /// Only one attempt so far.
    #[error("previous terminated container `{container}` not found")]
    NoPrevious {
        /// The container's name.
        container: String,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever takes the lines takes no more.
    #[error("cannot write the log: {0}")]
    Write(io::Error),
}

/// Takes a line of the log as it is to be shown, with its newline.
pub type Sink<'s> = &'s mut (dyn FnMut(&[u8]) -> io::Result<()> + Send);

impl Options {
    /// A line as it is shown; `None` for one that is too old.
    fn show(&self, line: &Line) -> Option<Vec<u8>> {
        if self.since.is_some_and(|since| line.time.is_some_and(|time| time < since)) {
            return None;
        }
        let mut shown = Vec::with_capacity(line.text.len() + 32);
        if self.timestamps {
            shown.extend_from_slice(fixed(&line.stamp).as_bytes());
            shown.push(b' ');
        }
        shown.extend_from_slice(&line.text);
        Some(shown)
    }
}

/// A time as kubectl shows it, always with nine digits after the second; runtimes leave the last zeros out.
fn fixed(stamp: &str) -> String {
    let whole = "2006-01-02T15:04:05".len();
    let Some((seconds, rest)) = stamp.split_at_checked(whole) else { return stamp.to_owned() };
    let digits = rest.strip_prefix('.').unwrap_or_default();
    let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    format!("{seconds}.{digits:0<9}{zone}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// What a kubelet does to a log, in its order: pack what was renamed before, rename, let a new one be begun.
    fn rotate(folder: &Path, round: u32) {
        let before = folder.join(format!("0.log.{:09}", round - 1));
        if let Ok(bytes) = fs::read(&before) {
            let packed = before.with_added_extension("gz");
            let unfinished = before.with_added_extension("tmp");
            let mut gz = flate2::write::GzEncoder::new(
                fs::File::create(&unfinished).unwrap(),
                flate2::Compression::fast(),
            );
            gz.write_all(&bytes).unwrap();
            gz.finish().unwrap();
            fs::rename(unfinished, packed).unwrap();
            fs::remove_file(before).unwrap();
        }
        fs::rename(folder.join("0.log"), folder.join(format!("0.log.{round:09}"))).unwrap();
    }

    #[test]
    fn a_log_is_whole_however_it_is_rotated_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let log = LogFolder::new(root.path(), "default", "talker", "u", "main");
        fs::create_dir_all(&log.path).unwrap();
        let end = AtomicBool::new(false);
        let said = |round: u32| {
            let lines: String =
                (0..4).map(|i| format!("2026-01-01T00:00:00Z stdout F {}\n", round * 4 + i)).collect();
            fs::File::create(log.path.join("0.log")).unwrap().write_all(lines.as_bytes()).unwrap();
        };
        said(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1.. {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    rotate(&log.path, round);
                    said(round);
                    if end.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            // Until a hundred rotations came between.
            while !log.path.join("0.log.000000100.gz").exists() {
                let mut text = String::new();
                let mut sink = |line: &[u8]| {
                    text.push_str(std::str::from_utf8(line).unwrap());
                    Ok(())
                };
                let read = read(&log, Which::Current, &Options::default(), &mut sink);
                let gap = text.lines().enumerate().find(|(i, line)| *line != i.to_string());
                end.store(read.is_err() || gap.is_some(), Ordering::Relaxed);
                read.unwrap();
                assert_eq!(gap, None);
            }
            end.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn times_have_nine_digits() {
        for (stamp, shown) in [
            ("2026-11-21T12:04:03.59315626Z", "2026-11-21T12:04:03.593156260Z"),
            ("2026-11-21T12:04:03Z", "2026-11-21T12:04:03.000000000Z"),
            ("2026-11-21T12:04:03.5+01:00", "2026-11-21T12:04:03.500000000+01:00"),
            ("2026-11-21T12:04:03.123456789Z", "2026-11-21T12:04:03.123456789Z"),
            ("", ""),
        ] {
            assert_eq!(fixed(stamp), shown);
        }
    }
}
