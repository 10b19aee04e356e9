//! Which of the owner's files of firewall rules are not in force: `/usr/share/edge/firewall`, which loads each for itself, says so.

use crate::system::Places;

/// What it left, a line for each file; of this boot alone.
const TOLD: &str = "/run/edge-firewall";

/// A line for each of them; none on other machines.
pub fn not_in_force(places: &Places) -> Vec<String> {
    if places.booted().is_err() {
        return Vec::new();
    }
    let told = match std::fs::read_to_string(places.at(TOLD)) {
        Ok(told) => told,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => return vec![format!("firewall: cannot read `{TOLD}`: {e}")],
    };
    let hint = "mend it, then `systemctl reload nftables`";
    told.lines().map(|line| format!("firewall: {line} hint: {hint}")).collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_in_force_is_an_error_of_the_report() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        std::fs::create_dir(root.path().join("run")).unwrap();
        let told = root.path().join("run/edge-firewall");
        std::fs::write(&told, "`/etc/edge/nftables.d/a.nft` is not in force: 1:1-3: Error: syntax error\n")
            .unwrap();
        assert!(not_in_force(&places).is_empty(), "no appliance");
        std::fs::write(root.path().join("run/edge-slot"), "a\n").unwrap();
        let line = "firewall: `/etc/edge/nftables.d/a.nft` is not in force: 1:1-3: Error: syntax error hint: mend it, then `systemctl reload nftables`";
        assert_eq!(not_in_force(&places), [line]);
        std::fs::write(&told, "").unwrap();
        assert!(not_in_force(&places).is_empty());
    }
}
