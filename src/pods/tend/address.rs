//! Whether a sandbox still has the address that its runtime tells. The runtime notes it when it makes the network and
//! never looks again; the kernel knows what became of it since, in `/proc/PID/net` of the sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use crate::cri::{Error, Runtime};

/// What is known of the networks of sandboxes, by their ids.
#[derive(Debug, Default)]
pub struct Addresses(BTreeMap<String, Sandbox>);

#[derive(Debug)]
struct Sandbox {
    /// Its first process; `None` where the runtime tells none, as CRI-O does for a sandbox without one.
    pid: Option<u64>,
    /// Whether the address was seen there.
    held: bool,
}

impl Addresses {
    /// Forgets all other sandboxes.
    pub fn keep(&mut self, sandboxes: &BTreeSet<&str>) {
        self.0.retain(|id, _| sandboxes.contains(id.as_str()));
    }

    /// Whether `address` was in the network of this running sandbox, and is not any more. One that was never seen there
    /// is not lost: gVisor takes it away from the interface at once, and a virtual machine has a kernel of its own.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn is_lost(&mut self, runtime: &Runtime, sandbox: &str, address: &str) -> Result<bool, Error> {
        if !self.0.contains_key(sandbox) {
            let pid = pid(&runtime.sandbox_info(sandbox).await?);
            self.0.insert(sandbox.to_owned(), Sandbox { pid, held: false });
        }
        let Some(known) = self.0.get_mut(sandbox) else { return Ok(false) };
        let Some((pid, address)) = known.pid.zip(address.parse().ok()) else { return Ok(false) };
        Ok(match holds(&Path::new("/proc").join(pid.to_string()).join("net"), address) {
            Some(true) => {
                known.held = true;
                false
            }
            Some(false) => known.held,
            // It ended a moment ago, or edge may not look there.
            None => false,
        })
    }
}

/// The first process, as containerd tells it.
fn pid(info: &std::collections::HashMap<String, String>) -> Option<u64> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    info["pid"].as_u64().filter(|pid| *pid > 0)
}

/// Whether the network that `net` (`/proc/PID/net`) shows has this address; `None` where it shows nothing.
fn holds(net: &Path, address: IpAddr) -> Option<bool> {
    let read = |name: &str| std::fs::read_to_string(net.join(name)).ok();
    match address {
        IpAddr::V4(address) => {
            let (text, leaf) = (read("fib_trie")?, format!("|-- {address}"));
            // A line for the address, and below it lines that say what it is.
            let mut within = false;
            Some(text.lines().map(str::trim).any(|line| {
                if line.starts_with("|--") || line.starts_with("+--") {
                    within = line == leaf;
                }
                within && line == "/32 host LOCAL"
            }))
        }
        IpAddr::V6(address) => {
            let digits: String = address.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            Some(read("if_inet6")?.lines().any(|line| line.starts_with(&digits)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.88.1.0/24 2 0 2
        |-- 10.88.1.0
           /24 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.88.1.0/24 2 0 2
        +-- 10.88.1.0/28 2 0 2
           |-- 10.88.1.5
              /32 host LOCAL
        |-- 10.88.1.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
";

    #[test]
    fn the_kernel_tells_which_addresses_are_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let holds = |address: &str| holds(folder.path(), address.parse().unwrap());
        assert_eq!((holds("10.88.1.5"), holds("fd00::5")), (None, None));
        std::fs::write(folder.path().join("fib_trie"), TRIE).unwrap();
        let six = "fd000000000000000000000000000005 02 40 00 80     eth0\n";
        std::fs::write(folder.path().join("if_inet6"), six).unwrap();
        for (address, held) in [
            ("10.88.1.5", true),
            ("127.0.0.1", true),
            ("10.88.1.255", false),
            ("10.88.1.0", false),
            ("10.88.1.50", false),
            ("fd00::5", true),
            ("fd00::6", false),
        ] {
            assert_eq!(holds(address), Some(held), "{address}");
        }
    }

    #[test]
    fn the_process_is_in_containerds_info() {
        let info = |text: &str| [("info".to_owned(), text.to_owned())].into();
        assert_eq!(pid(&info(r#"{"pid": 7, "runtimeSpec": {}}"#)), Some(7));
        assert_eq!(pid(&info(r#"{"runtimeSpec": {}}"#)), None);
        assert_eq!(pid(&[].into()), None);
    }
}
