//! What values must hold together. Each value alone was checked by its slot.

use super::Config;
use super::error::Problem;

/// # Errors
/// The first rule that is broken, by the key whose change mends it.
pub fn check(config: &Config) -> Result<(), Problem> {
    let registry = &config.registry;
    let clash = |key, value: String, why: &str| Err(Problem::Conflict { key, value, why: why.into() });
    let listen = registry.listen;
    if registry.insecure_loopback_push && !listen.ip().is_loopback() {
        let why = "but `registry.insecure-loopback-push` is `true` hint: without a credential only a loopback address may take pushes";
        return clash("registry.listen", listen.to_string(), why);
    }
    let credential = registry.htpasswd.is_some() || registry.tokens.is_some();
    if registry.push && !registry.insecure_loopback_push && !credential {
        let why = "which needs a credential hint: set `registry.htpasswd` or `registry.tokens`, or on loopback `registry.insecure-loopback-push = true`";
        return clash("registry.push", "true".into(), why);
    }
    if registry.tls_certificate.is_some() != registry.tls_key.is_some() {
        let value = registry.tls_certificate.as_ref().or(registry.tls_key.as_ref());
        let value = value.map(|path| path.display().to_string()).unwrap_or_default();
        let (key, other) = match registry.tls_key {
            None => ("registry.tls-certificate", "registry.tls-key"),
            Some(_) => ("registry.tls-key", "registry.tls-certificate"),
        };
        return clash(key, value, &format!("which needs `{other}`"));
    }
    if registry.tls_certificate.is_some() && registry.local_certificate {
        let why = "but `registry.tls-certificate` is set too";
        return clash("registry.local-certificate", "true".into(), why);
    }
    if !listen.ip().is_loopback() && !registry.serves_tls() {
        let why = "which others can reach, and needs a certificate hint: set `registry.local-certificate = true`, or `registry.tls-certificate` and `registry.tls-key`";
        return clash("registry.listen", listen.to_string(), why);
    }
    let hosts: Vec<String> = registry.upstreams.iter().map(|row| row.upstream().host).collect();
    for (number, row) in registry.upstreams.iter().enumerate() {
        let twice = hosts[..number].contains(&hosts[number]);
        let fault = row.fault().or_else(|| twice.then(|| format!("`{}` is there twice", row.host)));
        if let Some(why) = fault {
            return Err(Problem::Row { key: format!("registry.upstreams[{number}]"), why });
        }
    }
    if let Some(why) = registry.proxy_fault() {
        return Err(Problem::Row { key: "registry.proxy".into(), why });
    }
    if listen == config.proxy.listen && listen.port() != 0 {
        return clash("registry.listen", listen.to_string(), "which `proxy.listen` is already");
    }
    if let Some((key, value, expected)) = config.proxy.clients.fault() {
        return clash(key, value, &format!("but an entry is {expected}"));
    }
    config.mirror.check().map_err(|fault| Problem::Row { key: fault.key, why: fault.why })?;
    if let Some((key, name)) = config.bundle.improper_name() {
        let why = "but it becomes part of file names: small letters, digits, `-` and `.`, at most 63";
        return clash(key, name.to_owned(), why);
    }
    Ok(())
}
