//! The cloud's name server: it knows one name, and can fall silent. Plain DNS over UDP (RFC 1035), A records only.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::machine::Machine;

const NAME: &[u8] = b"\x04kube\x05cloud\x04test\0";
const ADDRESS: [u8; 4] = [10, 250, 0, 1];

/// A running name server. Dropping it ends it.
pub struct Names {
    silent: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    pub fn start(machine: &Machine) -> Result<Self> {
        let socket = machine.in_network(|| UdpSocket::bind("10.250.0.1:53"))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (silent, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (quiet, ended) = (Arc::clone(&silent), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let mut packet = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                if !quiet.load(Ordering::Relaxed)
                    && let Some(reply) = reply(&packet[..length])
                {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Ok(Self { silent, over, thread: Some(thread) })
    }

    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a query of one question; none to what is not one.
fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let name = question.iter().position(|&byte| byte == 0)? + 1;
    let kind = question.get(name..name + 2)?;
    let known = question[..name].eq_ignore_ascii_case(NAME);
    let found = known && kind == [0, 1];
    let mut reply = query.get(..2)?.to_vec();
    // An answer, recursion available; NXDOMAIN for other names.
    reply.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
    reply.extend(question.get(..name + 4)?);
    if found {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        reply.extend(ADDRESS);
    }
    Some(reply)
}
