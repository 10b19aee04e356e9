//! What the specification's own suite asks of a registry, case by case: every way to push a blob under either hash, and
//! ranges; manifests are in `registry_shapes`. The suite itself is not to be had: the module proxy does not give it out.

use edge::sys::digest::{Algorithm, Digest};
use reqwest::{Method, Response};

use crate::registry::{INDEX, MANIFEST, Running, code, header, serve, writable};

pub const REPO: &str = "suite/one";
const OTHER: &str = "suite/two";
const BYTES: [(&str, &str); 1] = [("content-type", "application/octet-stream")];

/// How a blob is pushed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    PostOnly,
    PostPut,
    Stream,
    Chunks,
    ChunksAndPut,
}

const WAYS: [Way; 5] = [Way::PostOnly, Way::PostPut, Way::Stream, Way::Chunks, Way::ChunksAndPut];

impl Running {
    async fn begin(&self, repository: &str) -> String {
        let begun = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), &[], b"").await;
        assert_eq!(begun.status(), 202);
        header(&begun, "location").to_owned()
    }

    /// The answer to the request that ends the push.
    pub async fn push_by(&self, way: Way, digest: &Digest, bytes: &[u8], out_of_order: bool) -> Response {
        let ended = |location: &str| format!("{location}?digest={digest}");
        match way {
            Way::PostOnly => {
                let path = format!("/v2/{REPO}/blobs/uploads/?digest={digest}");
                self.send(Method::POST, &path, &BYTES, bytes).await
            }
            Way::PostPut => {
                let location = self.begin(REPO).await;
                self.send(Method::PUT, &ended(&location), &BYTES, bytes).await
            }
            Way::Stream => {
                let location = self.begin(REPO).await;
                let patched = self.send(Method::PATCH, &location, &BYTES, bytes).await;
                assert_eq!(patched.status(), 202);
                self.send(Method::PUT, &ended(header(&patched, "location")), &BYTES, b"").await
            }
            Way::Chunks | Way::ChunksAndPut => self.push_chunks(way, digest, bytes, out_of_order).await,
        }
    }

    async fn push_chunks(&self, way: Way, digest: &Digest, bytes: &[u8], out_of_order: bool) -> Response {
        let mut location = self.begin(REPO).await;
        let size = bytes.len() / 3 + 1;
        let range = |first: usize, length: usize| format!("{first}-{}", first + length - 1);
        let mut sent = 0;
        for chunk in bytes.chunks(size) {
            let last = sent + chunk.len() == bytes.len();
            let method = if last && way == Way::ChunksAndPut { Method::PUT } else { Method::PATCH };
            let to = |location: &str| match method == Method::PUT {
                true => format!("{location}?digest={digest}"),
                false => location.to_owned(),
            };
            if out_of_order {
                // Ahead of what is awaited, or from the beginning again.
                let wrong = if sent + 2 * chunk.len() <= bytes.len() { sent + chunk.len() } else { 0 };
                if wrong != sent {
                    let (at, piece) = (range(wrong, chunk.len()), &bytes[wrong..wrong + chunk.len()]);
                    let refused =
                        self.send(method.clone(), &to(&location), &[("content-range", &at)], piece).await;
                    assert_eq!(refused.status(), 416, "{way:?} {at}");
                    let state = self.get(&location).await;
                    assert_eq!(state.status(), 204);
                    assert_eq!(header(&state, "range"), format!("0-{}", sent.saturating_sub(1)));
                    location = header(&state, "location").to_owned();
                }
            }
            let at = range(sent, chunk.len());
            let done = self.send(method.clone(), &to(&location), &[("content-range", &at)], chunk).await;
            if method == Method::PUT {
                return done;
            }
            assert_eq!(done.status(), 202);
            location = header(&done, "location").to_owned();
            sent += chunk.len();
        }
        self.send(Method::PUT, &format!("{location}?digest={digest}"), &BYTES, b"").await
    }

    /// HEAD and GET of what is here, with all headers that the suite wants.
    pub async fn reads(&self, path: &str, media_type: &str, digest: &Digest, bytes: &[u8]) {
        for method in [Method::HEAD, Method::GET] {
            let got = self.send(method.clone(), path, &[("accept", INDEX), ("accept", MANIFEST)], b"").await;
            assert_eq!(got.status(), 200, "{method} {path}");
            assert_eq!(header(&got, "content-length"), bytes.len().to_string(), "{method} {path}");
            assert_eq!(header(&got, "docker-content-digest"), digest.as_str(), "{method} {path}");
            assert_eq!(header(&got, "content-type"), media_type, "{method} {path}");
            let expected = if method == Method::GET { bytes } else { b"" };
            assert_eq!(got.bytes().await.unwrap(), expected, "{method} {path}");
        }
    }

    /// Deleted, and gone at once.
    pub async fn delete(&self, path: &str) {
        let deleted = self.send(Method::DELETE, path, &[], b"").await.status().as_u16();
        assert!(matches!(deleted, 202 | 404), "{path}: {deleted}");
        assert_eq!(self.send(Method::HEAD, path, &[], b"").await.status(), 404, "{path}");
    }

    async fn arrived(&self, pushed: Response, digest: &Digest, bytes: &[u8]) {
        assert_eq!(pushed.status(), 201);
        assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
        assert_eq!(self.get(header(&pushed, "location")).await.bytes().await.unwrap(), bytes);
        self.reads(&blob(REPO, digest), "application/octet-stream", digest, bytes).await;
    }
}

pub fn blob(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

#[tokio::test]
async fn blobs_by_every_way_under_either_hash() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for (way, out_of_order) in WAYS.iter().flat_map(|way| [(*way, false), (*way, true)]) {
            let bytes = format!("{algorithm:?} {way:?} {out_of_order} {}", "x".repeat(512)).into_bytes();
            let digest = Digest::of(algorithm, &bytes);
            assert_eq!(edge.get(&blob(REPO, &digest)).await.status(), 404);
            let pushed = edge.push_by(way, &digest, &bytes, out_of_order).await;
            edge.arrived(pushed, &digest, &bytes).await;
            edge.delete(&blob(REPO, &digest)).await;
            // Other bytes than were announced.
            let wrong = Digest::of(algorithm, b"something else");
            let refused = edge.push_by(way, &wrong, &bytes, out_of_order).await;
            assert_eq!(refused.status(), 400, "{way:?}");
            assert_eq!(code(refused).await, "DIGEST_INVALID");
            assert_eq!(edge.get(&blob(REPO, &wrong)).await.status(), 404);
        }
        for bytes in [&b""[..], b"{}"] {
            let digest = Digest::of(algorithm, bytes);
            for way in [Way::PostOnly, Way::PostPut, Way::Stream, Way::Chunks] {
                let pushed = edge.push_by(way, &digest, bytes, false).await;
                edge.arrived(pushed, &digest, bytes).await;
                edge.delete(&blob(REPO, &digest)).await;
            }
        }
        // Mounted from a repository that is named, and from none.
        for source in [format!("&from={OTHER}"), String::new()] {
            let bytes = format!("mounted {algorithm:?} {source}").into_bytes();
            let digest = Digest::of(algorithm, &bytes);
            let path = format!("/v2/{OTHER}/blobs/uploads/?digest={digest}");
            assert_eq!(edge.send(Method::POST, &path, &BYTES, &bytes).await.status(), 201);
            let path = format!("/v2/{REPO}/blobs/uploads/?mount={digest}{source}");
            let mounted = edge.send(Method::POST, &path, &[], b"").await;
            edge.arrived(mounted, &digest, &bytes).await;
            edge.delete(&blob(REPO, &digest)).await;
            edge.reads(&blob(OTHER, &digest), "application/octet-stream", &digest, &bytes).await;
            edge.delete(&blob(OTHER, &digest)).await;
        }
    }
    edge.stop().await;
}

#[tokio::test]
async fn ranges() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let bytes: Vec<u8> = (0..2048u32).map(|n| n.to_le_bytes()[0]).collect();
    let digest = edge.push_blob(REPO, &bytes).await;
    let path = blob(REPO, &digest);
    for (asked, first, last) in
        [("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047), ("2000-5000", 2000, 2047)]
    {
        let got = edge.send(Method::GET, &path, &[("range", &format!("bytes={asked}"))], b"").await;
        assert_eq!(got.status(), 206, "{asked}");
        assert_eq!(header(&got, "content-range"), format!("bytes {first}-{last}/2048"));
        assert_eq!(header(&got, "content-length"), (last - first + 1).to_string());
        assert_eq!(got.bytes().await.unwrap(), bytes[first..=last]);
    }
    for beyond in ["500-0", "5000-10000"] {
        let got = edge.send(Method::GET, &path, &[("range", &format!("bytes={beyond}"))], b"").await;
        assert_eq!((got.status().as_u16(), header(&got, "content-range")), (416, "bytes */2048"), "{beyond}");
    }
    // No range is there to HEAD, nor with the mark of something else.
    let (range, same) = (("range", "bytes=500-"), format!("\"{digest}\""));
    for (method, mark, status, length) in [
        (Method::HEAD, None, 200, "2048"),
        (Method::GET, Some("\"another\""), 200, "2048"),
        (Method::GET, Some("Sun, 22 Nov 2026 08:00:00 GMT"), 200, "2048"),
        (Method::GET, Some(&*same), 206, "1548"),
    ] {
        let headers: Vec<_> =
            [Some(range), mark.map(|mark| ("if-range", mark))].into_iter().flatten().collect();
        let got = edge.send(method.clone(), &path, &headers, b"").await;
        let told = (got.status().as_u16(), header(&got, "content-length"));
        assert_eq!(told, (status, length), "{method} {mark:?}");
    }
    edge.stop().await;
}
