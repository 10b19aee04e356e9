//! Lists that come in pages: tags, and what is about a manifest. A registry may be anybody's, so what is kept of its
//! answers is bounded, however many pages it has.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use http::{HeaderMap, Method, header};
use reqwest::Url;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::{About, Client, Error, Upstream, clean, fetch};
use crate::oci::{Descriptor, is_tag};
use crate::sys::digest::Digest;

/// The most tags that are taken of one repository.
const MOST_TAGS: usize = 100_000;
/// The most things that are taken of what is about one manifest.
pub(super) const MOST_REFERRERS: usize = 256;
/// Bytes of all pages of one list.
const LARGEST: usize = 16 << 20;
/// Pages of one list.
const PAGES: usize = 1000;

/// The first elements of a list that are of use, and not more of them than anybody needs.
struct Kept<T> {
    items: Vec<T>,
    /// Whether there were more.
    more: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { items: Vec::new(), more: false }
    }
}

/// An element of a list, or nothing where it is of no use.
trait Element: Sized {
    const MOST: usize;
    type Raw<'de>: Deserialize<'de>;
    fn of(raw: Self::Raw<'_>) -> Option<Self>;
}

impl Element for String {
    const MOST: usize = MOST_TAGS;
    type Raw<'de> = Cow<'de, str>;
    fn of(raw: Cow<'_, str>) -> Option<Self> {
        is_tag(&raw).then(|| raw.into_owned())
    }
}

impl Element for Descriptor {
    const MOST: usize = MOST_REFERRERS;
    type Raw<'de> = Descriptor;
    fn of(raw: Descriptor) -> Option<Self> {
        Some(raw)
    }
}

impl<'de, T: Element> Deserialize<'de> for Kept<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T>(PhantomData<T>);
        impl<'de, T: Element> Visitor<'de> for Each<T> {
            type Value = Kept<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<Kept<T>, E> {
                Ok(Kept::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kept<T>, A::Error> {
                let mut kept = Kept::default();
                while kept.items.len() < T::MOST {
                    let Some(raw) = list.next_element::<T::Raw<'de>>()? else { return Ok(kept) };
                    kept.items.extend(T::of(raw));
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    kept.more = true;
                }
                Ok(kept)
            }
        }
        deserializer.deserialize_any(Each(PhantomData))
    }
}

#[derive(Default, Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Kept<String>,
}

#[derive(Default, Deserialize)]
struct ReferrerPage {
    #[serde(default)]
    manifests: Kept<Descriptor>,
}

/// Where a list is.
struct Pages<'a> {
    client: &'a Client,
    upstream: &'a Upstream,
    path: &'a str,
    asked: HashSet<String>,
    next: Option<String>,
    bytes: usize,
}

impl<'a> Pages<'a> {
    fn of(client: &'a Client, upstream: &'a Upstream, path: &'a str, first: String) -> Self {
        Self { client, upstream, path, asked: HashSet::new(), next: Some(first), bytes: 0 }
    }

    /// The next page and its address; `None` after the last, and where the next is one that was had before.
    async fn next(&mut self) -> Result<Option<(bytes::Bytes, String)>, Error> {
        let Some(resource) = self.next.take().filter(|next| self.asked.insert(next.clone())) else {
            return Ok(None);
        };
        let text = format!("{}{resource}", self.upstream.url.trim_end_matches('/'));
        let url = Url::parse(&text).map_err(|e| Error::Setup(e.to_string()))?;
        let shown = clean(&url);
        if self.asked.len() > PAGES {
            return Err(Error::TooLong { url: shown, most: PAGES, of: "pages" });
        }
        let about = About::pull(self.path);
        let response =
            self.client.ask(self.upstream, Method::GET, &resource, about, HeaderMap::new()).await?;
        let links = response.headers().get_all(header::LINK).iter().filter_map(|link| link.to_str().ok());
        self.next = links.filter_map(|link| next_page(&url, link)).next();
        let bytes =
            fetch::take(response, LARGEST - self.bytes, &shown).await.map_err(|error| match error {
                Error::TooLarge { url, .. } => Error::TooLarge { url, most: LARGEST as u64 },
                other => other,
            })?;
        self.bytes += bytes.len();
        Ok(Some((bytes, shown)))
    }
}

impl Client {
    /// All tags of a repository.
    ///
    /// # Errors
    /// [`Error`]; [`Error::TooLong`] for more than 100,000, and [`Error::TooLarge`] for more than 16 MiB of them: the
    /// newest of a list that was cut are not the newest.
    pub async fn tags(&self, upstream: &Upstream, path: &str) -> Result<Vec<String>, Error> {
        let mut pages = Pages::of(self, upstream, path, format!("/v2/{path}/tags/list?n=1000"));
        let mut all = Vec::new();
        while let Some((bytes, url)) = pages.next().await? {
            let page: Result<TagPage, _> = serde_json::from_slice(&bytes);
            let Ok(TagPage { tags }) = page else {
                return Err(Error::Unreachable { url, why: "its answer is no list of tags".into() });
            };
            all.extend(tags.items);
            if tags.more || all.len() > MOST_TAGS {
                return Err(Error::TooLong { url, most: MOST_TAGS, of: "tags" });
            }
        }
        Ok(all)
    }

    /// What is about a manifest, as the referrers API lists it: the first 256, and a line in the log where there are
    /// more. `None` where the registry has no such API.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn referrers(
        &self,
        upstream: &Upstream,
        path: &str,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let mut pages = Pages::of(self, upstream, path, format!("/v2/{path}/referrers/{subject}"));
        let mut all: Option<Vec<Descriptor>> = None;
        loop {
            let bytes = match pages.next().await {
                Ok(Some((bytes, _))) => bytes,
                Ok(None) => return Ok(all),
                Err(Error::NotFound(_)) if all.is_none() => return Ok(None),
                Err(Error::Status { status, .. }) if status.is_client_error() && all.is_none() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            // Servers that know no such path answer with a page.
            let Ok(ReferrerPage { manifests }) = serde_json::from_slice(&bytes) else { return Ok(all) };
            let found = all.get_or_insert_default();
            found.extend(manifests.items);
            if manifests.more || found.len() > MOST_REFERRERS {
                found.truncate(MOST_REFERRERS);
                tracing::warn!(repository = path, %subject, taken = MOST_REFERRERS, "too much is about one manifest");
                return Ok(all);
            }
        }
    }
}

/// Path and query of the link to the next page, which is relative to this one. Whatever host it names, the registry
/// itself is asked: behind a proxy many do not know what they are called.
fn next_page(page: &Url, links: &str) -> Option<String> {
    let mut rest = links;
    while let Some((_, after)) = rest.split_once('<') {
        let (address, after) = after.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or_default();
        let mut relations = parameters.split([';', ',']).filter_map(|one| one.trim().strip_prefix("rel="));
        if relations
            .any(|relation| relation.trim_matches('"').split(' ').any(|one| one.eq_ignore_ascii_case("next")))
        {
            let next = page.join(address).ok().filter(Url::has_host)?;
            return Some(match next.query() {
                Some(query) => format!("{}?{query}", next.path()),
                None => next.path().to_owned(),
            });
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::ClientSettings;

    #[test]
    fn the_next_page_is_found_wherever_it_is() {
        let page = Url::parse("http://q.io:5000/v2/a/tags/list?n=2").unwrap();
        for (link, next) in [
            ("</v2/a/tags/list?last=b&n=2>; rel=\"next\"", Some("/v2/a/tags/list?last=b&n=2")),
            ("<http://inside:1/v2/a/tags/list?last=b>; rel=next", Some("/v2/a/tags/list?last=b")),
            ("<list?last=b>; rel=\"next\"", Some("/v2/a/tags/list?last=b")),
            ("<?last=b>;rel=\"next\"", Some("/v2/a/tags/list?last=b")),
            (
                "</api/docker/x/v2/a/tags/list?last=b>; rel=\"next\"",
                Some("/api/docker/x/v2/a/tags/list?last=b"),
            ),
            ("</1>; rel=\"prev\", </2>; title=\"x\"; rel=\"next last\"", Some("/2")),
            ("</1>; rel=\"prev\"", None),
            ("</1>; title=\"next\"", None),
            ("<mailto:x>; rel=\"next\"", None),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(next_page(&page, link).as_deref(), next, "{link}");
        }
    }

    /// A registry that gives `page(n)` for the n-th request: what links to the next, and the body. Says how often it was
    /// asked.
    async fn registry(
        page: impl Fn(usize) -> (String, String) + Send + 'static,
    ) -> (Upstream, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::of_host(&listener.local_addr().unwrap().to_string());
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (read, mut write) = stream.split();
                let mut lines = tokio::io::BufReader::new(read).lines();
                while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
                let (link, body) = page(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
                let head = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\nlink: {link}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                // A client that has enough is gone.
                let _ = write.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        (upstream, asked)
    }

    fn client() -> Client {
        Client::new(ClientSettings::default()).unwrap()
    }

    #[tokio::test]
    async fn a_list_of_tags_without_end_ends() {
        let link = |n: usize| format!("</v2/a/tags/list?last={n}>; rel=\"next\"");
        // The same page again and again.
        let (upstream, asked) =
            registry(move |_| (link(7), r#"{"tags":["1", "no tag", "", "2"]}"#.to_owned())).await;
        assert_eq!(client().tags(&upstream, "a").await.unwrap(), ["1", "2", "1", "2"]);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
        // Ever more pages, of many tags or of few.
        let many: Vec<String> = (0..9_000).map(|n| n.to_string()).collect();
        let many = serde_json::json!({ "tags": many }).to_string();
        for (body, most, why) in [
            (many, 12, "lists more than 100000 tags hint: name them in `exact`"),
            (serde_json::json!({"tags": vec!["x".repeat(1000); 4_000]}).to_string(), 5, "is larger than"),
            (r#"{"tags":[]}"#.to_owned(), PAGES, "lists more than 1000 pages"),
        ] {
            let (upstream, asked) = registry(move |n| (link(n), body.clone())).await;
            let error = client().tags(&upstream, "a").await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), most, "{why}");
        }
        let (upstream, _) = registry(move |_| (String::new(), r#"{"tags":null}"#.to_owned())).await;
        assert!(client().tags(&upstream, "a").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn of_what_is_about_a_manifest_all_pages_are_read_and_no_more_than_anybody_needs() {
        let subject = Digest::sha256(b"subject");
        let page = |from: usize, many: usize| {
            let of = |n: usize| serde_json::json!({"mediaType": "x", "digest": Digest::sha256(&n.to_be_bytes()), "size": 1});
            serde_json::json!({"manifests": (from..from + many).map(of).collect::<Vec<_>>()}).to_string()
        };
        let (upstream, asked) = registry(move |n| match n {
            0 => ("<?page=2>; rel=\"next\"".to_owned(), page(0, 3)),
            _ => (String::new(), page(3, 2)),
        })
        .await;
        let found = client().referrers(&upstream, "a", &subject).await.unwrap().unwrap();
        assert_eq!((found.len(), asked.load(std::sync::atomic::Ordering::SeqCst)), (5, 2));
        let endless = move |n: usize| (format!("<?page={n}>; rel=\"next\""), page(n * 200, 200));
        let (upstream, asked) = registry(endless).await;
        let found = client().referrers(&upstream, "a", &subject).await.unwrap().unwrap();
        assert_eq!((found.len(), asked.load(std::sync::atomic::Ordering::SeqCst)), (MOST_REFERRERS, 2));
        let (upstream, _) = registry(move |_| (String::new(), page(0, 30_000))).await;
        let found = client().referrers(&upstream, "a", &subject).await.unwrap().unwrap();
        assert_eq!(found.len(), MOST_REFERRERS);
        let (upstream, _) = registry(move |_| (String::new(), "<html>".to_owned())).await;
        assert!(client().referrers(&upstream, "a", &subject).await.unwrap().is_none());
    }
}
