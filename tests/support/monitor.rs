//! What hangs on a virtual machine that runs: a stick is plugged in and pulled out through QEMU's monitor, as a hand would,
//! and whoever reads it is not asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// QEMU's arguments for a machine that has a monitor, and a place for a stick.
pub const WITH_MONITOR: [&str; 4] =
    ["-qmp", "unix:/work/monitor,server=on,wait=off", "-device", "qemu-xhci,id=usb"];

/// QEMU's monitor: <https://www.qemu.org/docs/master/interop/qmp-spec.html>.
pub struct Monitor {
    answers: BufReader<UnixStream>,
    orders: UnixStream,
}

impl Monitor {
    /// Of the machine in `place`, whose arguments are [`WITH_MONITOR`].
    pub fn of(place: &Path) -> Result<Self> {
        let orders = UnixStream::connect(place.join("monitor")).context("no monitor")?;
        orders.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut monitor = Self { answers: BufReader::new(orders.try_clone()?), orders };
        ensure!(!monitor.line()?["QMP"].is_null(), "it greets nobody");
        monitor.ask("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "QEMU has ended");
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, order: &str, arguments: &Value) -> Result<Value> {
        writeln!(self.orders, "{}", json!({"execute": order, "arguments": arguments}))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("{order} {arguments}: {error}");
            }
            // What is neither is an event.
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// Plugs the file `image` of the machine's folder in as a stick that gives at most `speed` bytes a second.
    pub fn plug(&mut self, image: &str, speed: u64) -> Result<()> {
        let limits = json!({"qom-type": "throttle-group", "id": "speed", "limits": {"bps-read": speed}});
        self.ask("object-add", &limits)?;
        let file = json!({"driver": "raw", "file": {"driver": "file", "filename": format!("/work/{image}")}});
        let node =
            json!({"driver": "throttle", "node-name": "stick", "throttle-group": "speed", "file": file});
        self.ask("blockdev-add", &node)?;
        let device = json!({"driver": "usb-storage", "id": "stick", "drive": "stick", "bus": "usb.0", "removable": true});
        self.ask("device_add", &device)?;
        Ok(())
    }

    /// Bytes that the machine has read of the stick.
    pub fn read(&mut self) -> Result<u64> {
        let all = self.ask("query-blockstats", &json!({}))?;
        let stick = all.as_array().into_iter().flatten().find(|one| one["node-name"] == "stick");
        stick.and_then(|one| one["stats"]["rd_bytes"].as_u64()).context("there is no stick")
    }

    /// Pulls the stick out, whatever is being read of it or written to it; its image is nobody's then.
    pub fn pull(&mut self) -> Result<()> {
        self.ask("device_del", &json!({"id": "stick"}))?;
        let end = Instant::now() + Duration::from_secs(60);
        // Requests that are under way end first.
        while let Err(error) = self.ask("blockdev-del", &json!({"node-name": "stick"})) {
            ensure!(Instant::now() < end, "{error:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.ask("object-del", &json!({"id": "speed"})).map(drop)
    }
}
