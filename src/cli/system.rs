//! `edge system`: the appliance's two systems and its data. Four more of its commands are for the appliance's own
//! units.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Usage;
use super::output::{self, Format};
use super::{Global, progress};
use crate::config::{Overrides, quantity};
use crate::daemon::{self, Loaded, PerformError};
use crate::system::{self, Fallback, Loader, Opened, Places, SlotReport, State, Status};

/// How long all parts of a system that is on trial must have been up at a stretch: longer than one that ends over and over
/// lives, and than systemd waits before it starts it again.
const STEADY: Duration = Duration::from_secs(20);

/// `edge system`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge system status      which system runs, which one is started next, and how both are
  edge system rollback    the next boot goes to the other one, if it was good
  edge system reset       the next boot makes the data anew; the machine's identity stays")]
pub struct System {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell how both systems are
    Status {
        /// How to write it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Give the system that runs up, so that the next boot goes to the other one
    Rollback {
        /// How to write the result
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Give all data up at the next boot: images, what is cached, the configuration that was changed since
    Reset {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Open the data partition, made at a first boot and after a reset (edge-data.service)
    #[command(hide = true)]
    OpenData,
    /// Take a first boot's configuration, and what identity kept (edge-provision.service)
    #[command(hide = true)]
    Provision,
    /// Have the restart that is under way try what is staged, where the boot loader must be asked to (edge-trial.service)
    #[command(hide = true)]
    BeginTrial,
    /// Wait until all parts are up, and note it; else fall back (edge-healthy.service)
    #[command(hide = true)]
    Healthy {
        /// How long it may take
        #[arg(long, value_name = "DURATION", default_value = "240s", value_parser = span)]
        timeout: Duration,
    },
}

fn span(text: &str) -> Result<Duration, String> {
    quantity::span(text).ok_or_else(|| "expected a duration such as `240s`".into())
}

impl System {
    pub fn run(&self, global: &Global) -> Result<()> {
        let overrides = global.overrides()?;
        let places = Places::below(overrides.system_root.as_deref().unwrap_or(Path::new("/")));
        match &self.command {
            Command::Status { output } => {
                let status = system::status(&places)?;
                match output {
                    Format::Json => output::json(&status),
                    Format::Text => output::result(&told(&status, Loader::of(&places)?)),
                }
            }
            Command::Rollback { output } => {
                let to = system::roll_back(&places)?;
                match output {
                    Format::Json => output::json(&json!({"next": to})),
                    Format::Text => {
                        output::result(&format!("the next boot goes to slot {to} hint: `systemctl reboot`"))
                    }
                }
            }
            Command::Reset { yes } => reset(&places, *yes),
            Command::OpenData => {
                let (opened, line) = system::open_data(&places)?;
                if let Some(line) = line {
                    output::note(&format!("edge: {line}"));
                }
                match opened {
                    Opened::Known => Ok(()),
                    Opened::Made => output::result("edge: the data partition is made"),
                    Opened::Reset => output::result("edge: factory reset: the data is gone, and made anew"),
                }
            }
            Command::Provision => {
                let work = |progress| async move {
                    let done = daemon::system::provision(&overrides, &progress).await;
                    done.map_err(|e| anyhow::Error::new(PerformError::Task(e)))
                };
                let lines = progress::run(work)?;
                output::result(&lines.iter().map(|line| format!("edge: {line}\n")).collect::<String>())
            }
            Command::BeginTrial => match system::begin_trial(&places)? {
                Some(slot) => output::result(&format!("edge: this restart tries slot {slot}, once")),
                None => Ok(()),
            },
            Command::Healthy { timeout } => healthy(&overrides, &places, *timeout),
        }
    }
}

fn reset(places: &Places, yes: bool) -> Result<()> {
    // Nobody is asked on a machine that cannot do it.
    system::status(places)?;
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Usage("a reset gives all data up hint: `--yes` does it without asking".into()).into());
        }
        output::note(
            "All images, what is cached and every setting made since the first boot go at the next boot. Type `reset`:",
        );
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != "reset" {
            return Err(Usage("nothing is reset".into()).into());
        }
    }
    system::ask_reset(places)?;
    output::result("the next boot makes the data anew hint: `systemctl reboot`")
}

fn healthy(overrides: &Overrides, places: &Places, timeout: Duration) -> Result<()> {
    let steady = if system::status(places)?.is_on_trial() { STEADY } else { Duration::ZERO };
    // A configuration that this system refuses, and never took one before, keeps its daemon down, and the other system may
    // take it.
    let waited = match daemon::load(overrides) {
        Ok(Loaded { config, .. }) => progress::run(|_| async {
            let waited = daemon::system::healthy(&config, timeout, steady).await;
            Ok::<_, anyhow::Error>(waited.unwrap_or_else(|e| Err(e.to_string())))
        })?,
        Err(error) => Err(error.to_string()),
    };
    let waited = waited.and_then(|()| match system::check_root(places) {
        Ok(0) => Ok(()),
        Ok(read) => {
            output::note(&format!(
                "edge: boots of this system were cut short: {read} bytes of it were read, and are good"
            ));
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    });
    let Err(why) = waited else {
        return output::result(&match system::arm(places)? {
            Some(done) => format!("edge: slot {} is good ({})", done.slot, done.entry),
            None => "edge: all parts are up; this system was rolled back by hand, and stays given up".into(),
        });
    };
    let turned = system::unhealthy(places, &why)?;
    system::judged(places)?;
    match turned {
        Fallback::Nowhere(other) => {
            anyhow::bail!("this system is not healthy, and there is none to fall back to ({other}): {why}")
        }
        Fallback::Reboot { left, other } => {
            let next = if left == 0 {
                format!("slot {other}")
            } else {
                format!("this one again, {left} tries left")
            };
            output::note(&format!("edge: this system is not healthy: {why}; the next boot is {next}"));
            system::reboot()?;
            Err(output::Exit(1).into())
        }
    }
}

fn told(status: &Status, loader: Loader) -> String {
    let staged = status.next.is_some_and(|slot| status.of(slot).state == State::Staged);
    let [next_word, not_next] = loader.next_words(staged);
    let header = ["SLOT", "STATE", "VERSION", "BUNDLE", "ENTRY", ""];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut reasons = String::new();
    for report in &status.slots {
        let next = status.next == Some(report.slot);
        let word = match (report.booted, next) {
            (true, true) => "running",
            (true, false) => not_next,
            (false, true) => next_word,
            (false, false) => "",
        };
        rows.push(row(report, word));
        if let Some(reason) = &report.reason {
            let _ = writeln!(reasons, "slot {}: {}", report.slot, output::visible(reason));
        }
    }
    let is_told = |what: &String| status.slots.iter().any(|report| report.reason.as_ref() == Some(what));
    for damage in status.damage.iter().filter(|damage| !is_told(&damage.what)) {
        let _ = writeln!(reasons, "{}", output::visible(&damage.what));
    }
    output::columns(&rows) + &reasons
}

fn row(report: &SlotReport, word: &str) -> Vec<String> {
    let bundle = match (&report.stream, report.seq) {
        (Some(stream), Some(seq)) => format!("{stream}-{seq}"),
        _ => String::new(),
    };
    vec![
        report.slot.to_string(),
        report.state.word().into(),
        report.version.clone().unwrap_or_default(),
        bundle,
        report.entry.clone().unwrap_or_default(),
        word.into(),
    ]
}
