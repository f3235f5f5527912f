//! Copies of the interface's addresses on the device, which change nothing else.

mod support;

use std::{net::IpAddr, time::Duration};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressScope},
    route::{RouteAttribute, RouteType},
};
use support::{
    eventually, isolated,
    net::{Net, set_sysctl},
    plan,
    state::{assert_same, dump_routes, snapshot},
};
use tencrypt_tun::{Capture, Change, Monitor};

/// The global addresses of a link, in the kernel's order.
fn addresses(net: &Net, name: &str) -> Vec<String> {
    let index = net.index(name);
    let all = net.wait(net.handle.address().get().execute().try_collect::<Vec<_>>());
    let global = all
        .iter()
        .filter(|message| message.header.index == index && message.header.scope == AddressScope::Universe);
    let address = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(address.to_string()),
        _ => None,
    };
    global.filter_map(|message| message.attributes.iter().find_map(address)).collect()
}

/// Routes of any kind to or at the device, beside those of table 8362: how many.
fn routes_at_device(net: &Net) -> usize {
    let index = net.index("tenc0");
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    let all = families.into_iter().flat_map(|family| dump_routes(net, family));
    all.filter(|route| {
        route.attributes.contains(&RouteAttribute::Oif(index))
            && route.header.kind != RouteType::Multicast
            && !route.attributes.contains(&RouteAttribute::Table(8362))
    })
    .count()
}

fn settle(monitor: &mut Monitor, capture: &mut Capture) {
    while let Some(change) = monitor.wait(Duration::from_millis(150)).expect("monitors") {
        capture.follow(change).expect("follows");
    }
}

fn captured(net: &Net) -> (support::net::Wire, Monitor, Capture) {
    let wire = net.pod();
    let mut monitor = Monitor::open().expect("subscribes");
    let mut capture = Capture::install(plan()).expect("installs");
    settle(&mut monitor, &mut capture);
    (wire, monitor, capture)
}

#[test]
fn the_device_has_the_interfaces_addresses_and_no_route_by_them() {
    isolated("the_device_has_the_interfaces_addresses_and_no_route_by_them", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let own = ["10.128.1.5", "fd00:128:1::5"];
        assert_eq!(addresses(&net, "tenc0"), own);
        assert_eq!(routes_at_device(&net), 0);
        // The kernel adds the routes again when the device goes up, and IPv6 addresses go when it goes down.
        net.down("tenc0");
        settle(&mut monitor, &mut capture);
        net.up("tenc0");
        settle(&mut monitor, &mut capture);
        assert_eq!(addresses(&net, "tenc0"), own);
        assert_eq!(routes_at_device(&net), 0);
        let same: Vec<IpAddr> = own.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(capture.addresses(), same, "the interface's alone");
    });
}

#[test]
fn copies_follow_the_interface_in_its_order() {
    isolated("copies_follow_the_interface_in_its_order", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let same = |net: &Net, capture: &Capture, count: usize| {
            let on_interface = addresses(net, "eth0");
            assert_eq!(on_interface.len(), count);
            assert_eq!(addresses(net, "tenc0"), on_interface);
            let own: Vec<String> = capture.addresses().iter().map(IpAddr::to_string).collect();
            assert_eq!(own, on_interface, "each once");
            assert_eq!(routes_at_device(net), 0);
        };
        same(&net, &capture, 2);
        net.address("eth0", "10.128.1.6/24");
        net.quick_address("eth0", "fd00:128:1::6/64");
        settle(&mut monitor, &mut capture);
        same(&net, &capture, 4);
        net.remove_address("eth0", "10.128.1.5/24");
        net.remove_address("eth0", "fd00:128:1::6/64");
        net.address("eth0", "10.128.1.7/24");
        net.quick_address("eth0", "fd00:128:1::7/64");
        settle(&mut monitor, &mut capture);
        // The kernel takes a subnet's further IPv4 addresses with the first, unless it is told to promote them.
        same(&net, &capture, addresses(&net, "eth0").len());
        // One that somebody adds to the device, or takes from it, is put right.
        net.address("tenc0", "192.0.2.9/32");
        net.remove_address("tenc0", "10.128.1.7/32");
        settle(&mut monitor, &mut capture);
        assert_eq!(addresses(&net, "tenc0"), addresses(&net, "eth0"));
    });
}

#[test]
fn an_address_that_cannot_be_used_has_no_copy() {
    isolated("an_address_that_cannot_be_used_has_no_copy", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        set_sysctl("ipv6", "eth0", "accept_dad", "1");
        net.address("eth0", "fd00:128:1::8/64");
        let change = monitor.wait(Duration::from_secs(1)).expect("monitors").expect("told");
        capture.follow(change).expect("follows");
        assert_eq!(addresses(&net, "eth0").len(), 3);
        assert_eq!(addresses(&net, "tenc0").len(), 2, "it is tentative");
        eventually("its copy comes", || {
            settle(&mut monitor, &mut capture);
            addresses(&net, "tenc0").len() == 3
        });
        // Below IPv6's least MTU there is none of IPv6.
        net.mtu("eth0", 1300);
        settle(&mut monitor, &mut capture);
        assert_eq!(addresses(&net, "tenc0"), ["10.128.1.5"]);
        net.mtu("eth0", 1500);
        settle(&mut monitor, &mut capture);
        assert_eq!(addresses(&net, "tenc0"), addresses(&net, "eth0"));
        for address in ["10.128.1.5/24", "fd00:128:1::5/64", "fd00:128:1::8/64"] {
            net.remove_address("eth0", address);
        }
        settle(&mut monitor, &mut capture);
        assert_eq!(addresses(&net, "tenc0"), [""; 0]);
    });
}

#[test]
fn copies_take_nothing_with_them_when_they_go() {
    isolated("copies_take_nothing_with_them_when_they_go", || {
        let net = Net::new();
        let _wire = net.pod();
        // A route that names the address as its source is flushed with the address, on whatever device.
        let route = rtnetlink::RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix("192.0.2.0".parse().unwrap(), 24)
            .and_then(|route| route.gateway("10.128.1.1".parse().unwrap()))
            .and_then(|route| route.pref_source("10.128.1.5".parse().unwrap()))
            .expect("route");
        net.wait(net.handle.route().add(route.output_interface(net.index("eth0")).build()).execute());
        let before = snapshot(&net);
        for _ in 0..2 {
            drop(Capture::install(plan()).expect("installs"));
            let mut capture = Capture::install(plan()).expect("takes over");
            net.remove_address("tenc0", "10.128.1.5/32");
            capture.follow(Change::Missed).expect("follows");
            assert_eq!(addresses(&net, "tenc0"), ["10.128.1.5", "fd00:128:1::5"]);
            capture.remove().expect("removes");
            assert_same(&snapshot(&net), &before);
        }
    });
}
