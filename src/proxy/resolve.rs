//! Names of the cloud to addresses, without the C library: a static binary has no getaddrinfo.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// `/etc/resolv.conf` or `/etc/hosts` cannot be used.
    #[error("no resolver: {0}")]
    Setup(hickory_resolver::net::NetError),
    /// The name servers do not know or do not answer.
    #[error("{0}")]
    LookUp(hickory_resolver::net::NetError),
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
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let resolver = TokioResolver::builder_tokio()
            .and_then(|builder| builder.build())
            .map_err(ResolveError::Setup)?;
        let found = resolver.lookup_ip(host).await.map_err(ResolveError::LookUp)?;
        Ok(found.iter().collect())
    }
}
