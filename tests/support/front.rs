//! What stands at the cloud's address when the cloud is not behind it: a load balancer that has nobody to send to, or
//! a stranger. Speaks real TLS and HTTP; never forwards.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::keys::{Authority, Pair};
use super::machine::Machine;

/// How it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A certificate that the nodes trust, and 503 for every request.
    Unavailable,
    /// The same with a page that says 404.
    Missing,
    /// A certificate of another authority.
    Stranger,
}

/// A listener on the cloud's machine. Dropping it ends it.
pub struct Front {
    port: u16,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    pub fn start(machine: &Machine, authority: &Authority, manner: Manner) -> Result<Self> {
        let names = ["kube.cloud.test", "10.250.0.1"];
        let pair = match manner {
            Manner::Unavailable | Manner::Missing => authority.server(&names)?,
            Manner::Stranger => Authority::new("stranger")?.server(&names)?,
        };
        let config = Arc::new(server_config(&pair)?);
        let listener = machine.in_network(|| TcpListener::bind("0.0.0.0:0"))??;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = Some(thread::spawn(move || accept(&listener, &config, manner, &ended)));
        Ok(Self { port, over, thread })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn server_config(pair: &Pair) -> Result<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, manner: Manner, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let config = Arc::clone(config);
                // A client that does not trust the certificate ends the handshake: that is the point.
                thread::spawn(move || drop(answer(stream, config, manner)));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn answer(mut stream: TcpStream, config: Arc<ServerConfig>, manner: Manner) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut connection = ServerConnection::new(config)?;
    let mut tls = Stream::new(&mut connection, &mut stream);
    let mut request = Vec::new();
    let mut buffer = [0; 8192];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match tls.read(&mut buffer)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let code = if manner == Manner::Missing { "404 Not Found" } else { "503 Service Unavailable" };
    let body = format!(
        "<html><body><h1>{code}</h1>\nNo server is available to handle this request.\n</body></html>\n"
    );
    write!(
        tls,
        "HTTP/1.1 {code}\r\ncontent-type: text/html\r\ncache-control: no-cache\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    tls.conn.send_close_notify();
    tls.flush()?;
    // Read on a little, so that a request's body does not turn the answer into a reset.
    let _ = tls.read(&mut buffer);
    Ok(())
}
