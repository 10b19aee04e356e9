//! One request: what is shown where a server wants to know who asks, redirects, and what it says of its limits.
//!
//! Of several credentials that may be good, one after the other is tried until one is not refused, as kubelet does.
//! What was good is remembered, by what it is for and which credential it was made of.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Response, Url};

use super::token::{self, Token};
use super::{Client, Error, REDIRECTS, Upstream, allowed, checked, clean, unreachable};
use crate::oci::credentials::Candidate;

/// What a request is about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// The repository; of another web server the path.
    path: &'a str,
    /// What is done there, `pull` or `pull,push`; nothing on other web servers.
    actions: &'static str,
}

impl<'a> About<'a> {
    pub(super) fn pull(path: &'a str) -> Self {
        Self { path, actions: "pull" }
    }

    pub(super) fn push(path: &'a str) -> Self {
        Self { path, actions: "pull,push" }
    }

    pub(super) fn file(path: &'a str) -> Self {
        Self { path, actions: "" }
    }

    /// As token servers know it.
    fn scope(&self) -> String {
        if self.actions.is_empty() {
            String::new()
        } else {
            format!("repository:{}:{}", self.path, self.actions)
        }
    }
}

/// What a token is good for: the server, the scope, and the credential that it was made of.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    url: String,
    scope: String,
    by: Candidate,
}

/// What is sent to wherever it is redirected.
struct Request<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    body: Option<&'a Bytes>,
}

/// The credentials that one request may still show.
struct Choice<'a> {
    client: &'a Client,
    upstream: &'a Upstream,
    scope: String,
    left: VecDeque<Candidate>,
    several: bool,
    begun: Instant,
    /// Whether the helper was asked for another.
    anew: bool,
}

impl Client {
    /// Asks, with a credential or token where the registry wants one, and follows redirects.
    pub(super) async fn ask(
        &self,
        upstream: &Upstream,
        method: Method,
        path: &str,
        about: About<'_>,
        headers: HeaderMap,
    ) -> Result<Response, Error> {
        self.ask_with(upstream, method, path, about, headers, None).await.map(|(response, _)| response)
    }

    /// The same with a body, which is sent again where a credential or token is wanted. Also says which
    /// `Authorization` was shown, if any.
    pub(super) async fn ask_with(
        &self,
        upstream: &Upstream,
        method: Method,
        path: &str,
        about: About<'_>,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<(Response, Option<String>), Error> {
        let text = format!("{}{path}", upstream.url.trim_end_matches('/'));
        let unfit = |e: url::ParseError| {
            Error::Setup(format!(
                "`{}` is no address: {e}",
                text.split(['?', '#']).next().unwrap_or_default()
            ))
        };
        let url = Url::parse(&text).map_err(unfit)?;
        let text = clean(&url);
        allowed(&url, upstream.insecure)?;
        let request = Request { method: &method, headers: &headers, body: body.as_ref() };
        let mut choice = Choice::new(self, upstream, about);
        let (mut shown, mut challenges) = (choice.remembered(), None);
        loop {
            let authorization = shown.as_ref().map(|(_, token)| token.value.clone());
            let (response, home) =
                self.follow(upstream, &request, url.clone(), authorization.as_deref()).await?;
            // Whom a redirect leads to speaks for itself alone: it is shown nothing, and what it asks for is not
            // heeded.
            if home {
                self.limits.note(&upstream.host, response.headers());
            }
            let by = shown.as_ref().map(|(by, _)| by);
            if !home || !choice.is_refused(response.status(), by) {
                if let Some((by, token)) = shown {
                    choice.remember(by, token);
                }
                return Ok((checked(response, &text)?, authorization));
            }
            if let Some((by, _)) = shown.take() {
                choice.refused(by);
            }
            if response.status() == StatusCode::UNAUTHORIZED {
                let wanted = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
                let wanted: Vec<String> = wanted.filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
                challenges = Some(wanted);
            }
            // Where that is not known yet, it is asked without any to say what it wants.
            if let Some(challenges) = &challenges {
                shown = Some(choice.next(challenges, &text).await?);
            }
        }
    }

    /// The answer, and whether it is of the server that was asked rather than of one that it led to.
    async fn follow(
        &self,
        upstream: &Upstream,
        asked: &Request<'_>,
        url: Url,
        authorization: Option<&str>,
    ) -> Result<(Response, bool), Error> {
        let origin = url.origin();
        let mut url = url;
        for _ in 0..=REDIRECTS {
            let home = url.origin() == origin;
            let mut request =
                self.http(upstream).request(asked.method.clone(), url.clone()).headers(asked.headers.clone());
            if let Some(body) = asked.body {
                request = request.body(body.clone());
            }
            if let Some(authorization) = authorization.filter(|_| home) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let response = request.send().await.map_err(|e| unreachable(&e, &url))?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok((response, home));
            }
            let to = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
            let next = to.and_then(|to| url.join(to).ok());
            let Some(next) = next else {
                return Err(Error::Status { url: clean(&url), status: response.status() });
            };
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Error::Insecure(clean(&next)));
            }
            allowed(&next, upstream.insecure)?;
            url = next;
        }
        Err(Error::Unreachable { url: clean(&url), why: "it redirects without end".into() })
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<Key, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Choice<'a> {
    fn new(client: &'a Client, upstream: &'a Upstream, about: About<'_>) -> Self {
        let left = client.settings.credentials.candidates(&upstream.host, about.path);
        Self {
            client,
            upstream,
            scope: about.scope(),
            several: left.len() > 1,
            left: left.into(),
            begun: Instant::now(),
            anew: false,
        }
    }

    fn key(&self, by: &Candidate) -> Key {
        Key { url: self.upstream.url.clone(), scope: self.scope.clone(), by: by.clone() }
    }

    /// What was good before.
    fn remembered(&self) -> Option<(Candidate, Token)> {
        let mut tokens = self.client.tokens();
        tokens.retain(|_, token| token.is_valid());
        self.left.iter().find_map(|by| Some((by.clone(), tokens.get(&self.key(by))?.clone())))
    }

    fn remember(&self, by: Candidate, token: Token) {
        self.client.tokens().insert(self.key(&by), token);
    }

    /// Whether an answer means that another credential may be better than the one that was shown.
    fn is_refused(&self, status: StatusCode, by: Option<&Candidate>) -> bool {
        // Some say 403 of a password that expired, or that is for other repositories.
        let another = self.several || matches!(by, Some(Candidate::Helper(_)));
        status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && by.is_some() && another)
    }

    /// Notes that what was made of a credential is good for nothing. A helper may have another by now, and is asked
    /// once.
    fn refused(&mut self, by: Candidate) {
        self.client.tokens().remove(&self.key(&by));
        let Candidate::Helper(program) = &by else { return };
        let before = if self.anew { Instant::now() } else { self.begun };
        self.client.helpers.forget(program, &self.upstream.host, before);
        if !std::mem::replace(&mut self.anew, true) && !self.left.contains(&by) {
            self.left.push_front(by);
        }
    }

    /// What to show next.
    async fn next(&mut self, challenges: &[String], url: &str) -> Result<(Candidate, Token), Error> {
        let mut refusal = Error::Unauthorized(url.to_owned());
        while let Some(by) = self.left.pop_front() {
            match token::answer(self.client, self.upstream, challenges, &self.scope, &by).await {
                Ok(Some(token)) => return Ok((by, token)),
                Ok(None) => {}
                // The token server knows no such user.
                Err(error @ Error::Unauthorized(_)) => {
                    self.refused(by);
                    refusal = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }
}
