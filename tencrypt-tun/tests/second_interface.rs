//! Interfaces of the pod beside the tenant's: they carry nothing of the tenant's in plain, and all else as before.

mod support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use support::{
    eventually, isolated,
    net::{Net, Wire},
    plan,
};
use tencrypt_tun::{Capture, bind_to_interface};

const CANARY: &[u8] = b"the canary sings in plain";
/// Protected addresses that answer on the second interface's network, and others there.
const PROTECTED: [&str; 2] = ["10.128.200.1", "fd00:128:200::1"];
const OTHERS: [&str; 2] = ["10.200.0.1", "fd00:200::1"];

/// Sends the canary by a socket bound to net1.
fn say_bound(to: &str) -> std::io::Result<usize> {
    let to: IpAddr = to.parse().expect("address");
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("socket");
    bind_to_interface(&socket, "net1".parse().expect("name"))?;
    socket.send_to(CANARY, &SocketAddr::new(to, 7777).into())
}

/// Sends the canary by net1, again until a neighbour is found.
fn is_carried(wire: &Wire, to: &str) -> bool {
    (0..20).any(|_| {
        let _ = say_bound(to);
        wire.carried(CANARY)
    })
}

#[test]
fn a_socket_bound_to_a_second_interface_says_nothing_to_the_tenants_addresses_in_plain() {
    const NAME: &str = "a_socket_bound_to_a_second_interface_says_nothing_to_the_tenants_addresses_in_plain";
    isolated(NAME, || {
        let net = Net::new();
        let (_wire, second) = (net.pod(), net.second_wire());
        for to in PROTECTED.into_iter().chain(OTHERS) {
            assert!(is_carried(&second, to), "{to}: the probe is blind");
        }
        let mut capture = Capture::install(plan()).expect("installs");
        for to in PROTECTED {
            assert!(say_bound(to).is_err() && !is_carried(&second, to), "{to}");
        }
        assert!(capture.counters().expect("counts").leak >= 2);
        for to in OTHERS {
            assert!(is_carried(&second, to), "{to}: that network is not the tenant's");
        }
        // To everybody on that link.
        let group = "224.0.0.251";
        assert!(say_bound(group).is_ok() && second.carried(CANARY), "{group}");
    });
}

#[test]
fn plaintext_of_the_tenants_addresses_is_not_let_in_by_a_second_interface() {
    isolated("plaintext_of_the_tenants_addresses_is_not_let_in_by_a_second_interface", || {
        let net = Net::new();
        let (_wire, second) = (net.pod(), net.second_wire());
        let receivers = ["10.200.0.5:7778", "[fd00:200::5]:7778"].map(|address| {
            let socket = UdpSocket::bind(address).expect("binds");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
            socket
        });
        let heard = |from: &str| {
            let from: IpAddr = from.parse().expect("address");
            let receiver = &receivers[usize::from(from.is_ipv6())];
            let to = receiver.local_addr().expect("bound");
            second.on_node(|_| {
                let socket = UdpSocket::bind(SocketAddr::new(from, 0)).expect("binds");
                (0..3).for_each(|_| drop(socket.send_to(CANARY, to)));
            });
            let mut buffer = [0; 64];
            let heard = receiver.recv(&mut buffer).is_ok();
            while receiver.recv(&mut buffer).is_ok() {}
            heard
        };
        for from in PROTECTED.into_iter().chain(OTHERS) {
            assert!(heard(from), "{from}: not heard before");
        }
        let mut capture = Capture::install(plan()).expect("installs");
        for from in PROTECTED {
            assert!(!heard(from), "{from}");
        }
        for from in OTHERS {
            assert!(heard(from), "{from}");
        }
        assert!(capture.counters().expect("counts").plain_in >= 2);
    });
}

#[test]
fn what_waited_for_a_neighbour_at_a_second_interface_is_not_sent_when_it_answers() {
    isolated("what_waited_for_a_neighbour_at_a_second_interface_is_not_sent_when_it_answers", || {
        let net = Net::new();
        let (_wire, second) = (net.pod(), net.second_wire());
        let wait = |neighbours: [&str; 2]| assert!(neighbours.iter().all(|to| say_bound(to).is_ok()));
        let answer = |[v4, v6]: [&str; 2]| {
            second.on_node(|net| {
                net.address("eth0", &format!("{v4}/32"));
                net.quick_address("eth0", &format!("{v6}/128"));
            });
        };
        let controls = ["10.128.200.8", "fd00:128:200::8"];
        wait(controls);
        answer(controls);
        eventually("the probe sees what waited", || second.carried(CANARY));

        let neighbours = ["10.128.200.9", "fd00:128:200::9"];
        wait(neighbours);
        let _capture = Capture::install(plan()).expect("installs");
        answer(neighbours);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            assert!(!second.carried(CANARY));
        }
    });
}

#[test]
fn an_interface_that_comes_while_the_capture_stands_carries_nothing_of_the_tenants() {
    isolated("an_interface_that_comes_while_the_capture_stands_carries_nothing_of_the_tenants", || {
        let net = Net::new();
        let _wire = net.pod();
        let _capture = Capture::install(plan()).expect("installs");
        let second = net.second_wire();
        for to in OTHERS {
            assert!(is_carried(&second, to), "{to}: the probe is blind");
        }
        for to in PROTECTED {
            assert!(say_bound(to).is_err() && !is_carried(&second, to), "{to}");
        }
    });
}
