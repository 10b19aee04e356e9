//! Sending to a registry: blobs as one stream each, manifests as they are.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Url;
use tokio::sync::oneshot;

use super::{About, Client, Error, Upstream, checked, clean, unreachable};
use crate::sys::digest::Digest;

impl Client {
    /// Whether a registry has a blob.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn has_blob(&self, upstream: &Upstream, path: &str, digest: &Digest) -> Result<bool, Error> {
        let resource = format!("/v2/{path}/blobs/{digest}");
        match self.ask(upstream, Method::HEAD, &resource, About::push(path), HeaderMap::new()).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob of `size` bytes as one stream, which may take as long as bytes move.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Unreachable`] also where the registry takes no bytes for half a minute, or says nothing for ten
    /// minutes after it has all.
    pub async fn push_blob(
        &self,
        upstream: &Upstream,
        path: &str,
        digest: &Digest,
        size: u64,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        let resource = format!("/v2/{path}/blobs/uploads/");
        let (begun, shown) = self
            .ask_with(
                upstream,
                Method::POST,
                &resource,
                About::push(path),
                HeaderMap::new(),
                Some(Bytes::new()),
            )
            .await?;
        let base =
            Url::parse(&format!("{}{resource}", upstream.url)).map_err(|e| Error::Setup(e.to_string()))?;
        let location = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let Some(mut url) = location.and_then(|location| base.join(location).ok()) else {
            return Err(Error::Status { url: clean(&base), status: begun.status() });
        };
        super::allowed(&url, upstream.insecure)?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let (under_way, over) = oneshot::channel::<()>();
        // Goes with the stream, of which nothing is left once all was taken.
        let bytes = bytes.inspect(move |_| {
            let _ = &under_way;
        });
        let way = self.way(upstream);
        let mut request = way
            .sends
            .put(url.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(bytes));
        // What the upload was begun with: another request may have remembered one that is good for less.
        if let Some(authorization) = shown.filter(|_| url.origin() == base.origin()) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let silence = async {
            let _ = over.await;
            tokio::time::sleep(way.answer).await;
        };
        let response = tokio::select! {
            response = request.send() => response.map_err(|e| unreachable(&e, &url))?,
            () = silence => {
                let why = format!("no answer {} s after all was sent", way.answer.as_secs());
                return Err(Error::Unreachable { url: clean(&url), why });
            }
        };
        checked(response, &clean(&url)).map(|_| ())
    }

    /// Sends a manifest under a tag or its digest.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn push_manifest(
        &self,
        upstream: &Upstream,
        path: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_str(media_type).map_err(|e| Error::Setup(e.to_string()))?;
        headers.insert(header::CONTENT_TYPE, kind);
        let resource = format!("/v2/{path}/manifests/{name}");
        let asked =
            self.ask_with(upstream, Method::PUT, &resource, About::push(path), headers, Some(bytes)).await;
        match asked {
            // A registry that wants every image of an index says so with 400 or 404.
            Err(Error::NotFound(url)) => Err(Error::Status { url, status: StatusCode::NOT_FOUND }),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::{ClientSettings, Http};
    use super::*;

    /// How a registry takes a blob.
    #[derive(Clone, Copy, PartialEq)]
    enum Takes {
        /// All of it, as fast as it comes, which is not fast.
        Slowly,
        /// All of it, and says nothing.
        Silently,
        Nothing,
    }

    const PIECE: usize = 64 << 10;
    const PAUSE: Duration = Duration::from_millis(50);

    async fn serve(mut stream: TcpStream, takes: Takes) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        if head.starts_with(b"POST") {
            let begun =
                "HTTP/1.1 202 Accepted\r\nlocation: /up\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(begun.as_bytes()).await;
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let (mut left, mut piece) = (length.parse::<usize>().unwrap(), vec![0; PIECE]);
        while left > 0 && takes != Takes::Nothing {
            let read = stream.read(&mut piece).await?;
            if read == 0 {
                return Ok(());
            }
            left -= read;
        }
        if takes == Takes::Slowly {
            return stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await;
        }
        std::future::pending().await
    }

    /// Sends `size` bytes to such a registry with waits of these many milliseconds, for bytes that move and for the answer.
    async fn send(takes: Takes, size: usize, read: u64, answer: u64) -> Result<(), Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::of_host(&listener.local_addr().unwrap().to_string());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, takes));
            }
        });
        let mut client = Client::new(ClientSettings::default()).unwrap();
        let (read, answer) = (Duration::from_millis(read), Duration::from_millis(answer));
        client.http = Http::new(&client.settings, &[], read, answer).unwrap();
        let piece = move |_| async move {
            if takes == Takes::Slowly {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Bytes::from(vec![7; PIECE]))
        };
        let pieces = stream::iter(0..size / PIECE).then(piece);
        let digest = Digest::sha256(b"");
        let sent = client.push_blob(&upstream, "a", &digest, size as u64, pieces);
        tokio::time::timeout(Duration::from_secs(60), sent).await.expect("it never ends")
    }

    #[tokio::test]
    async fn a_blob_takes_as_long_as_bytes_move() {
        // Four seconds at least.
        send(Takes::Slowly, 80 * PIECE, 3000, 5000).await.unwrap();
    }

    #[tokio::test]
    async fn a_registry_that_takes_no_more_or_says_nothing_is_left() {
        let error = send(Takes::Silently, 30 * PIECE, 30_000, 300).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { why, .. } if why.starts_with("no answer")), "{error}");
        // More than the connection holds.
        let error = send(Takes::Nothing, 1000 * PIECE, 1000, 60_000).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { why, .. } if why.contains("timed out")), "{error}");
    }
}
