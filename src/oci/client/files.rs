//! Files that lie on web servers, such as a chart repository's index, and small requests to them: with the
//! credential for the server's host, never along a redirect to another.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Url;

use super::{About, Client, Error, Upstream, clean, fetch};

/// A file as it came.
#[derive(Clone, Debug)]
pub struct FetchedFile {
    /// Its bytes.
    pub bytes: Bytes,
    /// The server's mark of this version of it; empty where it gives none.
    pub etag: String,
}

/// A web server and whether it may be asked in the clear.
#[derive(Clone, Debug)]
pub struct Site(Upstream);

impl Site {
    /// The server of an address.
    ///
    /// # Errors
    /// What is no address of a web server.
    pub fn of(url: &Url, insecure: bool) -> Result<Self, Error> {
        let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
            return Err(Error::Setup(format!("`{}` is no address of a web server", clean(url))));
        };
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self(Upstream { url: format!("{}://{host}", url.scheme()), host, insecure }))
    }
}

impl Client {
    /// Fetches a file of at most `most` bytes; `None` if it is still the version `etag`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn file(
        &self,
        url: &Url,
        insecure: bool,
        etag: &str,
        most: usize,
    ) -> Result<Option<FetchedFile>, Error> {
        let site = Site::of(url, insecure)?;
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(etag)
            && !etag.is_empty()
        {
            headers.insert(header::IF_NONE_MATCH, value);
        }
        let asked = self.ask(&site.0, Method::GET, &path_of(url), About::file(url.path()), headers).await;
        let response = match asked {
            Err(Error::Status { status: StatusCode::NOT_MODIFIED, .. }) => return Ok(None),
            other => other?,
        };
        let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
        let etag = etag.unwrap_or_default().to_owned();
        let bytes = fetch::take(response, most, &clean(url)).await?;
        Ok(Some(FetchedFile { bytes, etag }))
    }

    /// Sends a small body and gives the answer piece by piece, as git's smart protocol wants it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn exchange(
        &self,
        url: &Url,
        insecure: bool,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<reqwest::Response, Error> {
        let site = Site::of(url, insecure)?;
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let about = About::file(url.path());
        let answer = self.ask_with(&site.0, method, &path_of(url), about, headers, body).await;
        answer.map(|(response, _)| response)
    }
}

/// What is wrong with the address of a proxy, if anything; without what may be secret in it.
pub fn proxy_fault(address: &str) -> Option<String> {
    let good = |text: &str| {
        Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    };
    let shown = address.rsplit('@').next().unwrap_or_default();
    let why = || format!("`{shown}` is no proxy hint: write one such as `http://proxy.example.com:3128`");
    // `proxy:3128` is taken as HTTP, as everywhere.
    let plain = !address.contains("://") && good(&format!("http://{address}"));
    (!good(address) && !plain).then(why)
}

/// A proxy for requests to other machines.
pub(super) fn proxy(address: &str, without: Option<&str>) -> Result<reqwest::Proxy, Error> {
    if let Some(why) = proxy_fault(address) {
        return Err(Error::Setup(why));
    }
    let proxy = reqwest::Proxy::all(address).map_err(|e| Error::Setup(super::chain(&e)))?;
    let always = "localhost,127.0.0.0/8,::1";
    let list = without.map_or_else(|| always.to_owned(), |list| format!("{list},{always}"));
    Ok(proxy.no_proxy(reqwest::NoProxy::from_string(&list)))
}

fn path_of(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}
