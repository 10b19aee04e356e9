//! What `edge bundle` did, in words.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::output;

pub(super) fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or(0)
}

/// A text, as a part of a line: it is whoever made the bundle's.
pub(super) fn text<'a>(of: &'a Value, key: &str) -> Cow<'a, str> {
    output::visible(of[key].as_str().unwrap_or_default())
}

pub(super) fn title(of: &Value) -> String {
    format!("{}-{}", text(of, "stream"), number(of, "seq"))
}

fn remarks(of: &Value, key: &str) -> Vec<String> {
    of[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Some(output::visible(v.as_str()?).into_owned()))
        .collect()
}

pub(super) fn imported(done: &Value) -> String {
    let mut out = match done["generation"].as_u64() {
        Some(generation) => format!(
            "{} is in force as generation {generation}: {} refs; {} blobs came, {}\n",
            title(done),
            number(done, "refs"),
            number(done, "blobs"),
            output::size(number(done, "bytes")),
        ),
        // What was not imported has a remark that says why.
        None => format!("{}: ", title(done)),
    };
    for remark in remarks(done, "remarks") {
        let _ = writeln!(out, "{remark}");
    }
    if done["staged"].is_string() {
        let reboot = if done["reboot"] == true { "; the machine starts anew" } else { "" };
        let _ = writeln!(out, "{}{reboot}", text(done, "staged"));
    }
    if done["receipt"].is_string() {
        let _ = writeln!(out, "receipt: {}", text(done, "receipt"));
    }
    out
}

pub(super) fn history(done: &Value) -> String {
    let entries = || done.as_array().into_iter().flatten();
    let with_system = entries().any(|entry| entry["system"].is_string());
    let header = ["STREAM", "GENERATION", "SEQ", "CREATED", "BLOBS", "SIZE", "SYSTEM", "IN FORCE", "NOTES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for entry in entries() {
        rows.push(vec![
            text(entry, "stream").into(),
            number(entry, "generation").to_string(),
            number(entry, "seq").to_string(),
            text(entry, "created").into(),
            number(entry, "blobs").to_string(),
            output::size(number(entry, "bytes")),
            text(entry, "system").into(),
            if entry["current"] == true { "yes" } else { "" }.into(),
            text(entry, "notes").into(),
        ]);
    }
    if !with_system {
        rows.iter_mut().for_each(|row| drop(row.remove(6)));
    }
    output::columns(&rows)
}

pub(super) fn inspected(done: &Value) -> String {
    let manifest = &done["manifest"];
    let totals = &manifest["totals"];
    let refused = done["refused"].is_string().then(|| text(done, "refused"));
    let verified = refused.is_none() || done["verified"] == true;
    let mut out = String::new();
    let mut put = |name: &str, what: &str, claimed: &str| {
        if !what.is_empty() {
            let _ = writeln!(out, "{name:<12}{what}{claimed}");
        }
    };
    // Anybody can have written what no signature holds for.
    let claimed = if verified { "" } else { " (claimed)" };
    put("Bundle", &title(manifest), claimed);
    let signatures = match &refused {
        Some(why) if !verified => format!("NOT VERIFIED: {why}"),
        _ => format!("hold, by root version {}", number(manifest, "root")),
    };
    put("Signatures", &signatures, "");
    put("Warning", &text(done, "warning"), "");
    let mut line = |name: &str, what: String| put(name, &what, claimed);
    line("Created", text(manifest, "created").into());
    line("Not after", text(manifest, "not-after").into());
    let audience = &manifest["audience"];
    let named = ["gateways", "fleets", "platforms"].map(|key| remarks(audience, key)).concat().join(", ");
    line("For", if named.is_empty() { "everybody".into() } else { named });
    line("Notes", text(manifest, "notes").into());
    let (carried, blobs) = (number(totals, "carried"), number(totals, "blobs"));
    let sizes = (output::size(number(totals, "carried-bytes")), output::size(number(totals, "bytes")));
    line("Carries", format!("{carried} of {blobs} blobs, {} of {}", sizes.0, sizes.1));
    line("System", system(&manifest["system"]));
    if let Some(why) = refused.as_ref().filter(|_| verified) {
        line("Import", format!("refused: {why}"));
    }
    if refused.is_none() && done["forHere"] == true {
        let (missing, bytes) = (number(done, "missing"), output::size(number(done, "missingBytes")));
        let here = match (done["inForce"] == true, missing) {
            (true, 0) => "is in force already".into(),
            (true, _) => format!("is in force already, and would repair {missing} damaged blobs, {bytes}"),
            (false, _) => format!("would bring {missing} blobs, {bytes}"),
        };
        line("Import", here);
    }
    let of = |key: &str| done[key].as_array().into_iter().flatten();
    let [added, changed] =
        ["added", "changed"].map(|key| of(key).filter_map(Value::as_str).collect::<BTreeSet<_>>());
    for (at, name) in of("refs").filter_map(Value::as_str).enumerate() {
        let sign = match (added.contains(name), changed.contains(name)) {
            (true, _) => '+',
            (_, true) => '~',
            _ => ' ',
        };
        let size = done["sizes"][at].as_u64().map_or_else(|| "?".into(), output::size);
        let _ = writeln!(out, "  {sign} {size:>9}  {}", output::visible(name));
    }
    for name in of("removed").filter_map(Value::as_str) {
        let _ = writeln!(out, "  - {:>9}  {}", "", output::visible(name));
    }
    out
}

/// The system in a bundle, or nothing.
fn system(part: &Value) -> String {
    let sizes = ["root", "verity", "kernel"].map(|name| number(&part["files"][name], "size"));
    match part.is_null() {
        true => String::new(),
        false => format!(
            "{} for {} on {}, {}",
            text(part, "version"),
            text(part, "arch"),
            text(part, "board"),
            output::size(sizes.iter().sum())
        ),
    }
}

pub(super) fn made(done: &Value) -> String {
    let delta = done["bases"].as_array().is_some_and(|bases| !bases.is_empty());
    format!(
        "{}: {}, {} refs, {} blobs of {} carried, {} of {}\nread back; safe to remove",
        text(done, "folder"),
        if delta { "delta" } else { "full" },
        number(done, "refs"),
        number(done, "carried"),
        number(done, "blobs"),
        output::size(number(done, "carriedBytes")),
        output::size(number(done, "bytes")),
    )
}

pub(super) fn verified(done: &Value) -> String {
    let blobs = number(&done["totals"], "carried");
    let system = system(&done["system"]);
    let system = if system.is_empty() { system } else { format!("\nSystem      {system}") };
    format!("{} is good: signatures hold, and all {blobs} blobs are what was signed{system}", title(done))
}

pub(super) fn extracted(done: &Value) -> String {
    format!(
        "{}: {} of {}, as it was signed",
        text(done, "path"),
        text(done, "digest"),
        output::size(number(done, "size"))
    )
}

pub(super) fn rolled_back(done: &Value) -> String {
    let (generation, name) = (number(done, "generation"), title(done));
    format!("generation {generation} of stream `{}` is in force again: {name}", text(done, "stream"))
}
