//! What a registry that answers 401 wants: basic credentials, or a token from the server it names.

use std::time::{Duration, Instant};

use base64::Engine;
use http::header;
use reqwest::Url;
use serde::Deserialize;

use super::{Client, Error, Upstream, allowed, checked, clean, unreachable};
use crate::oci::Credential;
use crate::oci::credentials::Candidate;

/// The most that a token server's answer may have, in bytes.
const LARGEST: usize = 1 << 20;

/// The value of an `Authorization` header, and until when it is good.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: String,
    until: Instant,
}

impl Token {
    pub(super) fn is_valid(&self) -> bool {
        Instant::now() < self.until
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

/// The header to try again with, of one credential; `None` where there is nothing to show.
pub(super) async fn answer(
    client: &Client,
    upstream: &Upstream,
    challenges: &[String],
    scope: &str,
    by: &Candidate,
) -> Result<Option<Token>, Error> {
    for challenge in challenges {
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let credential = credential(client, upstream, by).await;
            return fetch(client, upstream, &parse(parameters), scope, credential).await.map(Some);
        }
        if scheme.eq_ignore_ascii_case("basic")
            && let Some(credential) = credential(client, upstream, by).await
        {
            let value = in_the_clear(&credential);
            return Ok(Some(Token { value, until: Instant::now() + Duration::from_secs(3600) }));
        }
    }
    Ok(None)
}

async fn credential(client: &Client, upstream: &Upstream, by: &Candidate) -> Option<Credential> {
    match by {
        Candidate::Nobody => None,
        Candidate::Written(at) => client.settings.credentials.written(*at).cloned(),
        Candidate::Helper(program) => client.helpers.ask(program, &upstream.host).await,
    }
}

fn in_the_clear(credential: &Credential) -> String {
    let pair = format!("{}:{}", credential.user, credential.secret);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

async fn fetch(
    client: &Client,
    upstream: &Upstream,
    parameters: &[(String, String)],
    scope: &str,
    credential: Option<Credential>,
) -> Result<Token, Error> {
    let find = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let realm = find("realm").unwrap_or_default();
    let mut url =
        Url::parse(realm).map_err(|e| Error::Unreachable { url: realm.into(), why: e.to_string() })?;
    allowed(&url, upstream.insecure)?;
    let mut asked: Vec<(&str, &str)> =
        find("service").map(|service| ("service", service)).into_iter().collect();
    let scope = wanted(find("scope"), scope);
    asked.push(("scope", scope.as_str()));
    let request = match &credential {
        // An identity token is shown as OAuth 2 has it, in a body that no log of requests holds.
        Some(Credential { user, secret }) if user.is_empty() => {
            asked.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "edge"),
                ("refresh_token", secret.as_str()),
            ]);
            let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(asked).finish();
            let kind = "application/x-www-form-urlencoded";
            client.http(upstream).post(url.clone()).header(header::CONTENT_TYPE, kind).body(body)
        }
        shown => {
            url.query_pairs_mut().extend_pairs(asked);
            let request = client.http(upstream).get(url.clone());
            match shown {
                Some(credential) => request.header(header::AUTHORIZATION, in_the_clear(credential)),
                None => request,
            }
        }
    };
    let response = request.send().await.map_err(|e| unreachable(&e, &url))?;
    let response = checked(response, &clean(&url))?;
    let bytes = super::fetch::take(response, LARGEST, &clean(&url)).await?;
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|_| Error::Unreachable { url: clean(&url), why: "its answer holds no token".into() })?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    // The specification's default is a minute; some seconds less, so that it does not end on the way.
    let lives = answer.expires_in.unwrap_or(60).clamp(10, 3600) - 5;
    Ok(Token { value: format!("Bearer {token}"), until: Instant::now() + Duration::from_secs(lives) })
}

/// The scope to ask for: the challenge's, since the registry knows what it calls a repository, with what is to be
/// done there beside what it asked for. A token for HEAD alone would take the place of one that may push.
fn wanted(challenge: Option<&str>, ours: &str) -> String {
    let Some(challenge) = challenge else { return ours.to_owned() };
    let parts = (challenge.rsplit_once(':'), ours.rsplit_once(':'));
    let (Some((repository, theirs)), Some((_, ours))) = parts else { return challenge.to_owned() };
    if !repository.starts_with("repository:") || challenge.contains(' ') {
        return challenge.to_owned();
    }
    let mut actions: Vec<&str> = theirs.split(',').collect();
    for action in ours.split(',').filter(|action| !theirs.split(',').any(|known| known == *action)) {
        actions.push(action);
    }
    format!("{repository}:{}", actions.join(","))
}

/// `key="value"` pairs parted by commas, commas within quotes being part of the value.
fn parse(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        pairs.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        rest = after.trim_start_matches([',', ' ']);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_challenge() {
        let text = r#"realm="https://a.example/token",service=registry, scope="repository:a/b:pull,push""#;
        let pairs = parse(text);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("realm", "https://a.example/token"),
            ("service", "registry"),
            ("scope", "repository:a/b:pull,push"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_token_is_asked_for_all_that_is_to_be_done() {
        for (challenge, ours, expected) in [
            (None, "repository:a/b:pull", "repository:a/b:pull"),
            (Some("repository:a/b:pull"), "repository:a/b:pull,push", "repository:a/b:pull,push"),
            (Some("repository:a/b:push,pull"), "repository:a/b:pull,push", "repository:a/b:push,pull"),
            (Some("repository:hub/a/b:pull"), "repository:a/b:pull,push", "repository:hub/a/b:pull,push"),
            (Some("repository:h:5000/b:pull"), "repository:b:pull", "repository:h:5000/b:pull"),
            (Some("registry:catalog:*"), "repository:a/b:pull", "registry:catalog:*"),
            (
                Some("repository:a:pull repository:b:pull"),
                "repository:a:pull,push",
                "repository:a:pull repository:b:pull",
            ),
            (Some("read"), "", "read"),
        ] {
            assert_eq!(wanted(challenge, ours), expected, "{challenge:?}");
        }
    }
}
