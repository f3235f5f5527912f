//! A table that is replaced and routes that are put back count at once: for packets on their way, and for sockets that have a route.

mod support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteMessage},
};
use support::{
    isolated,
    net::{Net, Wire},
    plan,
};
use tencrypt_tun::{Capture, Monitor, bind_to_interface};

const CANARY: &[u8] = b"the canary sings in plain";
/// Addresses beside the gateway, which is exempt.
const BESIDE: [&str; 2] = ["10.128.1.9", "fd00:128:1::9"];
/// Times that the table is replaced under load. Without the table that stands in meanwhile, every fifth shows.
const REPLACED: usize = 60;

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// A pod, and a neighbour at [`BESIDE`].
fn pod() -> (Net, Wire) {
    let net = Net::new();
    let wire = net.pod();
    wire.on_node(|node| {
        node.address("eth0", "10.128.1.9/24");
        node.quick_address("eth0", "fd00:128:1::9/64");
    });
    (net, wire)
}

fn socket(to: &str) -> UdpSocket {
    UdpSocket::bind(if address(to).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("binds")
}

/// A socket that ignores the routes.
fn bound(to: &str) -> UdpSocket {
    let socket = socket(to);
    bind_to_interface(&socket, plan().interface).expect("binds to eth0");
    socket
}

/// Installs a capture, and another one instead of it.
fn take_over(capture: Capture) -> Capture {
    drop(capture);
    let capture = Capture::install(plan()).expect("installs");
    assert!(capture.took_over());
    capture
}

#[test]
fn chains_that_are_replaced_under_load_stop_every_packet() {
    isolated("chains_that_are_replaced_under_load_stop_every_packet", || {
        let (_net, wire) = pod();
        for to in BESIDE {
            bound(to).send_to(CANARY, SocketAddr::new(address(to), 7777)).expect("sends");
            assert!(wire.carried(CANARY), "{to}: the probe is blind");
        }
        let first = Capture::install(plan()).expect("installs");
        let (over, refused) = (AtomicBool::new(false), AtomicU64::new(0));
        let (capture, passed) = thread::scope(|scope| {
            for to in BESIDE {
                let (over, refused) = (&over, &refused);
                scope.spawn(move || {
                    let (socket, to) = (bound(to), SocketAddr::new(address(to), 7777));
                    while !over.load(Ordering::Relaxed) {
                        refused.fetch_add(u64::from(socket.send_to(CANARY, to).is_err()), Ordering::Relaxed);
                    }
                });
            }
            let capture = (0..REPLACED).fold(first, |capture, _| take_over(capture));
            let passed = wire.carried(CANARY);
            over.store(true, Ordering::Relaxed);
            (capture, passed)
        });
        assert!(refused.load(Ordering::Relaxed) > 1_000, "there was no load");
        assert!(!passed, "a packet got past while the table was replaced");
        capture.remove().expect("removes");
        let left = support::state::snapshot(&Net::new());
        assert!(!left.iter().any(|line| line.contains("tencrypt")), "{left:#?}");
    });
}

/// Deletes the routes of table 8362.
fn flush_routes(net: &Net) {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let all = net.wait(net.handle.route().get(query).execute().try_collect::<Vec<_>>());
        for route in all.into_iter().filter(|route| route.attributes.contains(&RouteAttribute::Table(8362))) {
            net.wait(net.handle.route().del(route).execute());
        }
    }
}

/// Connected sockets, which keep the route that they have found.
fn connected() -> Vec<UdpSocket> {
    let connected = |to: &&str| {
        let socket = socket(to);
        socket.connect(SocketAddr::new(address(to), 7777)).expect("connects");
        socket
    };
    BESIDE.iter().map(connected).collect()
}

#[test]
fn connected_sockets_go_by_the_routes_that_come_back() {
    isolated("connected_sockets_go_by_the_routes_that_come_back", || {
        let (net, wire) = pod();
        let mut monitor = Monitor::open().expect("subscribes");
        let mut capture = Capture::install(plan()).expect("installs");
        monitor.ignore(capture.ports());
        let sockets = connected();
        let all_pass = |what: &str| {
            for socket in &sockets {
                // The first call may tell that nobody listens there.
                let sent = socket.send(CANARY).or_else(|_| socket.send(CANARY));
                assert!(sent.is_ok(), "{what}: {:?}: {sent:?}", socket.peer_addr());
            }
            assert!(!wire.carried(CANARY), "{what}: in plain");
        };
        let none_pass = || {
            // By the main table, where the chains stop it.
            assert!(sockets.iter().all(|socket| socket.send(CANARY).is_err()));
        };
        all_pass("at first");

        flush_routes(&net);
        none_pass();
        while let Some(change) = monitor.wait(Duration::from_millis(100)).expect("monitors") {
            capture.follow(change).expect("follows");
        }
        all_pass("put back");

        flush_routes(&net);
        none_pass();
        let mut capture = take_over(capture);
        all_pass("taken over");

        for to in BESIDE {
            capture.allow_external(address(to), Duration::from_secs(60)).expect("allows");
        }
        sockets.iter().for_each(|socket| drop(socket.send(CANARY)));
        assert!(wire.carried(CANARY), "external ones are in plain");
        for to in BESIDE {
            capture.add_internal(address(to)).expect("adds");
        }
        all_pass("internal");
    });
}
