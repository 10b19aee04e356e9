//! An interface of edge's own with one link-local address: there before any network is, and nobody else's.
//!
//! A `dummy` where the kernel has that, else a `bridge` without ports, which holds an address as well. Touches no other
//! interface, and gives up where another one has the address.

use std::net::IpAddr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkUnspec, MulticastGroup};

/// The interface's name.
pub const NAME: &str = "edge-api";

/// Why the address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot ask the kernel about interfaces: {0}")]
    Open(std::io::Error),
    /// The kernel refused.
    #[error(
        "cannot {operation} interface `{NAME}`: {why} hint: edge needs CAP_NET_ADMIN (in a snap: `snap connect edge:network-control`)"
    )]
    Kernel {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// Another interface has it.
    #[error(
        "`{address}` is an address of interface `{other}` hint: set `proxy.in-cluster-listen` to another one"
    )]
    Taken {
        /// Which.
        address: IpAddr,
        /// Whose.
        other: String,
    },
}

type Messages = futures_util::stream::BoxStream<'static, ()>;

/// The interface, and news of all interfaces.
pub struct Interface {
    kernel: Kernel,
    news: Messages,
    /// Carries the messages; ends with this.
    connection: tokio::task::JoinHandle<()>,
}

/// Asks and tells the kernel.
struct Kernel {
    address: IpAddr,
    handle: Handle,
}

impl Drop for Interface {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Interface {
    /// Asks the kernel for nothing yet. Within a runtime.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(address: IpAddr) -> Result<Self, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
        let connection = tokio::spawn(connection);
        // That something changed is all that matters: what is there now is asked for.
        let news = messages
            .filter(|(message, _)| {
                std::future::ready(matches!(
                    message.payload,
                    NetlinkPayload::InnerMessage(
                        RouteNetlinkMessage::DelLink(_)
                            | RouteNetlinkMessage::NewLink(_)
                            | RouteNetlinkMessage::DelAddress(_)
                            | RouteNetlinkMessage::NewAddress(_)
                    )
                ))
            })
            .map(|_| ());
        Ok(Self { kernel: Kernel { address, handle }, news: news.boxed(), connection })
    }

    /// Waits until interfaces or addresses change; for ever once the kernel says nothing more.
    pub async fn changed(&mut self) {
        if self.news.next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Makes the interface, brings it up and gives it its address, as far as that is not so. Gives whether anything had
    /// to be done.
    ///
    /// # Errors
    /// [`Error`]; it may be half made then, which the next call goes on from.
    pub async fn ensure(&mut self) -> Result<bool, Error> {
        self.kernel.ensure().await
    }

    /// Takes the interface away, if there is one.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn remove(&mut self) -> Result<(), Error> {
        self.kernel.remove().await
    }
}

impl Kernel {
    async fn ensure(&self) -> Result<bool, Error> {
        let (links, holders) = (self.links().await?, self.holders().await?);
        let name_of = |index: u32| links.iter().find(|link| link.header.index == index).and_then(name);
        let own = links.iter().find(|link| name(link) == Some(NAME));
        let own_index = own.map(|link| link.header.index);
        if let Some(other) = holders.iter().find(|index| Some(**index) != own_index) {
            let other = name_of(*other).unwrap_or("?").to_owned();
            return Err(Error::Taken { address: self.address, other });
        }
        if own.is_some_and(|link| link.header.flags.contains(LinkFlags::Up)) && !holders.is_empty() {
            return Ok(false);
        }
        let index = match own_index {
            Some(index) => index,
            None => self.make().await?,
        };
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().change(up).execute().await.map_err(|e| refused("bring up", &e))?;
        if holders.is_empty() {
            let whole = if self.address.is_ipv4() { 32 } else { 128 };
            let mut add = self.handle.address().add(index, self.address, whole);
            // Nobody else is on this link, and a bridge without ports would wait for an answer for ever.
            add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            add.execute().await.map_err(|e| refused("give its address to", &e))?;
        }
        Ok(true)
    }

    async fn remove(&self) -> Result<(), Error> {
        let links = self.links().await?;
        let Some(own) = links.iter().find(|link| name(link) == Some(NAME)) else { return Ok(()) };
        self.handle.link().del(own.header.index).execute().await.map_err(|e| refused("remove", &e))
    }

    async fn make(&self) -> Result<u32, Error> {
        let dummy = self.handle.link().add(LinkDummy::new(NAME).build()).execute().await;
        if dummy.is_err() {
            // A kernel built without dummies has bridges: pods' networks are made of them.
            let bridge = self.handle.link().add(LinkBridge::new(NAME).build()).execute().await;
            bridge.map_err(|e| refused("make", &e))?;
        }
        let links = self.links().await?;
        let made = links.iter().find(|link| name(link) == Some(NAME));
        made.map(|link| link.header.index)
            .ok_or(Error::Kernel { operation: "find", why: "it went as soon as it was made".into() })
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, Error> {
        self.handle.link().get().execute().try_collect().await.map_err(|e| refused("look for", &e))
    }

    /// The interfaces that have the address.
    async fn holders(&self) -> Result<Vec<u32>, Error> {
        let all: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| refused("read the address of", &e))?;
        let has = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Address(ip) | AddressAttribute::Local(ip) if *ip == self.address);
        let holding = all.iter().filter(|message| message.attributes.iter().any(has));
        Ok(holding.map(|message| message.header.index).collect())
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn refused(operation: &'static str, error: &rtnetlink::Error) -> Error {
    let why = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    };
    Error::Kernel { operation, why }
}
