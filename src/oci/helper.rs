//! Programs that keep credentials, `docker-credential-<name>`, asked as docker asks them.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Credential;

/// How long a program may think.
const PATIENCE: Duration = Duration::from_secs(20);
/// The name that docker keeps Docker Hub's credential under.
const HUB: &str = "https://index.docker.io/v1/";

/// How long an answer is good: ECR's passwords live for hours, Google's for one.
const KEPT: Duration = Duration::from_secs(300);
/// How long a program that gave nothing is not asked again.
const NOTHING_KEPT: Duration = Duration::from_secs(60);
/// What programs say, on standard output, where they have nothing for a host.
const NONE: &str = "credentials not found";

/// What programs said, by their name and the host.
#[derive(Default)]
pub(super) struct Helpers(Mutex<HashMap<(String, String), Said>>);

struct Said {
    credential: Option<Credential>,
    at: Instant,
}

impl Said {
    fn holds(&self) -> bool {
        self.at.elapsed() < if self.credential.is_some() { KEPT } else { NOTHING_KEPT }
    }
}

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
        let key = (program.to_owned(), host.to_owned());
        if let Some(said) = self.said().get(&key).filter(|said| said.holds()) {
            return said.credential.clone();
        }
        let asked = tokio::time::timeout(PATIENCE, run(program, host)).await;
        let credential = match asked.unwrap_or_else(|_| Err("it does not answer".into())) {
            Ok(credential) => credential.filter(|credential| !credential.secret.is_empty()),
            Err(why) => {
                tracing::warn!(program, host, why, "the credential helper gave nothing");
                None
            }
        };
        self.said().insert(key, Said { credential: credential.clone(), at: Instant::now() });
        credential
    }

    /// What was said before this moment was refused: it is asked for anew.
    pub(super) fn forget(&self, program: &str, host: &str, before: Instant) {
        self.said().retain(|(known, of), said| known != program || of != host || said.at >= before);
    }

    fn said(&self) -> MutexGuard<'_, HashMap<(String, String), Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(program: &str, host: &str) -> Result<Option<Credential>, String> {
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
    if !output.status.success() && String::from_utf8_lossy(&output.stdout).starts_with(NONE) {
        return Ok(None);
    }
    if !output.status.success() {
        return Err(format!("it ended with {}", output.status));
    }
    // The parser's own words may quote the secret.
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| "its answer cannot be read".to_owned())?;
    let user = if answer.username == "<token>" { String::new() } else { answer.username };
    Ok(Some(Credential { user, secret: answer.secret }))
}
