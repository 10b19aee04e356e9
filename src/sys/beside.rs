//! Hashing beside: a thread of its own hashes what was read, while the caller writes it and reads on.
//!
//! Copying waits for disks and hashing for the processor; one after the other they take as long as both. What is hashed is
//! the very bytes that the caller was handed.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::digest::Hasher;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Pieces that are under way.
const PIECES: usize = 4;
/// What has no more bytes than this is not worth being handed over.
const SMALL: u64 = 2 * PIECE as u64;

/// The thread. It ends when this is dropped.
pub struct Beside {
    give: Sender<Job>,
    empty: Receiver<Vec<u8>>,
    done: Receiver<Vec<Hasher>>,
}

enum Job {
    Begin(Vec<Hasher>),
    /// A buffer and how many bytes in it count.
    Piece(Vec<u8>, usize),
    End,
}

impl Beside {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where threads cannot be had.
    pub fn start() -> io::Result<Self> {
        let ((give, jobs), (back, empty), (tell, done)) = (channel(), channel(), channel());
        for _ in 0..PIECES {
            // The other end is still here.
            let _ = back.send(Vec::new());
        }
        std::thread::Builder::new().name("hashing".into()).spawn(move || run(&jobs, &back, &tell))?;
        Ok(Self { give, empty, done })
    }

    /// Hands `take` the next bytes of `file`, in order, until its end or until there were `most`, and hashes them by each of
    /// `hashers`. Says how many there were. What cannot be read is told by `broken`.
    ///
    /// # Errors
    /// Those of `take` and `broken`; what `hashers` hold then is of no use.
    pub fn read<E>(
        &self,
        file: &File,
        most: u64,
        hashers: &mut Vec<Hasher>,
        broken: impl Fn(io::Error) -> E,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        if most <= SMALL {
            return read_here(file, most, hashers, broken, take);
        }
        let ended = || broken(io::Error::other("the thread that hashes ended unexpectedly"));
        self.give.send(Job::Begin(std::mem::take(hashers))).map_err(|_| ended())?;
        let (mut total, mut result) = (0, Ok(()));
        while result.is_ok() && total < most {
            let mut buffer = self.empty.recv().map_err(|_| ended())?;
            buffer.resize(PIECE, 0);
            let read = match next(file, &mut buffer, most - total) {
                Ok(read) => read,
                Err(e) => {
                    result = Err(broken(e));
                    0
                }
            };
            if read > 0 {
                result = take(&buffer[..read]);
            }
            total += read as u64;
            // Each buffer goes round, also one that holds nothing.
            self.give.send(Job::Piece(buffer, read)).map_err(|_| ended())?;
            if read == 0 {
                break;
            }
        }
        self.give.send(Job::End).map_err(|_| ended())?;
        *hashers = self.done.recv().map_err(|_| ended())?;
        result.map(|()| total)
    }
}

fn run(jobs: &Receiver<Job>, back: &Sender<Vec<u8>>, tell: &Sender<Vec<Hasher>>) {
    let mut hashers = Vec::new();
    for job in jobs {
        match job {
            Job::Begin(new) => hashers = new,
            Job::Piece(buffer, count) => {
                for hasher in &mut hashers {
                    hasher.update(&buffer[..count]);
                }
                // Nobody reads any more once the other end is gone, and then the jobs end too.
                let _ = back.send(buffer);
            }
            Job::End => drop(tell.send(std::mem::take(&mut hashers))),
        }
    }
}

fn read_here<E>(
    file: &File,
    most: u64,
    hashers: &mut [Hasher],
    broken: impl Fn(io::Error) -> E,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(most).unwrap_or(PIECE))];
    let mut total = 0;
    while total < most {
        let read = next(file, &mut buffer, most - total).map_err(&broken)?;
        if read == 0 {
            break;
        }
        hashers.iter_mut().for_each(|hasher| hasher.update(&buffer[..read]));
        take(&buffer[..read])?;
        total += read as u64;
    }
    Ok(total)
}

fn next(mut file: &File, buffer: &mut [u8], left: u64) -> io::Result<usize> {
    let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    loop {
        match file.read(&mut buffer[..want]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::digest::{Algorithm, Digest};

    fn file(length: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn what_is_taken_is_what_is_hashed_in_order_and_no_more_than_asked() {
        let beside = Beside::start().unwrap();
        for length in [0, 1, PIECE, 2 * PIECE, 2 * PIECE + 1, 9 * PIECE + 7] {
            let (file, bytes) = file(length);
            for most in [u64::MAX, length as u64, length as u64 / 2] {
                io::Seek::rewind(&mut &file).unwrap();
                let (mut got, mut hashers) = (Vec::new(), Vec::new());
                hashers.extend([Algorithm::Sha256, Algorithm::Sha512].map(Hasher::new));
                let take = |piece: &[u8]| {
                    got.extend_from_slice(piece);
                    Ok::<_, io::Error>(())
                };
                let count = beside.read(&file, most, &mut hashers, |e| e, take).unwrap();
                let wanted = usize::try_from(most).unwrap_or(usize::MAX).min(length);
                assert_eq!((count, &got[..]), (wanted as u64, &bytes[..wanted]), "{length} {most}");
                for hasher in hashers {
                    let algorithm = hasher.algorithm();
                    assert_eq!(hasher.finish(), Digest::of(algorithm, &bytes[..wanted]));
                }
            }
        }
    }

    #[test]
    fn after_an_error_on_either_side_it_goes_on_with_the_next() {
        let beside = Beside::start().unwrap();
        let (good, bytes) = file(20 * PIECE);
        let folder = File::open(".").unwrap();
        for _ in 0..2 * PIECES {
            io::Seek::rewind(&mut &good).unwrap();
            let (mut pieces, mut hashers) = (0, vec![Hasher::new(Algorithm::Sha256)]);
            let take = |_: &[u8]| {
                pieces += 1;
                if pieces == 3 { Err("enough".to_owned()) } else { Ok(()) }
            };
            let stopped = beside.read(&good, u64::MAX, &mut hashers, |e| e.to_string(), take);
            assert_eq!((stopped, pieces), (Err("enough".to_owned()), 3));
            for most in [1, u64::MAX] {
                assert!(beside.read(&folder, most, &mut hashers, |e| e, |_| Ok(())).is_err());
            }
        }
        io::Seek::rewind(&mut &good).unwrap();
        let mut hashers = vec![Hasher::new(Algorithm::Sha256)];
        beside.read(&good, u64::MAX, &mut hashers, |e| e, |_| Ok(())).unwrap();
        assert_eq!(hashers.remove(0).finish(), Digest::sha256(&bytes));
    }
}
