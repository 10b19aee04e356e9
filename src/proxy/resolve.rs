//! Names of the cloud to addresses, without the C library: a static binary has no getaddrinfo.
//!
//! As kubelet's and the C library's resolvers do it: what stands in `/etc/hosts` is known without a name server.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::IpAddr;
use std::path::Path;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

const HOSTS: &str = "/etc/hosts";
const CONFIG: &str = "/etc/resolv.conf";
/// Who is asked where none is named (resolv.conf(5)).
const OWN_SERVER: &str = "\nnameserver 127.0.0.1\n";

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// `/etc/resolv.conf` cannot be used.
    #[error("no resolver: {0}")]
    Setup(NetError),
    /// The name servers do not know or do not answer.
    #[error("{0}")]
    LookUp(NetError),
    /// The same, where nobody says which they are.
    #[error("`/etc/resolv.conf` names no name server, and this machine itself says: {0}")]
    Nowhere(NetError),
}

/// Resolves as the system is set up; reads the set-up anew for each look-up, because a gateway's
/// networks come and go.
#[derive(Debug, Default)]
pub struct Resolver;

impl Resolver {
    /// The addresses of a host; an address is its own.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        find(host, Path::new(HOSTS), Path::new(CONFIG)).await
    }
}

async fn find(host: &str, hosts: &Path, config: &Path) -> Result<Vec<IpAddr>, ResolveError> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    // Before any name server: one that is silent would be waited for, though only for what no line says of the name, such as
    // its address of the other family.
    match File::open(hosts).and_then(|file| listed(BufReader::new(file), host)) {
        Ok(found) if !found.is_empty() => return Ok(found),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::debug!(%error, "`{}` is not read", hosts.display());
        }
        _ => {}
    }
    ask(host, config).await
}

/// What a file as `/etc/hosts` (hosts(5)) has for a name, in its order.
fn listed(lines: impl BufRead, host: &str) -> io::Result<Vec<IpAddr>> {
    let wanted = absolute(host);
    let mut found = Vec::new();
    for line in lines.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(line.split(|&byte| byte == b'#').next().unwrap_or_default());
        let mut words = line.split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse) else { continue };
        if words.any(|name| absolute(name).eq_ignore_ascii_case(wanted)) && !found.contains(&ip) {
            found.push(ip);
        }
    }
    Ok(found)
}

/// A name without the dot that says that it is whole.
fn absolute(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

async fn ask(host: &str, config: &Path) -> Result<Vec<IpAddr>, ResolveError> {
    let mut text = match std::fs::read(config) {
        Ok(text) => text,
        // Not written yet, or a link to what is not.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ResolveError::Setup(error.into())),
    };
    let is_named = String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.split_whitespace().next() == Some("nameserver"));
    if !is_named {
        text.extend(OWN_SERVER.bytes());
    }
    let (config, options) = parse_resolv_conf(text).map_err(ResolveError::Setup)?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(ResolveError::Setup)?;
    let why = if is_named { ResolveError::LookUp } else { ResolveError::Nowhere };
    Ok(resolver.lookup_ip(host).await.map_err(why)?.iter().collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::durable;

    fn put(path: &Path, text: &str) {
        durable::write(path, text.as_bytes(), 0o644).unwrap();
    }

    const FILE: &str = "127.0.0.1\tlocalhost\n\
        # 10.9.9.9 kube.cloud.test\n\
        10.0.0.5 \t Kube.cloud.test kube # the first\n\
        fd00::5 kube.cloud.test.\r\n\
        10.0.0.5 kube.cloud.test\n\
        fe80::1%eth0 kube.cloud.test\n\
        10.0.0.6 other.cloud.test\n\
        kube.cloud.test 10.9.9.9";

    #[test]
    fn a_name_has_all_addresses_that_stand_before_it() {
        for (host, expected) in [
            ("kube.cloud.test", &["10.0.0.5", "fd00::5"][..]),
            ("KUBE.cloud.test.", &["10.0.0.5", "fd00::5"]),
            ("kube", &["10.0.0.5"]),
            ("cloud.test", &[]),
            ("#", &[]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(listed(FILE.as_bytes(), host).unwrap(), expected, "{host}");
        }
        let latin1 = b"10.0.0.7 k\xe9\n10.0.0.8 kube\n".as_slice();
        assert_eq!(listed(latin1, "kube").unwrap(), ["10.0.0.8".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn what_is_in_hosts_needs_no_name_server() {
        let folder = tempfile::tempdir().unwrap();
        let (hosts, config) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
        put(&hosts, FILE);
        // One that takes what it is sent and says nothing, as a firewall does.
        let mute = std::net::UdpSocket::bind("127.0.0.77:53");
        let begun = Instant::now();
        for text in [None, Some("search cloud.test\n"), Some("search a.test b.test\nnameserver 127.0.0.77\n")]
        {
            if let Some(text) = text {
                put(&config, text);
            }
            assert_eq!(find("kube", &hosts, &config).await.unwrap(), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        drop(mute);
        std::fs::remove_file(&hosts).unwrap();
        assert_eq!(find("10.0.0.9", &hosts, &config).await.unwrap(), ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn without_a_name_server_the_machine_itself_is_asked_and_the_reason_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (hosts, config) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
        put(&config, "search cloud.test\n");
        for _ in 0..2 {
            match find("nobody.invalid.", &hosts, &config).await {
                Err(error @ ResolveError::Nowhere(_)) => {
                    assert!(error.to_string().contains("names no name server"), "{error}");
                }
                other => panic!("{other:?}"),
            }
            durable::remove(&config).unwrap();
        }
    }
}
