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
    if registry.push && !registry.insecure_loopback_push {
        let why = "which needs `registry.insecure-loopback-push` to be `true`";
        return clash("registry.push", "true".into(), why);
    }
    if listen == config.proxy.listen && listen.port() != 0 {
        return clash("registry.listen", listen.to_string(), "which `proxy.listen` is already");
    }
    Ok(())
}
