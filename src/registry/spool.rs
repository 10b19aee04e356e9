//! Writes an upload off the network's threads, a batch at a time, while the next one is gathered.
//!
//! Between batches no thread is held: a client or an upstream that sends slowly costs nothing but its buffers.

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::store::{Error, Upload};

/// Bytes that are gathered before a batch is worth a thread.
const BATCH: usize = 256 << 10;

/// An upload and what waits to be written to it.
pub(super) struct Spool {
    state: State,
    /// Bytes that are in the upload's file.
    written: u64,
    gathered: Vec<Bytes>,
    size: usize,
}

enum State {
    Idle(Box<Upload>),
    Writing(JoinHandle<Written>),
    /// Only while a state changes, or after a thread was lost.
    Gone,
}

type Written = (Box<Upload>, Result<(), Error>);

/// Why an upload does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("a task ended unexpectedly")]
    Ended,
}

impl Spool {
    pub(super) fn new(upload: Upload) -> Self {
        let written = upload.offset();
        Self { state: State::Idle(Box::new(upload)), written, gathered: Vec::new(), size: 0 }
    }

    /// Bytes that readers of the upload's file find there.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next piece; waits while a whole batch waits already.
    pub(super) async fn push(&mut self, piece: Bytes) -> Result<(), SpoolError> {
        self.size += piece.len();
        self.gathered.push(piece);
        if self.size >= BATCH {
            self.idle().await?;
            self.write();
        }
        Ok(())
    }

    /// Has what was gathered written now, unless a batch is under way.
    pub(super) fn nudge(&mut self) {
        if self.size > 0 && matches!(self.state, State::Idle(_)) {
            self.write();
        }
    }

    /// Waits until the batch under way is written; for ever where none is.
    pub(super) async fn wrote(&mut self) -> Result<(), SpoolError> {
        match self.state {
            State::Writing(_) => self.idle().await,
            _ => std::future::pending().await,
        }
    }

    /// Writes all that was gathered.
    pub(super) async fn drain(&mut self) -> Result<(), SpoolError> {
        self.idle().await?;
        if self.size > 0 {
            self.write();
            self.idle().await?;
        }
        Ok(())
    }

    /// Writes all that was gathered, and gives the upload back.
    ///
    /// # Errors
    /// The upload is dropped then, and can be taken up again.
    pub(super) async fn settle(mut self) -> Result<Upload, SpoolError> {
        self.drain().await?;
        match self.state {
            State::Idle(upload) => Ok(*upload),
            _ => Err(SpoolError::Ended),
        }
    }

    /// Gives the upload up.
    pub(super) async fn cancel(mut self) {
        // Whatever went wrong with the batch, the upload goes.
        let _ = self.idle().await;
        if let State::Idle(upload) = self.state {
            upload.cancel();
        }
    }

    fn write(&mut self) {
        let State::Idle(mut upload) = std::mem::replace(&mut self.state, State::Gone) else { return };
        let batch = std::mem::take(&mut self.gathered);
        self.size = 0;
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            let written = batch.iter().try_for_each(|piece| upload.write(piece));
            (upload, written)
        }));
    }

    async fn idle(&mut self) -> Result<(), SpoolError> {
        if let State::Writing(writing) = &mut self.state {
            let done = writing.await;
            self.state = State::Gone;
            let (upload, written) = done.map_err(|_| SpoolError::Ended)?;
            self.written = upload.offset();
            self.state = State::Idle(upload);
            written?;
        }
        match self.state {
            State::Idle(_) => Ok(()),
            _ => Err(SpoolError::Ended),
        }
    }
}
