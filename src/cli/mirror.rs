//! `edge mirror`: fetch images and charts while connected, and say what is here and why.

use std::borrow::Cow;
use std::fmt::Write as _;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::Global;
use super::output::{self, Format, size};
use super::progress;
use crate::daemon::MirrorTask;
use crate::daemon::task::Task;

/// `edge mirror`
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Mirror {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch what the rules want and is not here
    Sync(Sync),
    /// List what is wanted, and what of it is here
    List(List),
    /// Say why an image, a chart or a repository is mirrored, or not
    Explain(Explain),
    /// Remove what no rule wants any more
    Prune(Prune),
    /// Send all that is mirrored to a registry
    Push(Push),
}

/// `edge mirror sync`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge mirror sync --dry-run     what would come, how many bytes, and from where
  edge mirror sync               fetch it; what is here already does not travel again
  edge mirror sync nginx:1.27    only this image, which some rule must want

Exit codes: 1 if something failed while the rest went on, 3 if a signature was missing")]
struct Sync {
    /// Images, charts or git repositories; all without
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only say what would come
    #[arg(long)]
    dry_run: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge mirror list`
#[derive(Debug, Args)]
struct List {
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge mirror explain`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge mirror explain nginx:1.27
  edge mirror explain ingress-nginx-4.11.0")]
struct Explain {
    /// An image such as nginx:1.27, a chart such as app-1.0.0, or a git repository
    #[arg(value_name = "IMAGE|CHART|REPOSITORY")]
    name: String,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge mirror prune`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge mirror prune --dry-run
  edge mirror prune --yes")]
struct Prune {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge mirror push`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge mirror push harbor.example.com/edge

nginx:1.27 becomes harbor.example.com/edge/docker.io/library/nginx:1.27,
and the chart app-1.0.0 of a web server harbor.example.com/edge/charts/app:1.0.0")]
struct Push {
    /// A registry, and a path in it
    #[arg(value_name = "REGISTRY")]
    registry: String,
    /// Speak plain HTTP to it
    #[arg(long)]
    insecure: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Mirror {
    pub fn run(&self, global: &Global) -> Result<()> {
        match &self.command {
            Command::Sync(command) => command.run(global),
            Command::List(command) => command.run(global),
            Command::Explain(command) => command.run(global),
            Command::Prune(command) => command.run(global),
            Command::Push(command) => command.run(global),
        }
    }
}

impl Sync {
    fn run(&self, global: &Global) -> Result<()> {
        let task = Task::Mirror(MirrorTask::Sync {
            names: self.names.clone(),
            dry_run: self.dry_run,
            scheduled: false,
        });
        let done = progress::perform(&global.load()?, task)?;
        match self.output {
            Format::Json => output::json(&done)?,
            Format::Text => output::result(&summary(&done))?,
        }
        match (number(&done["failed"]), number(&done["refused"])) {
            (0, 0) => Ok(()),
            (0, _) => Err(output::Exit(3).into()),
            _ => Err(output::Exit(1).into()),
        }
    }
}

impl List {
    fn run(&self, global: &Global) -> Result<()> {
        let listed = progress::perform(&global.load()?, Task::Mirror(MirrorTask::List))?;
        if self.output == Format::Json {
            return output::json(&listed);
        }
        if each(&listed).next().is_none() {
            output::note("no images, charts or repositories: `edge mirror sync` fetches what the rules want");
            return Ok(());
        }
        let mut rows = vec![["NAME", "HERE", "SIZE", "WHY"].map(str::to_owned).to_vec()];
        rows.extend(each(&listed).map(|one| {
            let here = match (one["here"] == true, one["error"].is_string()) {
                (false, _) => "missing",
                (true, true) => "old",
                (true, false) => "yes",
            };
            let why = match each(&one["reasons"]).next() {
                Some(reason) => format!("{}: {}", text(&reason["rule"]), text(&reason["by"])),
                None => "no rule wants it".into(),
            };
            vec![text(&one["name"]).into_owned(), here.into(), size(number(&one["size"])), why]
        }));
        output::result(&output::columns(&rows))
    }
}

impl Explain {
    fn run(&self, global: &Global) -> Result<()> {
        let told = progress::perform(
            &global.load()?,
            Task::Mirror(MirrorTask::Explain { name: self.name.clone() }),
        )?;
        if self.output == Format::Json {
            return output::json(&told);
        }
        let mut out = String::new();
        let _ = writeln!(out, "{}", text(&told["name"]));
        for one in each(&told["here"]) {
            let state = if one["here"] == true { "here" } else { "not here" };
            let told = format!("  {state}: {} {}", text(&one["name"]), text(&one["digest"]));
            let _ = writeln!(out, "{}", told.trim_end());
            for (name, id) in one["refs"].as_object().into_iter().flatten() {
                let _ = writeln!(out, "  {} {}", text(id), output::visible(name));
            }
            if one["error"].is_string() {
                let _ = writeln!(out, "  last time: {}", text(&one["error"]));
            }
            for attached in each(&one["attached"]) {
                let _ = writeln!(out, "  with {}", text(attached));
            }
        }
        if each(&told["here"]).next().is_none() {
            let _ = writeln!(out, "  not here");
        }
        for rule in each(&told["rules"]) {
            let word = if rule["wants"] == true { "in " } else { "out" };
            let _ = writeln!(out, "  {word}  {}: {}", text(&rule["rule"]), text(&rule["why"]));
        }
        if each(&told["rules"]).next().is_none() {
            let _ = writeln!(out, "  out  no rule is about it");
        }
        output::result(&out)
    }
}

impl Prune {
    fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        let plan = progress::perform(&config, Task::Mirror(MirrorTask::Prune { dry_run: true }))?;
        let nothing = each(&plan["remove"]).next().is_none();
        let mut done = plan;
        if !self.dry_run && !nothing {
            if !self.yes && !confirmed(&removals(&done))? {
                return Ok(());
            }
            done = progress::perform(&config, Task::Mirror(MirrorTask::Prune { dry_run: false }))?;
        }
        match self.output {
            Format::Json => output::json(&done)?,
            Format::Text => output::result(&removals(&done))?,
        }
        if each(&done["failed"]).next().is_some() { Err(output::Exit(1).into()) } else { Ok(()) }
    }
}

/// Asks on the terminal; without one nothing is removed that was not said yes to.
fn confirmed(plan: &str) -> Result<bool> {
    use std::io::IsTerminal as _;
    if !std::io::stdin().is_terminal() {
        return Err(
            super::failure::Usage("nobody can be asked hint: `--yes` removes without asking".into()).into()
        );
    }
    output::note(plan.trim_end());
    output::note("Remove them? [y/N]");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl Push {
    fn run(&self, global: &Global) -> Result<()> {
        let task =
            Task::Mirror(MirrorTask::Push { registry: self.registry.clone(), insecure: self.insecure });
        let done = progress::perform(&global.load()?, task)?;
        match self.output {
            Format::Json => output::json(&done)?,
            Format::Text => {
                let mut out = String::new();
                let each = || each(&done["images"]).chain(each(&done["charts"]));
                for one in each().filter(|one| one["note"].is_string()) {
                    let _ = writeln!(out, "sent in part: {}: {}", text(&one["name"]), text(&one["note"]));
                }
                for one in each().filter(|one| one["error"].is_string()) {
                    let _ = writeln!(out, "failed: {}: {}", text(&one["name"]), text(&one["error"]));
                }
                let all = each().count() as u64;
                let sent = all - number(&done["failed"]).min(all);
                let _ = writeln!(
                    out,
                    "{sent} of {all} names at {}, {} sent",
                    self.registry,
                    size(number(&done["bytes"]))
                );
                output::result(&out)?;
            }
        }
        if number(&done["failed"]) > 0 { Err(output::Exit(1).into()) } else { Ok(()) }
    }
}

fn removals(done: &Value) -> String {
    let mut out = String::new();
    let mut rows = vec![["NAME", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(
        each(&done["remove"]).map(|one| vec![text(&one["name"]).into_owned(), size(number(&one["size"]))]),
    );
    if rows.len() > 1 {
        out.push_str(&output::columns(&rows));
    }
    for one in each(&done["failed"]) {
        let _ = writeln!(out, "failed: {}: {}", text(&one["name"]), text(&one["why"]));
    }
    let verb = if done["dryRun"] == true { "would go" } else { "removed" };
    let _ = writeln!(out, "{} {verb}, {} stay", rows.len() - 1, number(&done["kept"]));
    out
}

fn summary(done: &Value) -> String {
    let mut out = String::new();
    let dry = done["dryRun"] == true;
    let entries: Vec<&Value> =
        each(&done["images"]).chain(each(&done["charts"])).chain(each(&done["git"])).collect();
    if dry {
        let mut rows = vec![["NAME", "STATE", "BYTES", "FROM"].map(str::to_owned).to_vec()];
        let news = entries.iter().filter(|one| matches!(&*text(&one["state"]), "new" | "updated"));
        rows.extend(news.map(|one| {
            // Only a pack that was made says how large it is.
            let known = one["changes"].is_null();
            let bytes = if known { size(number(&one["bytes"])) } else { "unknown".to_owned() };
            [text(&one["name"]), text(&one["state"]), bytes.into(), text(&one["from"])]
                .map(Cow::into_owned)
                .to_vec()
        }));
        if rows.len() > 1 {
            out.push_str(&output::columns(&rows));
        }
    }
    for one in entries.iter().filter(|one| one["error"].is_string()) {
        let _ = writeln!(out, "{}: {}: {}", text(&one["state"]), text(&one["name"]), text(&one["error"]));
    }
    for one in &entries {
        for warning in each(&one["warnings"]) {
            let _ = writeln!(out, "left out: {}: {}", text(&one["name"]), text(warning));
        }
    }
    for repository in each(&done["git"]) {
        for change in each(&repository["changes"]) {
            if let Some(told) = kept(change) {
                let _ = writeln!(out, "kept: {} {}: {told}", text(&repository["name"]), text(&change["ref"]));
            }
        }
    }
    for failure in each(&done["failures"]) {
        let _ = writeln!(out, "failed: {}: {}", text(&failure["rule"]), text(&failure["why"]));
    }
    let with = |state: &str| entries.iter().filter(|one| text(&one["state"]) == state).count();
    let (new, updated, unchanged) = (with("new"), with("updated"), with("unchanged"));
    let (failed, refused) = (number(&done["failed"]), number(&done["refused"]));
    let verb = if dry { "would come" } else { "came" };
    let _ = writeln!(
        out,
        "{new} new, {updated} updated, {unchanged} unchanged, {failed} failed, {refused} refused; {} {verb}",
        size(number(&done["bytes"]))
    );
    out
}

/// What is told of a ref that upstream has dropped or replaced.
fn kept(change: &Value) -> Option<String> {
    let of = |key: &str| text(&change[key]);
    match (&*of("turn"), &*of("kept")) {
        ("gone", "") => Some("upstream has it no more".into()),
        ("gone", kept) => Some(format!("upstream has it no more, and another in its way; it is {kept} now")),
        ("replaced", kept) => Some(format!("upstream has replaced it; what it was is {kept}")),
        _ => None,
    }
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text, as a part of a line: much of it is an upstream's.
fn text(value: &Value) -> Cow<'_, str> {
    output::visible(value.as_str().unwrap_or_default())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
