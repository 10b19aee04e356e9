//! The way of a bundle's bytes into the store: one thread reads the stick, one hashes what was read, and the caller writes
//! the very bytes that were hashed.
//!
//! Reading and writing wait for disks and hashing for the processor; each has its own thread, and none waits at the end of
//! a blob for the others. What went wrong arrives in its place, after all that was right before it.

use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::{Builder, Scope};

use super::copy::part_of;
use super::list::BlobLine;
use super::open::Opened;
use super::readback::PartHash;
use super::stick::{in_order, let_go};
use super::{Error, Fault, name};
use crate::store;
use crate::sys::digest::{Digest, Hasher};
use crate::sys::direct::{Buffer, Direct};

/// Bytes read at once. A disk is as fast as it gets with this much.
const PIECE: usize = 2 << 20;
/// Pieces that are under way.
const PIECES: usize = 4;
/// Bytes of a file up to which it is read into a small piece: memory for the others is had in pages of 2 MiB, also for one byte.
const SMALL: usize = 128 << 10;
/// Steps that may wait: many, for small blobs are steps too. Memory is bounded by the pieces.
const STEPS: usize = 64;

/// What comes next.
pub enum Step {
    /// A blob begins.
    Begin(BlobLine),
    /// Its next bytes.
    Piece(Buffer),
    /// It ends; this is what its bytes hash to.
    End(Digest),
}

enum Read {
    Begin(BlobLine),
    Part(PartHash, Vec<String>),
    Piece(Buffer),
    PartEnd,
    End,
}

/// The caller's end. The threads end when it is dropped.
pub struct Pipeline {
    steps: Receiver<Result<Step, Error>>,
    back: Sender<Buffer>,
    back_small: Sender<Buffer>,
}

impl Pipeline {
    /// Begins to read the blobs for which `wanted` says so, in the order of the list.
    ///
    /// # Errors
    /// Where threads cannot be had.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        opened: &'scope Opened,
        wanted: impl Fn(&BlobLine) -> Result<bool, Error> + Send + 'scope,
    ) -> Result<Self, Error> {
        let ((give, read), (tell, steps)) = (sync_channel(STEPS), sync_channel(STEPS));
        let ((back, large), (back_small, small)) = (Pool::new(PIECE), Pool::new(SMALL));
        let reading = move || {
            let mut reader = Reader { opened, give, large, small };
            if let Err(error) = reader.all(wanted) {
                // Nobody listens any more where the caller has given up.
                let _ = reader.give.send(Err(error));
            }
        };
        Builder::new().name("reading".into()).spawn_scoped(scope, reading).map_err(Error::Files)?;
        let hashing = move || hash(&read, &tell);
        Builder::new().name("hashing".into()).spawn_scoped(scope, hashing).map_err(Error::Files)?;
        Ok(Self { steps, back, back_small })
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// What went wrong with reading, or was not what was signed; nothing comes after it.
    pub fn next(&self) -> Result<Option<Step>, Error> {
        self.steps.recv().ok().transpose()
    }

    /// Lets the memory of a piece be used again.
    pub fn give_back(&self, buffer: Buffer) {
        let back = if buffer.size() <= SMALL { &self.back_small } else { &self.back };
        // Where reading has ended it is not needed.
        let _ = back.send(buffer);
    }
}

struct Reader<'a> {
    opened: &'a Opened,
    give: SyncSender<Result<Read, Error>>,
    large: Pool,
    small: Pool,
}

/// Pieces that are used again and again. One is made when it is needed and none is back: where a file of many pieces never
/// comes, their memory is not had.
struct Pool {
    size: usize,
    /// How many may still be made.
    left: usize,
    back: Receiver<Buffer>,
}

impl Pool {
    /// None of them is there yet; they come back at the other end.
    fn new(size: usize) -> (Sender<Buffer>, Self) {
        let (give, back) = channel();
        (give, Self { size, left: PIECES, back })
    }

    fn take(&mut self) -> Result<Buffer, Error> {
        match self.back.try_recv() {
            Ok(buffer) => Ok(buffer),
            Err(TryRecvError::Empty) if self.left > 0 => {
                self.left -= 1;
                Buffer::new(self.size).map_err(Error::Files)
            }
            Err(_) => self.back.recv().map_err(|_| ended()),
        }
    }
}

impl Reader<'_> {
    fn all(&mut self, wanted: impl Fn(&BlobLine) -> Result<bool, Error>) -> Result<(), Error> {
        let mut lines = self.opened.blob_lines()?;
        while let Some(line) = lines.next_blob(self.opened.manifest.part_size)? {
            if wanted(&line)? {
                self.one(line)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, line: BlobLine) -> Result<(), Error> {
        let part_size = self.opened.manifest.part_size;
        let lying = self.opened.lying(&line)?.ok_or_else(|| Fault::Missing(line.digest.to_string()))?;
        self.give(Read::Begin(line.clone()))?;
        for index in 0..lying.files {
            let (steps, file) = part_of(&lying, part_size, &line, index)?;
            self.give(Read::Part(PartHash::of(&line.carried, index), steps.clone()))?;
            let length = name::part_length(line.size, part_size, index);
            in_order(&file);
            let mut file = Direct::new(file, length);
            let mut left = length;
            while left > 0 {
                let pool = if length <= SMALL as u64 { &mut self.small } else { &mut self.large };
                let mut buffer = pool.take()?;
                let broken = |e| lying.stick.broken(e, "read", &steps.join("/"));
                let read = file.read(&mut buffer, left).map_err(broken)?;
                if read == 0 {
                    return Err(Fault::Digest(steps.join("/")).into());
                }
                left -= read as u64;
                self.give(Read::Piece(buffer))?;
            }
            let_go(file.file());
            self.give(Read::PartEnd)?;
        }
        self.give(Read::End)
    }

    fn give(&self, read: Read) -> Result<(), Error> {
        self.give.send(Ok(read)).map_err(|_| ended())
    }
}

/// Why a thread stops when the next one is gone; nobody sees it.
fn ended() -> Error {
    store::Error::Closed.into()
}

/// Until one end is gone, or something went wrong.
fn hash(reads: &Receiver<Result<Read, Error>>, tell: &SyncSender<Result<Step, Error>>) {
    let (mut hashers, mut part) = (Vec::new(), None);
    for read in reads {
        let step = match read {
            Ok(Read::Begin(line)) => {
                hashers = vec![Hasher::new(line.digest.algorithm())];
                Ok(Step::Begin(line))
            }
            Ok(Read::Part(hash, steps)) => {
                hash.begin(&mut hashers);
                part = Some((hash, steps));
                continue;
            }
            Ok(Read::Piece(buffer)) => {
                hashers.iter_mut().for_each(|hasher| hasher.update(buffer.filled()));
                Ok(Step::Piece(buffer))
            }
            Ok(Read::PartEnd) => match part.take().map(|(hash, steps)| hash.check(&mut hashers, &steps)) {
                Some(Err(fault)) => Err(fault.into()),
                _ => continue,
            },
            Ok(Read::End) => match hashers.pop() {
                Some(hasher) => Ok(Step::End(hasher.finish())),
                None => Err(ended()),
            },
            Err(error) => Err(error),
        };
        let failed = step.is_err();
        if tell.send(step).is_err() || failed {
            return;
        }
    }
}
