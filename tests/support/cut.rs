//! The usual ways in which a cloud goes away, and back. Each is done to real traffic: packets are dropped or refused
//! by the kernel, processes are killed or frozen. The test itself keeps its own way to the cloud (see `Cluster::kubectl`).

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use super::cluster::{Cluster, locked};
use super::front::{Front, Manner};
use super::names::Names;
use super::node::Node;

/// One way to lose the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The API server is killed; its port refuses. For all nodes.
    Stop,
    /// The API server is frozen: connections open, nothing answers. For all nodes.
    Freeze,
    /// Packets vanish both ways, without a reset.
    Drop,
    /// Connections are reset, new ones refused.
    Refuse,
    /// A load balancer at the same address, with a good certificate, answers every request with 503.
    Unavailable,
    /// The same with a page of its own, that says 404.
    Missing,
    /// Somebody else answers at the same address: the certificate is not the cloud's.
    BrokenTls,
    /// The name server does not answer, and open connections are reset. Bites those who use `KUBE_NAME`.
    NoName,
}

/// What is cut now.
#[derive(Default)]
pub struct CutState {
    stopped: bool,
    frozen: bool,
    ruled: bool,
    fronts: Vec<Front>,
    names: Option<Names>,
}

const CHAINS: &str = "
    iptables -w -N CUT-IN; iptables -w -I INPUT -i br0 -j CUT-IN
    iptables -w -N CUT-OUT; iptables -w -I OUTPUT -o br0 -j CUT-OUT
    iptables -w -t nat -N CUT-NAT; iptables -w -t nat -I PREROUTING -i br0 -j CUT-NAT";

impl Cluster {
    /// Starts the cloud's name server.
    pub(super) fn start_names(&self) -> Result<()> {
        locked(&self.inner.cut).names = Some(Names::start(&self.inner.machine)?);
        Ok(())
    }

    /// Takes the cloud away from every node.
    pub fn cut(&self, way: Cut) -> Result<()> {
        self.cut_from(way, "10.250.0.0/24")
    }

    /// Takes the cloud away from one node; the others keep it.
    pub fn cut_node(&self, way: Cut, node: &Node) -> Result<()> {
        if matches!(way, Cut::Stop | Cut::Freeze | Cut::NoName) {
            bail!("{way:?} takes the cloud from every node hint: use `cut`");
        }
        self.cut_from(way, node.address())
    }

    fn cut_from(&self, way: Cut, nodes: &str) -> Result<()> {
        let mut state = locked(&self.inner.cut);
        let machine = &self.inner.machine;
        match way {
            Cut::Stop => {
                self.kill_apiserver();
                state.stopped = true;
                return Ok(());
            }
            Cut::Freeze => {
                locked(&self.inner.apiserver).signal(Signal::SIGSTOP);
                state.frozen = true;
                return Ok(());
            }
            _ => {}
        }
        if !state.ruled {
            machine.shell(CHAINS)?;
            state.ruled = true;
        }
        let refuse =
            format!("iptables -w -A CUT-IN -s {nodes} -p tcp --dport 6443 -j REJECT --reject-with tcp-reset");
        let rules = match way {
            Cut::Stop | Cut::Freeze => String::new(),
            Cut::Drop => {
                format!("iptables -w -A CUT-IN -s {nodes} -j DROP; iptables -w -A CUT-OUT -d {nodes} -j DROP")
            }
            Cut::Refuse => refuse,
            Cut::Unavailable | Cut::Missing | Cut::BrokenTls => {
                let manner = match way {
                    Cut::BrokenTls => Manner::Stranger,
                    Cut::Missing => Manner::Missing,
                    _ => Manner::Unavailable,
                };
                let front = Front::start(machine, &self.inner.authority, manner)?;
                let port = front.port();
                state.fronts.push(front);
                // Only new connections pass the nat table; those already open are refused.
                format!(
                    "iptables -w -t nat -A CUT-NAT -s {nodes} -p tcp --dport 6443 -j REDIRECT --to-ports {port}
                     {refuse}"
                )
            }
            Cut::NoName => {
                if let Some(names) = &state.names {
                    names.silence(true);
                }
                String::new()
            }
        };
        machine.shell(&rules)?;
        if way != Cut::Drop {
            self.reset(nodes);
        }
        Ok(())
    }

    /// Resets the open connections of these nodes to the API server, as the death of a peer does.
    fn reset(&self, nodes: &str) {
        let _ = self.inner.machine.output(&[
            "ss",
            "-K",
            "state",
            "connected",
            "dst",
            nodes,
            "sport",
            "=",
            ":6443",
        ]);
    }

    /// Brings the cloud back to every node, whatever was cut, and waits until the API server answers (to the cloud itself).
    pub fn heal(&self) -> Result<()> {
        let mut state = locked(&self.inner.cut);
        if state.ruled {
            self.inner
                .machine
                .shell("iptables -w -F CUT-IN; iptables -w -F CUT-OUT; iptables -w -t nat -F CUT-NAT")?;
        }
        state.fronts.clear();
        if let Some(names) = &state.names {
            names.silence(false);
        }
        if std::mem::take(&mut state.frozen) {
            locked(&self.inner.apiserver).signal(Signal::SIGCONT);
        }
        if std::mem::take(&mut state.stopped) {
            self.restart_apiserver()?;
        }
        Ok(())
    }

    /// Cuts and heals a number of times, away for `down` and back for `up`; ends with the cloud there.
    pub fn flap(&self, way: Cut, times: u32, down: Duration, up: Duration) -> Result<()> {
        for _ in 0..times {
            self.cut(way)?;
            thread::sleep(down);
            self.heal()?;
            thread::sleep(up);
        }
        Ok(())
    }
}
