//! What a person sees: one line per step, alive while the step lasts if this is a terminal, and what programs said.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

const TURNING: [char; 4] = ['|', '/', '-', '\\'];

/// Where the steps are shown.
pub struct Screen {
    terminal: bool,
    start: Instant,
    number: usize,
    total: usize,
}

/// A word on how far a step has come, said from within it.
#[derive(Clone, Default)]
pub struct Detail(Arc<Mutex<String>>);

impl Detail {
    pub fn say(&self, text: &str) {
        if let Ok(mut held) = self.0.lock() {
            text.clone_into(&mut held);
        }
    }

    fn read(&self) -> String {
        self.0.lock().map(|held| held.clone()).unwrap_or_default()
    }
}

impl Screen {
    /// For `total` steps. Colours and moving lines only on a terminal that takes them.
    pub fn new(total: usize) -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let terminal = std::io::stdout().is_terminal() && !dumb && std::env::var_os("NO_COLOR").is_none();
        Self { terminal, start: Instant::now(), number: 0, total }
    }

    /// Does one step and shows how long it took. A step that fails says so, and ends the story.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce(&Detail) -> Result<T>) -> Result<T> {
        self.number += 1;
        let (began, detail) = (Instant::now(), Detail::default());
        let title = format!("{:>2}/{} {title}", self.number, self.total);
        let turning = self.terminal.then(|| Turning::start(&title, began, detail.clone()));
        if !self.terminal {
            println!("           {title} ...");
        }
        let done = work(&detail);
        drop(turning);
        let (sign, colour) = if done.is_ok() { ("ok", "32") } else { ("FAILED", "31") };
        let took = began.elapsed().as_secs_f32();
        let sign =
            if self.terminal { format!("\x1b[{colour}m{sign:<6}\x1b[0m") } else { format!("{sign:<6}") };
        let how = Some(detail.read()).filter(|how| !how.is_empty()).map(|how| format!(" ({how})"));
        println!("{took:6.1} s  {sign}{title}{}", how.unwrap_or_default());
        done
    }

    /// What a program said, under a heading.
    pub fn quote(&self, heading: &str, text: &str) {
        let (dim, plain) = if self.terminal { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        println!("\n    {heading}");
        for line in text.trim_end().lines() {
            println!("    {dim}{line}{plain}");
        }
        println!();
    }

    /// The last line.
    pub fn end(&self, text: &str) {
        println!("{text}, after {:.0} s.", self.start.elapsed().as_secs_f32());
    }
}

/// A line that is drawn again and again, until dropped, also by a panic.
struct Turning {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Turning {
    fn start(title: &str, began: Instant, detail: Detail) -> Self {
        let (stop, stopped) = channel();
        let title = title.to_owned();
        let thread = thread::spawn(move || {
            for turn in TURNING.iter().cycle() {
                print!(
                    "\r\x1b[2K{:6.1} s  {turn}     {title} {}",
                    began.elapsed().as_secs_f32(),
                    detail.read()
                );
                let _ = std::io::stdout().flush();
                if stopped.recv_timeout(Duration::from_millis(100)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            print!("\r\x1b[2K");
            let _ = std::io::stdout().flush();
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Turning {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
