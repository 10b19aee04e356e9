//! Blobs that are small enough to be read whole: packages of charts, what a signature signs.

use bytes::Bytes;

use super::error::Failure;
use super::fetch::{Source, Wire};
use crate::oci::{Descriptor, Error as OciError};
use crate::sys::digest::Digest;

impl Wire {
    /// A blob whole: from the store, where it is put first unless `dry`. The caller looks at its size before.
    pub(super) async fn small(
        &self,
        source: &Source,
        wanted: &Descriptor,
        of: &str,
        dry: bool,
    ) -> Result<Bytes, Failure> {
        if !dry {
            self.blob(source, wanted, of).await?;
        }
        let digest = wanted.digest.clone();
        let here = self.blocking(move |store| store.blob(None, &digest)?.map(|blob| blob.read()).transpose());
        match here.await? {
            Some(bytes) => Ok(bytes.into()),
            None => self.in_memory(source, wanted).await,
        }
    }

    async fn in_memory(&self, source: &Source, wanted: &Descriptor) -> Result<Bytes, Failure> {
        let host = &source.upstream.host;
        let ask = async || self.client.blob(&source.upstream, &source.path, &wanted.digest, 0).await;
        let (mut coming, mut bytes) = (self.ask_blob(host, ask).await?, Vec::new());
        let url = wanted.digest.to_string();
        while let Some(piece) = coming.next().await? {
            self.came(piece.len()).await;
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > wanted.size {
                return Err(OciError::TooLarge { url, most: wanted.size }.into());
            }
        }
        if Digest::of(wanted.digest.algorithm(), &bytes) != wanted.digest {
            return Err(OciError::Digest { url }.into());
        }
        Ok(bytes.into())
    }
}
