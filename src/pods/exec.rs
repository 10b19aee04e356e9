//! `edge pod exec`: a command in a running container, through the runtime alone.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::view::{Live, container_name};
use crate::cri::{self, Runtime, Streams, run_command, v1};
use crate::kube::meta;

/// The runtime's streaming server is on this machine: it answers at once or hangs.
const DIAL: Duration = Duration::from_secs(5);

/// The annotation that names the container a pod means when none is given.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Why no command is run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in the spec.
    #[error("container {name} is not valid for pod {pod}")]
    NoSuchContainer {
        /// As given.
        name: String,
        /// The pod's name.
        pod: String,
    },
    /// Not running.
    #[error("container `{name}` does not run hint: `edge pod describe` tells why")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// The runtime's.
    #[error(transparent)]
    Runtime(#[from] cri::Error),
}

/// Which container a command about a pod means: the one named, the one that the pod's annotation names, or the first.
///
/// # Errors
/// [`Error::NoSuchContainer`].
pub fn choose_container<'p>(pod: &'p Value, asked: Option<&str>) -> Result<&'p str, Error> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let all = || lists.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    let named = |name: &str| all().filter_map(|c| c["name"].as_str()).find(|n| *n == name);
    let fail = |name: &str| {
        let pod = meta::name(pod).unwrap_or_default().to_owned();
        Error::NoSuchContainer { name: name.to_owned(), pod }
    };
    if let Some(asked) = asked {
        return named(asked).ok_or_else(|| fail(asked));
    }
    let default = meta::annotation(pod, DEFAULT_CONTAINER).and_then(named);
    default.or_else(|| all().find_map(|c| c["name"].as_str())).ok_or_else(|| fail(""))
}

/// A command, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The runtime's id of the container.
    pub container: String,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// With a terminal.
    pub tty: bool,
}

/// The running container `name` of a pod.
///
/// # Errors
/// [`Error::NotRunning`].
pub fn running<'a>(live: Option<&Live<'a>>, name: &str) -> Result<&'a v1::Container, Error> {
    let mut running = live.into_iter().flat_map(Live::running);
    running.find(|c| container_name(c) == name).ok_or_else(|| Error::NotRunning { name: name.to_owned() })
}

/// Runs the command; its exit code.
///
/// # Errors
/// The runtime's.
pub async fn exec<I, O, E>(
    runtime: &Runtime,
    command: &Command,
    streams: Streams<I, O, E>,
) -> Result<i32, Error>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let asked = (command.container.as_str(), command.arguments.as_slice());
    Ok(run_command(runtime, asked, command.tty, DIAL, streams).await?)
}
