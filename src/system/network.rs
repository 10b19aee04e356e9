//! Files of systemd-networkd: what is wrong with one is better told before a gateway at sea has no network.
//!
//! Sections, the form of lines and addresses are checked. A key that networkd does not know it tells in its own log,
//! and goes on without.

use std::net::IpAddr;

/// Those of systemd.network(5), as of systemd 257.
const SECTIONS: &str = "Match Link SR-IOV Network Address Neighbor IPv6AddressLabel RoutingPolicyRule NextHop Route \
    DHCPv4 DHCPv6 DHCPPrefixDelegation IPv6AcceptRA DHCPServer DHCPServerStaticLease IPv6SendRA IPv6Prefix \
    IPv6RoutePrefix IPv6PREF64Prefix Bridge BridgeFDB BridgeMDB BridgeVLAN LLDP CAN IPoIB MobileNetwork QDisc \
    NetworkEmulator TokenBucketFilter PIE FlowQueuePIE StochasticFairBlue StochasticFairnessQueueing BFIFO PFIFO \
    PFIFOHeadDrop PFIFOFast CAKE ControlledDelay DeficitRoundRobinScheduler DeficitRoundRobinSchedulerClass \
    EnhancedTransmissionSelection GenericRandomEarlyDetection FairQueueingControlledDelay FairQueueing \
    TrivialLinkEqualizer HierarchyTokenBucket HierarchyTokenBucketClass ClassfulMultiQueueing BandMultiQueueing \
    HeavyHitterFilter QuickFairQueueing QuickFairQueueingClass";

/// Whether a text can be a `.network` file.
///
/// # Errors
/// One line.
pub fn check(text: &str) -> Result<(), String> {
    let (mut section, mut matches) = (None, false);
    let joined = text.replace("\\\n", " ");
    for line in joined.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if !name.starts_with("X-") && !SECTIONS.split_ascii_whitespace().any(|known| known == name) {
                return Err(format!("systemd-networkd knows no section `[{}]`", short(name)));
            }
            section = Some(name);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("`{}` is neither a section nor `Key=Value`", short(line)));
        };
        let section = section.ok_or_else(|| format!("`{}` comes before any section", short(line)))?;
        let (key, value) = (key.trim(), value.trim());
        matches |= section == "Match" && !value.is_empty();
        check_value(section, key, value).map_err(|()| format!("`{}` is no address", short(line)))?;
    }
    if matches { Ok(()) } else { Err("it has no `[Match]` with a key, and would hold for no card".into()) }
}

fn check_value(section: &str, key: &str, value: &str) -> Result<(), ()> {
    // An empty one takes back what was said before.
    if value.is_empty() {
        return Ok(());
    }
    let is_good = match (section, key) {
        ("Network" | "Address", "Address") => is_prefix(value),
        ("Route", "Destination" | "Source") => value == "default" || is_prefix(value),
        ("Network" | "Route", "Gateway") => value.starts_with('_') || value.parse::<IpAddr>().is_ok(),
        ("Network", "DNS") => value.split_ascii_whitespace().all(is_server),
        _ => true,
    };
    if is_good { Ok(()) } else { Err(()) }
}

/// An address, with or without the bits of its network.
fn is_prefix(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}

/// An address that may be followed by a port, an interface and a name: `[::1]:53%eth0#name`.
fn is_server(text: &str) -> bool {
    let bare = text.split(['#', '%']).next().unwrap_or_default();
    bare.parse::<IpAddr>().is_ok() || bare.parse::<std::net::SocketAddr>().is_ok()
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_networkd_would_not_take_is_told() {
        for good in [
            "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
            "# of the ship\n[Match]\nType=ether\n\n[Network]\nAddress = 192.0.2.7/24\nGateway=192.0.2.1\n\
             DNS=192.0.2.1 [2001:db8::1]:53#name 192.0.2.2%eth0\n[Route]\nDestination=2001:db8::/32\nGateway=_dhcp4\n",
            "[Match]\nName=a \\\n  b\n[X-Ours]\nAnything=1\n[Network]\nAddress=\n[Address]\nAddress=2001:db8::7/64\n",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let network = |line: &str| format!("[Match]\nName=eth0\n[Network]\n{line}\n");
        for (bad, why) in [
            (String::new(), "it has no `[Match]`"),
            ("[Match]\nName=\n".into(), "it has no `[Match]`"),
            ("[Network]\nDHCP=yes\n".into(), "it has no `[Match]`"),
            ("Name=eth0\n".into(), "`Name=eth0` comes before any section"),
            (network("[Netwrok]"), "no section `[Netwrok]`"),
            (network("DHCP"), "`DHCP` is neither"),
            (network("Address=192.0.2.7/33"), "`Address=192.0.2.7/33` is no address"),
            (network("Address=192.0.2/24"), "is no address"),
            (network("Gateway=router"), "`Gateway=router` is no address"),
            (network("DNS=192.0.2.1 dns.example"), "is no address"),
        ] {
            let told = check(&bad).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }
}
