//! How many files and sockets this process may have open.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Raises the soft limit on open descriptors to the hard one. systemd's soft limit of 1024 is for programs that use
/// `select`, and a snap's daemon cannot ask for another: a full door for pods would then keep kubelet out. Gives the limit.
///
/// # Errors
/// The kernel's.
pub fn raise() -> nix::Result<rlim_t> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }
}
