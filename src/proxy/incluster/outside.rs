//! Who comes to the address for pods from another machine. Linux answers for an address of any interface on every one, so
//! a neighbour needs but a route to get here.
//!
//! Asks by which link the answers to somebody leave, for without answers there is no connection. Links that pods may be
//! behind, such as bridges, are not looked into: no pod of this node may be kept out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

/// Kinds of links to other machines. A device with hardware of its own has mostly none.
const LINKS: [&str; 10] = ["vlan", "bond", "team", "ppp", "wlan", "wwan", "rmnet", "dsa", "hsr", "macsec"];

/// Knows who is outside.
pub struct Outside {
    /// Where pods find edge.
    address: IpAddr,
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
    /// Asks the kernel for nothing yet. Within a runtime.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn open(address: IpAddr) -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        Ok(Self { address, handle, connection, logged: AtomicBool::new(false) })
    }

    /// Whether `peer` is another machine. Where the kernel does not say, it is not taken for one.
    pub async fn has(&self, peer: IpAddr) -> bool {
        let is_outside = self.is_outside(peer).await.unwrap_or_else(|error| {
            tracing::warn!(%peer, %error, "nobody knows by which interface a client of the pods' address came");
            false
        });
        if is_outside && !self.logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%peer, "another machine asks at the address for pods, and is turned away");
        }
        is_outside
    }

    async fn is_outside(&self, peer: IpAddr) -> Result<bool, rtnetlink::Error> {
        let Some(link) = self.way_to(peer).await? else { return Ok(false) };
        Ok(match leads(&link) {
            To::Pods => false,
            To::Machines => true,
            // One end of a pair: the other one is a pod, or all that there is outside where this machine is a container.
            To::Either => self.holds_default(peer, link.header.index).await?,
        })
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

    /// The link by which answers leave; `None` for this machine itself.
    async fn way_to(&self, peer: IpAddr) -> Result<Option<LinkMessage>, rtnetlink::Error> {
        let routes: Vec<RouteMessage> =
            self.handle.route().get(ask(self.address, peer)).execute().try_collect().await?;
        let Some(index) = routes.iter().find_map(link_of) else { return Ok(None) };
        let mut links = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        links.try_next().await
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

/// Where a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Pods,
    Machines,
    Either,
}

fn leads(link: &LinkMessage) -> To {
    let kind = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        }),
        _ => None,
    });
    match kind.as_deref() {
        None if link.header.flags.contains(LinkFlags::Loopback) => To::Pods,
        None => To::Machines,
        Some("veth") => To::Either,
        Some(kind) if LINKS.contains(&kind) => To::Machines,
        Some(_) => To::Pods,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::InfoKind;

    use super::*;

    fn link(kind: Option<&str>) -> LinkMessage {
        let mut link = LinkMessage::default();
        let infos = kind.map(|kind| vec![LinkInfo::Kind(InfoKind::from(kind))]);
        link.attributes.extend(infos.map(LinkAttribute::LinkInfo));
        link
    }

    #[test]
    fn pods_come_by_links_of_many_kinds_and_machines_by_few() {
        for kind in ["bridge", "vxlan", "dummy", "netkit", "openvswitch", "macvlan", "ipvlan", "tun", "ipip"]
        {
            assert_eq!(leads(&link(Some(kind))), To::Pods, "{kind}");
        }
        assert!(LINKS.iter().all(|kind| leads(&link(Some(kind))) == To::Machines));
        assert_eq!((leads(&link(None)), leads(&link(Some("veth")))), (To::Machines, To::Either), "cables");
        let mut own = link(None);
        own.header.flags = LinkFlags::Loopback;
        assert_eq!(leads(&own), To::Pods);
    }

    #[tokio::test]
    async fn whoever_is_on_this_machine_is_not_outside() {
        for (address, peer) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.1.2.3")] {
            let outside = Outside::open(address.parse().unwrap()).unwrap();
            assert!(!outside.has(peer.parse().unwrap()).await);
            assert!(outside.way_to(peer.parse().unwrap()).await.unwrap().is_none(), "{peer}");
        }
    }
}
