use rtnetlink::packet_route::link::InfoKind;

use super::*;
use crate::cri::{Runtime, Settings};

fn link(kind: Option<&str>) -> LinkMessage {
    let mut link = LinkMessage::default();
    let infos = kind.map(|kind| vec![LinkInfo::Kind(InfoKind::from(kind))]);
    link.attributes.extend(infos.map(LinkAttribute::LinkInfo));
    link
}

/// Where no runtime answers.
fn outside(address: &str) -> Outside {
    let runtime = Settings { endpoint: "unix:///nowhere/c.sock".into(), ..Settings::default() };
    let pods = Addresses::new(Runtime::new(&runtime).unwrap());
    Outside::open(address.parse().unwrap(), pods).unwrap()
}

#[test]
fn what_a_link_is_says_who_may_be_behind_it() {
    for is_either in ["vxlan", "dummy", "openvswitch", "macvlan", "ipvlan", "tun", "ipip", "wireguard"] {
        assert_eq!(kind(&link(Some(is_either))), Kind::To(To::Either), "{is_either}");
    }
    assert!(LINKS.iter().all(|machines| kind(&link(Some(machines))) == Kind::To(To::Machines)));
    assert_eq!(kind(&link(None)), Kind::To(To::Machines), "a cable");
    assert_eq!(kind(&link(Some("veth"))), Kind::Pair);
    assert_eq!(kind(&link(Some("bridge"))), Kind::Bridge);
    let mut own = link(None);
    own.header.flags = LinkFlags::Loopback;
    assert_eq!([kind(&own), kind(&link(Some("netkit")))], [Kind::To(To::Pods); 2]);
}

#[tokio::test]
async fn whoever_is_on_this_machine_is_not_outside() {
    for (address, peer) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.1.2.3")] {
        let outside = outside(address);
        assert!(!outside.has(peer.parse().unwrap()).await);
        assert!(outside.way_to(peer.parse().unwrap()).await.unwrap().is_none(), "{peer}");
    }
}

#[tokio::test]
async fn where_the_runtime_does_not_answer_only_who_is_behind_a_cable_is_taken_for_a_machine() {
    let (outside, peer) = (outside("127.0.0.1"), "10.1.2.3".parse().unwrap());
    assert!(outside.is_stranger(peer, To::Machines).await);
    assert!(!outside.is_stranger(peer, To::Either).await);
}
