//! `edge pod exec`, and the terminal that it lends to the command.

use std::io::{ErrorKind, IsTerminal as _};

use anyhow::Result;
use clap::Args;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Seen;
use crate::cli::{failure, output};
use crate::config::Config;
use crate::cri::{self, Size, Streams};
use crate::pods;
use crate::pods::exec::{Command, choose_container, exec, running};
use crate::pods::view::{live, runtime_uid};

/// `edge pod exec`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge pod exec web -- ls /data
  edge pod exec web -it -- sh
  tar c files | edge pod exec web -i -- tar x -C /data

The exit code is the command's. The end of standard input reaches the command.")]
pub struct Exec {
    /// The pod
    #[arg(value_parser = super::pod_name)]
    name: String,
    #[command(flatten)]
    namespace: super::Namespace,
    /// The container, if not the first
    #[arg(short, long)]
    container: Option<String>,
    /// With standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// With a terminal, if standard input is one and given (`-it`)
    #[arg(short, long)]
    tty: bool,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub async fn run(&self, config: &Config) -> Result<()> {
        let seen = Seen::now(config).await?;
        if let Err(error) = seen.observed.runtime {
            return Err(error.into());
        }
        let pod = seen.pod(&self.namespace.namespace, &self.name)?;
        let name = choose_container(pod, self.container.as_deref())?;
        let live = live(&seen.observed.state);
        let container = running(runtime_uid(pod).and_then(|uid| live.get(uid)), name)?;
        // As kubectl does: without the keys that go with it a terminal would only be in the way.
        let tty = self.tty && self.stdin && std::io::stdin().is_terminal();
        if self.tty && !self.stdin {
            output::note("edge: a terminal needs standard input too (`-it`), so the command gets none");
        } else if self.tty && !tty {
            output::note("edge: standard input is no terminal, so the command gets none");
        }
        let command = Command { container: container.id.clone(), arguments: self.command.clone(), tty };
        let (sender, sizes) = mpsc::channel(4);
        let _raw = if tty { Some(Raw::enter()?) } else { None };
        if tty {
            tokio::spawn(watch_size(sender));
        }
        let streams = Streams {
            stdin: self.stdin.then(tokio::io::stdin),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
            sizes,
        };
        let code = tokio::select! {
            code = exec(&seen.runtime, &command, streams) => u8::try_from(heard(code)?).unwrap_or(1),
            // The terminal must be given back before the end.
            signal = ended_from_outside(), if tty => 128 + signal?,
        };
        if code == 0 { Ok(()) } else { Err(output::Exit(code).into()) }
    }
}

/// Whoever reads no further, such as `head`, has had enough.
fn heard(outcome: Result<i32, pods::exec::Error>) -> Result<i32> {
    match outcome {
        Err(pods::exec::Error::Runtime(cri::Error::Output(e))) if e.kind() == ErrorKind::BrokenPipe => {
            Err(output::Closed.into())
        }
        other => Ok(other?),
    }
}

/// The terminal passes every key on as it is, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let fail = |e| failure::Usage(format!("cannot use the terminal: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(fail)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw).map_err(fail)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0) {
            tracing::debug!(%error, "the terminal stays raw");
        }
    }
}

/// The number of the signal that is to end edge. Keys of a raw terminal make none: they are for the command.
async fn ended_from_outside() -> Result<u8> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = hangup.recv() => 1,
        _ = interrupt.recv() => 2,
        _ = quit.recv() => 3,
        _ = terminate.recv() => 15,
    })
}

/// Tells the terminal's size now and whenever it changes.
async fn watch_size(to: mpsc::Sender<Size>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((width, height)) = terminal_size::terminal_size_of(std::io::stdin()) {
            let size = Size { width: width.0, height: height.0 };
            if to.send(size).await.is_err() {
                return;
            }
        }
        changes.recv().await;
    }
}
