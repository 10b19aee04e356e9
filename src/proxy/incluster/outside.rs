//! Who comes to the address for pods from another machine. Linux answers for an address of any interface on every one, so
//! a neighbour needs but a route to get here.
//!
//! Asks by which link the answers to somebody leave, for without answers there is no connection; behind a bridge, by which
//! of its ports. Where that is no pod's link, a pod may be there all the same, with an interface of the LAN: then the
//! runtime says whether the address is one of a pod here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::cri::Addresses;

/// Kinds of links to other machines. A device with hardware of its own has mostly none.
const LINKS: [&str; 10] = ["vlan", "bond", "team", "ppp", "wlan", "wwan", "rmnet", "dsa", "hsr", "macsec"];

/// Knows who is outside.
pub struct Outside {
    /// Where pods find edge.
    address: IpAddr,
    pods: Addresses,
    handle: Handle,
    /// Carries the messages; ends with this.
    connection: tokio::task::JoinHandle<()>,
    logged: AtomicBool,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Outside {
    /// Asks nobody for anything yet. Within a runtime.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn open(address: IpAddr, pods: Addresses) -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        Ok(Self { address, pods, handle, connection, logged: AtomicBool::new(false) })
    }

    /// Whether `peer` is another machine. Where the kernel does not say, it is not taken for one.
    pub async fn has(&self, peer: IpAddr) -> bool {
        let to = self.leads_to(peer).await.unwrap_or_else(|error| {
            tracing::warn!(%peer, %error, "nobody knows by which interface a client of the pods' address came");
            To::Pods
        });
        let is_outside = to != To::Pods && self.is_stranger(peer, to).await;
        if is_outside && !self.logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%peer, "another machine asks at the address for pods, and is turned away");
        }
        is_outside
    }

    /// Whether no pod of this node has the address of somebody who is not behind a pod's link.
    async fn is_stranger(&self, peer: IpAddr, to: To) -> bool {
        match self.pods.has(peer).await {
            Ok(is_pod) => !is_pod,
            Err(why) => {
                let out = to == To::Machines;
                tracing::debug!(%peer, why, out, "the runtime does not say whether a pod has this address");
                out
            }
        }
    }

    async fn leads_to(&self, peer: IpAddr) -> Result<To, rtnetlink::Error> {
        let Some((link, next)) = self.way_to(peer).await? else { return Ok(To::Pods) };
        match kind(&link) {
            // One end of a pair: the other one is a pod, or all that there is outside where this machine is a container.
            Kind::Pair if self.holds_default(peer, link.header.index).await? => Ok(To::Machines),
            Kind::Pair => Ok(To::Pods),
            Kind::Bridge => self.behind(link.header.index, next).await,
            Kind::To(to) => Ok(to),
        }
    }

    /// Whether all that has no way of its own goes by this link.
    async fn holds_default(&self, peer: IpAddr, index: u32) -> Result<bool, rtnetlink::Error> {
        let all = match peer {
            IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let routes: Vec<RouteMessage> = self.handle.route().get(all).execute().try_collect().await?;
        let default = |route: &RouteMessage| route.header.destination_prefix_length == 0;
        Ok(routes.iter().any(|route| default(route) && link_of(route) == Some(index)))
    }

    /// The link by which answers leave, and to whom on it; `None` for this machine itself.
    async fn way_to(&self, peer: IpAddr) -> Result<Option<(LinkMessage, IpAddr)>, rtnetlink::Error> {
        let routes: Vec<RouteMessage> =
            self.handle.route().get(ask(self.address, peer)).execute().try_collect().await?;
        let Some(route) = routes.iter().find(|route| link_of(route).is_some()) else { return Ok(None) };
        let Some(index) = link_of(route) else { return Ok(None) };
        let router = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        });
        Ok(self.link(index).await?.map(|link| (link, router.unwrap_or(peer))))
    }

    async fn link(&self, index: u32) -> Result<Option<LinkMessage>, rtnetlink::Error> {
        let mut links = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        links.try_next().await
    }

    /// Whom the port of a bridge leads to by which `neighbour` is reached.
    async fn behind(&self, bridge: u32, neighbour: IpAddr) -> Result<To, rtnetlink::Error> {
        let family = if neighbour.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let hardware = self.neighbours(family).await?.iter().find_map(|entry| {
            (entry.header.ifindex == bridge && ip_of(entry) == Some(neighbour)).then(|| hardware_of(entry))?
        });
        let Some(hardware) = hardware else { return Ok(To::Either) };
        let ports: Vec<u32> = self
            .neighbours(AddressFamily::Bridge)
            .await?
            .iter()
            .filter(|entry| is_behind(entry, bridge) && hardware_of(entry).as_ref() == Some(&hardware))
            .map(|entry| entry.header.ifindex)
            .collect();
        let mut found = To::Either;
        for port in ports {
            match self.link(port).await?.as_ref().map(kind) {
                // With several VLANs it may be known behind several.
                Some(Kind::Pair) | Some(Kind::To(To::Pods)) => return Ok(To::Pods),
                Some(Kind::To(To::Machines)) => found = To::Machines,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Who is known to be reached by which hardware address, or of a bridge, which of these by which port.
    async fn neighbours(&self, family: AddressFamily) -> Result<Vec<NeighbourMessage>, rtnetlink::Error> {
        self.handle.neighbours().get().set_address_family(family).execute().try_collect().await
    }
}

/// What rules of routing by source may decide otherwise is asked with the source.
fn ask(from: IpAddr, to: IpAddr) -> RouteMessage {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            RouteMessageBuilder::<Ipv4Addr>::new().source_prefix(from, 32).destination_prefix(to, 32).build()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .source_prefix(from, 128)
            .destination_prefix(to, 128)
            .build(),
        // Of another family than the address is nobody who comes to it.
        (_, IpAddr::V4(to)) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
        (_, IpAddr::V6(to)) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
    }
}

fn link_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().filter(|_| route.header.kind != RouteType::Local).find_map(|attribute| {
        match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }
    })
}

fn ip_of(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

fn hardware_of(entry: &NeighbourMessage) -> Option<Vec<u8>> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => Some(address.clone()),
        _ => None,
    })
}

fn is_behind(entry: &NeighbourMessage, bridge: u32) -> bool {
    entry.attributes.contains(&NeighbourAttribute::Controller(bridge))
}

/// Whom a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Pods,
    Machines,
    /// To machines, if no pod of this node has the address; where nobody knows that, to pods.
    Either,
}

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pair,
    Bridge,
    To(To),
}

fn kind(link: &LinkMessage) -> Kind {
    let kind = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        }),
        _ => None,
    });
    match kind.as_deref() {
        None if link.header.flags.contains(LinkFlags::Loopback) => Kind::To(To::Pods),
        None => Kind::To(To::Machines),
        Some("veth") => Kind::Pair,
        Some("bridge") => Kind::Bridge,
        Some("netkit") => Kind::To(To::Pods),
        Some(kind) if LINKS.contains(&kind) => Kind::To(To::Machines),
        Some(_) => Kind::To(To::Either),
    }
}

#[cfg(test)]
#[path = "outside_tests.rs"]
mod tests;
