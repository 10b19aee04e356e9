//! Programs that keep credentials, `docker-credential-<name>`, asked as docker asks them.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Credential;

/// How long a program may think.
const PATIENCE: Duration = Duration::from_secs(20);
/// The name that docker keeps Docker Hub's credential under.
const HUB: &str = "https://index.docker.io/v1/";

/// What programs said, by host; each is asked once.
#[derive(Default)]
pub(super) struct Helpers(Mutex<HashMap<String, Option<Credential>>>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helpers {
    /// The credential that the program has for `host`; `None` where it has none or cannot be run, which is logged.
    pub(super) async fn ask(&self, program: &str, host: &str) -> Option<Credential> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        if let Some(known) = known {
            return known;
        }
        let asked = tokio::time::timeout(PATIENCE, run(program, host)).await;
        let credential = match asked.unwrap_or_else(|_| Err("it does not answer".into())) {
            Ok(credential) => Some(credential).filter(|credential| !credential.secret.is_empty()),
            Err(why) => {
                tracing::warn!(program, host, why, "the credential helper gave nothing");
                None
            }
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), credential.clone());
        credential
    }
}

async fn run(program: &str, host: &str) -> Result<Credential, String> {
    if program.contains('/') {
        return Err("its name is a path".into());
    }
    let mut child = Command::new(format!("docker-credential-{program}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let name = if host == "docker.io" { HUB } else { host };
    if let Some(mut input) = child.stdin.take() {
        input.write_all(name.as_bytes()).await.map_err(|e| e.to_string())?;
    }
    let output = child.wait_with_output().await.map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("it ended with {}", output.status));
    }
    // The parser's own words may quote the secret.
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| "its answer cannot be read".to_owned())?;
    let user = if answer.username == "<token>" { String::new() } else { answer.username };
    Ok(Credential { user, secret: answer.secret })
}
