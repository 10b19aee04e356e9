//! Long work as a person sees it: bars on a terminal, else a line for each item that ends.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::output;
use crate::config::Config;
use crate::daemon::{self, task::Task};
use crate::sys::progress::{Event, Progress, Stage, Unit};

/// Has `task` done, here or by the daemon, and shows how far it is on standard error.
pub fn perform(config: &Config, task: Task) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut shown = Shown::new();
    let done = runtime.block_on(daemon::perform(config, task, |event| shown.hear(event)));
    shown.end();
    Ok(done?)
}

/// Runs work of this process's own, and shows how far it is on standard error.
pub fn run<T, E, W>(work: impl FnOnce(Progress) -> W) -> Result<T, E>
where
    W: Future<Output = Result<T, E>>,
    E: From<std::io::Error>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut shown = Shown::new();
    let (progress, mut heard) = Progress::channel();
    let done = runtime.block_on(async {
        let work = std::pin::pin!(work(progress));
        let mut work = work;
        loop {
            tokio::select! {
                biased;
                Some(event) = heard.recv() => shown.hear(event),
                done = &mut work => {
                    while let Ok(event) = heard.try_recv() {
                        shown.hear(event);
                    }
                    return done;
                }
            }
        }
    });
    shown.end();
    done
}

/// What is on the terminal.
struct Shown {
    /// `None` if nobody watches.
    bars: Option<MultiProgress>,
    open: HashMap<u64, ProgressBar>,
}

impl Shown {
    fn new() -> Self {
        Self { bars: output::is_watched().then(MultiProgress::new), open: HashMap::new() }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Note { line } => self.line(&line),
            Event::Item { id, name, done, total, unit, stage } => {
                if let Some(bars) = &self.bars {
                    let bar = self.open.entry(id).or_insert_with(|| bars.add(bar(&name, unit, total)));
                    bar.set_position(done);
                    if let Some(total) = total {
                        bar.set_length(total);
                    }
                }
                if stage == Stage::Running {
                    return;
                }
                if let Some(bar) = self.open.remove(&id) {
                    bar.finish_and_clear();
                }
                let failed = if stage == Stage::Failed { "failed after " } else { "" };
                self.line(&format!("{name}: {failed}{}", amount(done, unit)));
            }
        }
    }

    fn line(&self, line: &str) {
        let line = output::visible(line);
        match &self.bars {
            Some(bars) => bars.suspend(|| output::note(&line)),
            None => output::note(&line),
        }
    }

    fn end(&mut self) {
        for bar in self.open.values() {
            bar.finish_and_clear();
        }
    }
}

fn amount(done: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => output::size(done),
        Unit::Count => done.to_string(),
    }
}

fn bar(name: &str, unit: Unit, total: Option<u64>) -> ProgressBar {
    let amounts = match unit {
        Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        Unit::Count => "{pos}/{len} {eta}",
    };
    let bar = ProgressBar::no_length();
    if let Some(total) = total {
        bar.set_length(total);
    }
    if let Ok(style) = ProgressStyle::with_template(&format!("{{msg:40!}} {{bar:24}} {amounts}")) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(output::visible(name).into_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
