//! Requests to a registry over a link that breaks: asked again as the mirror asks, and files taken up where they broke
//! off.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Registry;
use crate::bundle::Error;
use crate::oci::{Error as OciError, FetchedBlob};
use crate::sys::digest::{Digest, Hasher};
use crate::sys::durable;
use crate::sys::progress::Item;

/// Tries of one request, or of one file without a new byte.
const TRIES: u32 = 4;
/// The first wait between tries; doubled with each.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait that a registry may ask for: somebody sits there, or a script does.
const LONGEST: Duration = Duration::from_secs(300);

/// Asks until there is an answer, or no use in asking.
///
/// # Errors
/// The last one.
pub(super) async fn ask<T>(
    registry: &Registry,
    request: impl AsyncFn() -> Result<T, OciError>,
) -> Result<T, Error> {
    let mut tries = 0;
    loop {
        match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) => again(registry, &mut tries, error).await?,
        }
    }
}

/// Waits before the next try.
///
/// # Errors
/// The one given, where there is none.
async fn again(registry: &Registry, tries: &mut u32, error: OciError) -> Result<(), Error> {
    *tries += 1;
    let wait = match &error {
        OciError::RateLimited { url, wait } if *wait > LONGEST || *tries >= 2 * TRIES => {
            return Err(Error::Limited { url: url.clone(), seconds: wait.as_secs() });
        }
        OciError::RateLimited { url, wait } => {
            let seconds = wait.as_secs();
            registry.progress.note(format!("`{url}` is rate limited; going on in {seconds} s"));
            *wait
        }
        error if error.is_unreachable() && *tries < TRIES => PAUSE * 2_u32.pow(*tries - 1),
        _ => return Err(error.into()),
    };
    tokio::time::sleep(wait).await;
    Ok(())
}

/// A file on its way to its name, and what came of it so far.
struct Coming {
    part: PathBuf,
    file: File,
    hasher: Hasher,
    taken: u64,
}

impl Coming {
    /// Goes on with what an earlier pull left of it.
    fn open(part: PathBuf, digest: &Digest, size: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&part)?;
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        let mut hasher = Hasher::new(digest.algorithm());
        let taken = hasher.take_all(&mut file)?;
        Ok(Self { part, file, hasher, taken })
    }

    fn anew(&mut self, digest: &Digest) -> Result<(), Error> {
        let begun = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        begun.map_err(|e| self.failed(e))?;
        (self.hasher, self.taken) = (Hasher::new(digest.algorithm()), 0);
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.file.write_all(piece).map_err(|e| self.failed(e))?;
        self.hasher.update(piece);
        self.taken += piece.len() as u64;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::Stick(durable::named(error, "write", &self.part))
    }
}

/// Tells progress once of each byte, however often it comes.
struct Told<'a, 'b> {
    item: Option<&'a mut &'b mut Item>,
    bytes: u64,
}

impl Told<'_, '_> {
    fn up_to(&mut self, bytes: u64) {
        if let Some(item) = self.item.as_mut().filter(|_| bytes > self.bytes) {
            item.add(bytes - self.bytes);
        }
        self.bytes = self.bytes.max(bytes);
    }
}

/// Fetches a file to `path`, hashing it on the way, and names it when it is right.
///
/// # Errors
/// [`Error`]; what came until then stays beside, and the next pull goes on with it.
pub(super) async fn fetch(
    registry: &Registry,
    path: &Path,
    digest: &Digest,
    size: u64,
    item: &mut Option<&mut Item>,
) -> Result<(), Error> {
    let mut told = Told { item: item.as_mut(), bytes: 0 };
    let (there, wanted) = (path.to_owned(), digest.clone());
    let right = tokio::task::spawn_blocking(move || is_right(&there, &wanted, size)).await;
    // What is not there, or cannot be read, comes anew.
    if right.is_ok_and(|right| right.unwrap_or(false)) {
        told.up_to(size);
        return Ok(());
    }
    // Not beside it: there is room for it once.
    match tokio::fs::remove_file(path).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Stick(durable::named(e, "remove", path)));
        }
        _ => {}
    }
    let (part, wanted) = (part_of(path), digest.clone());
    let failed = |e| Error::Stick(durable::named(e, "write", path));
    let begun = tokio::task::spawn_blocking(move || Coming::open(part, &wanted, size)).await;
    let mut coming = begun.map_err(|e| failed(io::Error::other(e)))?.map_err(failed)?;
    let mut resumed = coming.taken > 0;
    loop {
        told.up_to(coming.taken);
        fill(registry, &mut coming, digest, size, &mut told).await?;
        if coming.taken == size && coming.hasher.clone().finish() == *digest {
            break;
        }
        coming.anew(digest)?;
        // A power cut may have spoiled what an earlier pull left.
        if !std::mem::take(&mut resumed) {
            let _ = std::fs::remove_file(&coming.part);
            return Err(registry.wrong(format!("`{digest}` is not what its digest says")));
        }
    }
    coming.file.sync_all().map_err(failed)?;
    std::fs::rename(&coming.part, path).map_err(failed)?;
    durable::sync_folder_of(path).map_err(Error::Stick)
}

/// Fetches until all bytes are there, or more than that; a connection that breaks is taken up where it broke.
async fn fill(
    registry: &Registry,
    coming: &mut Coming,
    digest: &Digest,
    size: u64,
    told: &mut Told<'_, '_>,
) -> Result<(), Error> {
    let Registry { client, upstream, reference, .. } = registry;
    // A registry that does not resume sends the same bytes again: only what no try has had before is worth another.
    let (mut tries, mut best, mut anew) = (0, coming.taken, false);
    while coming.taken < size {
        let before = coming.taken;
        let broken = match client.blob(upstream, &reference.path, digest, before).await {
            Ok(blob) => {
                // A registry that does not resume begins again.
                if blob.offset < before {
                    coming.anew(digest)?;
                }
                take(blob, coming, size, told).await?
            }
            // One that does not want to go on from there may want to from the start.
            Err(error) if before > 0 && error.begins_anew() && !anew => {
                anew = true;
                coming.anew(digest)?;
                continue;
            }
            Err(error) => Some(error),
        };
        if coming.taken > best {
            (tries, best) = (0, coming.taken);
        }
        if coming.taken < size {
            let url = format!("{}/v2/{}/blobs/{digest}", upstream.url, reference.path);
            let early = || OciError::Unreachable { url, why: "it ended early".into() };
            again(registry, &mut tries, broken.unwrap_or_else(early)).await?;
        }
    }
    Ok(())
}

/// Writes what comes until it ends, breaks, or is more than was announced.
async fn take(
    mut blob: FetchedBlob,
    coming: &mut Coming,
    size: u64,
    told: &mut Told<'_, '_>,
) -> Result<Option<OciError>, Error> {
    loop {
        match blob.next().await {
            Ok(Some(piece)) => {
                let more = coming.taken + piece.len() as u64 > size;
                if more {
                    // Too many: what came is not what was asked for.
                    coming.taken = u64::MAX;
                    return Ok(None);
                }
                coming.write(&piece)?;
                told.up_to(coming.taken);
            }
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        }
    }
}

/// What a file is called on its way.
fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Bytes that a file of `size` still takes, by what an earlier pull left of it.
pub(super) fn lacking(path: &Path, size: u64) -> u64 {
    let length = |path: &Path| path.symlink_metadata().map_or(0, |meta| meta.len());
    match length(path) == size {
        true => 0,
        false => size.saturating_sub(length(&part_of(path))),
    }
}

/// Whether a file is what `digest` says. One of another length need not be read.
fn is_right(path: &Path, digest: &Digest, size: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != size {
        return Ok(false);
    }
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.take_all(&mut file)?;
    Ok(hasher.finish() == *digest)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::oci::{Client, ClientSettings, Upstream};
    use crate::sys::progress::{Event, Progress};

    #[tokio::test]
    async fn a_wait_that_a_registry_asks_for_is_told_and_a_long_one_is_an_end() {
        let (progress, mut heard) = Progress::channel();
        let (registry, server) = registry(|served, _| {
            let wait = |seconds| {
                format!(
                    "HTTP/1.1 429 Enough\r\nretry-after: {seconds}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
            };
            match served {
                0 => wait(1),
                1 => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nall".into(),
                _ => wait(3600),
            }
        })
        .await;
        let registry = registry.telling(progress);
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(b"all");
        let fetched = async |name: &str| {
            let (path, mut item) = (folder.path().join(name), None);
            let fetched = fetch(&registry, &path, &digest, 3, &mut item);
            tokio::time::timeout(Duration::from_secs(60), fetched).await.expect("it waits for an hour")
        };
        fetched("one").await.unwrap();
        let Ok(Event::Note { line }) = heard.try_recv() else { unreachable!("nothing was told") };
        assert!(line.ends_with("is rate limited; going on in 1 s"), "{line}");
        let refused = fetched("two").await.unwrap_err().to_string();
        assert!(refused.contains("is rate limited for 3600 s hint: "), "{refused}");
        server.abort();
    }

    /// A registry at an address that answers connections one after the other with what `answer` makes of the request.
    async fn registry(
        answer: impl Fn(usize, &str) -> String + Send + 'static,
    ) -> (Registry, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("oci://127.0.0.1:{}/a/b:1", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            for served in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut piece = [0; 1024];
                    match stream.read(&mut piece).await.unwrap() {
                        0 => return,
                        read => asked.extend(&piece[..read]),
                    }
                }
                let answer = answer(served, &String::from_utf8(asked).unwrap().to_lowercase());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let client = Client::new(ClientSettings::default()).unwrap();
        (Registry::new(&at, client, |host| Upstream::at(host, true)).unwrap(), server)
    }

    /// A link that breaks each time before all has come, in front of a registry that begins again each time.
    #[tokio::test]
    async fn what_always_begins_again_and_never_gets_further_ends() {
        let (registry, server) = registry(|served, _| {
            // A little further at first.
            let came = "x".repeat(if served == 0 { 100 } else { 500 });
            format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{came}")
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let (path, digest) = (folder.path().join("blob"), Digest::sha256(b"all"));
        let mut item = None;
        let fetched = fetch(&registry, &path, &digest, 1000, &mut item);
        let ended = tokio::time::timeout(Duration::from_secs(60), fetched).await.expect("it never ends");
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1"), "{error}");
        server.abort();
    }

    #[tokio::test]
    async fn what_is_of_the_right_length_and_wrong_makes_room_before_it_is_fetched() {
        let (registry, server) = registry(|_, _| {
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into()
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let (path, digest) = (folder.path().join("blob"), Digest::sha256(b"all"));
        durable::write(&path, b"alt", 0o600).unwrap();
        fetch(&registry, &path, &digest, 3, &mut None).await.unwrap_err();
        assert!(!path.exists());
        durable::write(&path, b"all", 0o600).unwrap();
        fetch(&registry, &path, &digest, 3, &mut None).await.unwrap();
        server.abort();
    }

    #[tokio::test]
    async fn where_a_registry_does_not_go_on_a_file_comes_from_its_start() {
        let (registry, server) = registry(|_, asked| match asked.contains("range: ") {
            true => {
                "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into()
            }
            false => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nall".into(),
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let (path, digest) = (folder.path().join("blob"), Digest::sha256(b"all"));
        durable::write(&folder.path().join("blob.part"), b"a", 0o600).unwrap();
        fetch(&registry, &path, &digest, 3, &mut None).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"all");
        server.abort();
    }
}
