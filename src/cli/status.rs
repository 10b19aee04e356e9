//! `edge status`: what the daemon says of itself.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;

use super::Global;
use super::output::{self, Format, size};
use crate::daemon::{
    ChangeReport, ClientReport, MirrorReport, Report, ResourceReport, RiskReport, ask_status,
};
use crate::health::{Health, State};
use crate::sys::service::Service;

/// `edge status`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge status
  edge status -o json | jq .link.state

The state of the link is online, offline, replaying, starting or none.")]
pub struct Status {
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Status {
    pub fn run(&self, global: &Global) -> Result<()> {
        let socket = global.overrides()?.control_socket();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let report = runtime.block_on(ask_status(&socket))?;
        match self.output {
            Format::Json => output::json(&report),
            Format::Text => output::result(&text(&report, crate::sys::clock::now())),
        }
    }
}

fn text(report: &Report, now: jiff::Timestamp) -> String {
    let mut out = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(out, "{name:<14}{}", output::visible(what));
    };
    let ago = |time: &str| age(time, now);
    let link = &report.link;
    let since = if link.state == "none" { String::new() } else { format!(" for {}", ago(&link.since)) };
    line("Link", &format!("{}{since}", link.state));
    if !link.reason.is_empty() {
        line("", &link.reason);
    }
    if let Some(cloud) = &report.cloud {
        let expires = cloud.certificate_expires.as_deref().unwrap_or("unknown");
        let server = if cloud.server.is_empty() { "unknown" } else { &cloud.server };
        line("Cloud", &format!("{server} as {}, certificate until {expires}", cloud.node));
    }
    line(
        "Offline mode",
        match (&report.cloud, report.offline_mode) {
            (None, _) => "- (no cloud)",
            (Some(_), true) => "on",
            (Some(_), false) => "off",
        },
    );
    if !report.waits_for_start.is_empty() {
        let keys = report.waits_for_start.join("`, `");
        line("Waits", &format!("`{keys}`: from the next start, `{}`", Service::Edge.restart()));
    }
    let (path, bytes) = (&report.cache.path, size(report.cache.bytes));
    line("Cache", &format!("{path}, {bytes}"));
    resources(&mut out, &report.cache.resources, now);
    clients(&mut out, &report.clients, now);
    changes(&mut out, "Waits to be told to the cloud", &report.changes, now);
    changes(&mut out, "Refused by the cloud", &report.refused, now);
    at_risk(&mut out, &report.at_risk);
    parts(&mut out, &report.parts, now);
    if let Some(told) = &report.mirror {
        mirror(&mut out, told, now);
    }
    for bundle in &report.bundles {
        if let Some(warning) = bundle.warning() {
            let _ = writeln!(out, "\nBundle        {}-{}: {warning}", bundle.stream, bundle.seq);
        }
    }
    for error in &report.errors {
        let _ = writeln!(out, "\nerror: {}", output::visible(error));
    }
    out
}

fn resources(out: &mut String, resources: &[ResourceReport], now: jiff::Timestamp) {
    if resources.is_empty() {
        return;
    }
    let mut rows = vec![["RESOURCE", "OBJECTS", "SIZE", "SYNCED"].map(str::to_owned).to_vec()];
    rows.extend(resources.iter().map(|kept| {
        let synced = match (&kept.synced, kept.current) {
            (Some(_), true) => "current".to_owned(),
            (Some(time), false) => format!("{} ago", age(time, now)),
            (None, _) => "never".to_owned(),
        };
        let bytes = u64::try_from(kept.bytes).unwrap_or(0);
        vec![kept.resource.clone(), kept.objects.to_string(), size(bytes), synced]
    }));
    let _ = write!(out, "\n{}", output::columns(&rows));
}

fn clients(out: &mut String, clients: &[ClientReport], now: jiff::Timestamp) {
    if clients.is_empty() {
        return;
    }
    let mut rows = vec![["CLIENT", "POD", "SEEN", "CACHED", "OLDEST", "REFUSED"].map(str::to_owned).to_vec()];
    rows.extend(clients.iter().map(|client| {
        let ago = |time: &str| format!("{} ago", age(time, now));
        let objects: i64 = client.resources.iter().map(|kept| kept.objects).sum();
        let cached = match client.resources.len() {
            0 => "nothing".to_owned(),
            resources => format!("{objects} objects of {resources} resources"),
        };
        let old = client.resources.iter().filter(|kept| !kept.current);
        let oldest = match old.filter_map(|kept| kept.synced.as_deref()).min() {
            Some(oldest) => ago(oldest),
            None if client.resources.iter().any(|kept| kept.current) => "current".to_owned(),
            None => "-".to_owned(),
        };
        let refused = match &client.last_refused {
            None => "-".to_owned(),
            Some(last) => format!("{} times, last {} ({})", client.refused, last.request, last.code),
        };
        let seen = client.seen.as_deref().map_or("-".to_owned(), ago);
        let pod = client.pod.clone().unwrap_or_else(|| "-".to_owned());
        vec![client.client.clone(), pod, seen, cached, oldest, refused]
    }));
    let _ = write!(out, "\n{}", output::columns(&rows));
}

fn changes(out: &mut String, title: &str, changes: &[ChangeReport], now: jiff::Timestamp) {
    if changes.is_empty() {
        return;
    }
    let mut rows = vec![["CHANGE", "OBJECT", "AGE", "LAST ANSWER"].map(str::to_owned).to_vec()];
    rows.extend(changes.iter().map(|change| {
        vec![change.change.clone(), change.object.clone(), age(&change.at, now), change.error.clone()]
    }));
    let _ = write!(out, "\n{title}\n{}", output::columns(&rows));
}

fn parts(out: &mut String, parts: &[Health], now: jiff::Timestamp) {
    if parts.is_empty() {
        return;
    }
    let mut rows = vec![["PART", "STATE", "SINCE", "MESSAGE"].map(str::to_owned).to_vec()];
    rows.extend(parts.iter().map(|part| {
        let state = match part.state {
            State::Off => "off",
            State::Starting => "starting",
            State::Good => "good",
            State::Trouble => "trouble",
        };
        let since = age(&part.since.to_string(), now);
        vec![part.part.clone(), state.into(), since, part.message.clone()]
    }));
    let _ = write!(out, "\n{}", output::columns(&rows));
}

fn mirror(out: &mut String, report: &MirrorReport, now: jiff::Timestamp) {
    let last = match (&report.running, &report.ended) {
        (Some(since), _) => format!("running for {}", age(since, now)),
        (None, Some(ended)) => format!("{} ago, {}", age(ended, now), size(report.bytes)),
        (None, None) => "never".to_owned(),
    };
    let next = report.next.as_deref().map_or_else(String::new, |next| format!(", next at {next}"));
    let _ = writeln!(out, "\nMirror        {} wanted, last run {last}{next}", report.wanted);
    if !report.missing.is_empty() {
        let _ = writeln!(out, "Missing       {}", output::visible(&report.missing.join(", ")));
    }
    if !report.failed.is_empty() {
        let mut rows = vec![["MIRRORED", "FAILED"].map(str::to_owned).to_vec()];
        rows.extend(report.failed.iter().map(|trouble| vec![trouble.what.clone(), trouble.why.clone()]));
        let _ = write!(out, "{}", output::columns(&rows));
    }
}

fn at_risk(out: &mut String, risks: &[RiskReport]) {
    if risks.is_empty() {
        return;
    }
    let mut rows = vec![["POD", "WHY"].map(str::to_owned).to_vec()];
    rows.extend(risks.iter().map(|risk| vec![risk.pod.clone(), risk.reason.clone()]));
    let _ = write!(out, "\nWould not survive an outage\n{}", output::columns(&rows));
    let mut mends: Vec<String> = risks.iter().filter_map(mend).collect();
    mends.sort_unstable();
    mends.dedup();
    if !mends.is_empty() {
        let _ = write!(out, "\nMended by\n{}\n", mends.join("\n"));
    }
}

/// The command line that mends a risk, ready to be typed.
fn mend(risk: &RiskReport) -> Option<String> {
    if !risk.restart.is_empty() {
        return Some(output::visible(&format!("edge {}", risk.restart.join(" "))).into_owned());
    }
    let (patch, words) = risk.mend.split_last()?;
    Some(output::visible(&format!("kubectl {} '{patch}'", words.join(" "))).into_owned())
}

/// How long ago, in the largest unit that says something.
fn age(time: &str, now: jiff::Timestamp) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    match (now.as_second() - then.as_second()).max(0) {
        s if s < 120 => format!("{s}s"),
        s if s < 7200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}
