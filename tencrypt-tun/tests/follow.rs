//! A capture while the namespace changes under it.

mod support;

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use support::{
    eventually, isolated,
    net::{Net, set_sysctl, sysctl},
    plan,
    state::{assert_same, elements, routes_8362, snapshot},
};
use tencrypt_tun::{Capture, Change, Followed, Monitor};

/// Feeds the capture all changes until none has come for a while; returns what it made of them.
fn settle(monitor: &mut Monitor, capture: &mut Capture) -> Vec<Followed> {
    let mut followed = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(change) = monitor.wait(Duration::from_millis(150)).expect("monitors") {
        followed.push(capture.follow(change).expect("follows"));
        assert!(Instant::now() < deadline, "changes without end: {change:?}");
    }
    followed
}

/// A capture on a pod, with a monitor that is at rest.
fn captured(net: &Net) -> (support::net::Wire, Monitor, Capture) {
    let wire = net.pod();
    let mut monitor = Monitor::open().expect("subscribes");
    let mut capture = Capture::install(plan()).expect("installs");
    monitor.ignore(capture.ports());
    settle(&mut monitor, &mut capture);
    (wire, monitor, capture)
}

#[test]
fn a_capture_at_rest_causes_no_changes_of_its_own() {
    isolated("a_capture_at_rest_causes_no_changes_of_its_own", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let standing = snapshot(&net);
        capture.allow_external("10.128.7.7".parse().unwrap(), Duration::from_secs(60)).expect("allows");
        capture.deny_external("10.128.7.7".parse().unwrap()).expect("denies");
        assert_eq!(monitor.wait(Duration::from_millis(100)).expect("monitors"), None);
        assert_eq!(capture.follow(Change::Missed).expect("follows"), Followed::Unchanged);
        assert_eq!(monitor.wait(Duration::from_millis(100)).expect("monitors"), None);
        assert_same(&snapshot(&net), &standing);
    });
}

#[test]
fn a_device_that_is_set_down_comes_up_again_with_its_routes() {
    isolated("a_device_that_is_set_down_comes_up_again_with_its_routes", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let external: IpAddr = "10.128.7.7".parse().unwrap();
        capture.allow_external(external, Duration::from_secs(60)).expect("allows");
        let standing = routes_8362(&net);
        net.down("tenc0");
        let closed = routes_8362(&net);
        assert!(closed.iter().all(|line| !line.starts_with("unicast")), "{closed:?}");
        assert_eq!(closed.iter().filter(|line| line.starts_with("unreachable")).count(), 2);
        assert!(settle(&mut monitor, &mut capture).contains(&Followed::Changed));
        assert_eq!(routes_8362(&net), standing);
    });
}

#[test]
fn the_devices_size_is_put_back_with_its_ipv6_and_its_settings() {
    isolated("the_devices_size_is_put_back_with_its_ipv6_and_its_settings", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let standing = snapshot(&net);
        // Below 1,280 the kernel drops IPv6 from the device, settings and all.
        net.mtu("tenc0", 1000);
        settle(&mut monitor, &mut capture);
        assert_eq!(net.link_mtu("tenc0"), 1440);
        assert_eq!(sysctl("ipv6", "tenc0", "addr_gen_mode"), "1");
        assert_same(&snapshot(&net), &standing);
    });
}

#[test]
fn the_underlays_mtu_is_followed_down_to_where_ipv6_ends_and_back() {
    isolated("the_underlays_mtu_is_followed_down_to_where_ipv6_ends_and_back", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let routed =
            |mtu: u32| format!("unicast fd00:128::/32 dev tenc0 metric 1 mtu {mtu} src fd00:128:1::5");
        for (underlay, device, ipv6) in [
            (1450, 1390, Some(1370)),
            (1360, 1300, Some(1280)),
            (1350, 1290, None),
            (1300, 1240, None),
            (1500, 1440, Some(1420)),
        ] {
            net.mtu("eth0", underlay);
            assert!(settle(&mut monitor, &mut capture).contains(&Followed::Changed), "{underlay}");
            assert_eq!((capture.mtu().underlay(), capture.mtu().ipv6()), (underlay, ipv6));
            assert_eq!(net.link_mtu("tenc0"), device);
            assert_eq!(capture.ipv6(), ipv6.is_some());
            let routes = routes_8362(&net);
            let v6: Vec<_> = routes.iter().filter(|line| line.starts_with("unicast fd00")).collect();
            assert_eq!(v6, ipv6.map(routed).iter().collect::<Vec<_>>(), "{underlay}");
            assert!(routes.contains(&"unicast 10.128.0.0/16 dev tenc0 src 10.128.1.5".to_owned()));
            assert!(routes.contains(&"unreachable fd00:128::/32 metric 4278198272".to_owned()));
        }
        assert_eq!(sysctl("ipv6", "tenc0", "addr_gen_mode"), "1");
    });
}

#[test]
fn a_route_with_a_smaller_mtu_decides() {
    isolated("a_route_with_a_smaller_mtu_decides", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let mut route = rtnetlink::RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix("10.128.0.0".parse().unwrap(), 16)
            .and_then(|route| route.gateway("10.128.1.1".parse().unwrap()))
            .expect("route")
            .output_interface(net.index("eth0"));
        let mtu = netlink_packet_route::route::RouteMetric::Mtu(1400);
        route.get_mut().attributes.push(netlink_packet_route::route::RouteAttribute::Metrics(vec![mtu]));
        net.wait(net.handle.route().add(route.build()).execute());
        settle(&mut monitor, &mut capture);
        assert_eq!(capture.mtu().underlay(), 1400);
        assert_eq!(net.link_mtu("tenc0"), 1340);
    });
}

#[test]
fn a_new_address_becomes_the_source_and_a_lost_one_is_nobodys() {
    isolated("a_new_address_becomes_the_source_and_a_lost_one_is_nobodys", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let sources = |net: &Net| -> Vec<String> {
            let lines = routes_8362(net).into_iter().filter(|line| line.starts_with("unicast"));
            lines.map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(sources(&net), ["10.128.1.5", "fd00:128:1::5"]);
        net.remove_address("eth0", "10.128.1.5/24");
        net.remove_address("eth0", "fd00:128:1::5/64");
        settle(&mut monitor, &mut capture);
        assert_eq!(sources(&net), [""; 0], "{:?}", routes_8362(&net));
        assert_eq!(capture.addresses(), [] as [IpAddr; 0]);
        let unreachable = routes_8362(&net).iter().filter(|line| line.starts_with("unreachable")).count();
        assert_eq!(unreachable, 2);
        net.address("eth0", "10.128.1.6/24");
        net.quick_address("eth0", "fd00:128:1::6/64");
        settle(&mut monitor, &mut capture);
        assert_eq!(sources(&net), ["10.128.1.6", "fd00:128:1::6"]);
        assert_eq!(
            capture.addresses(),
            ["10.128.1.6".parse::<IpAddr>().unwrap(), "fd00:128:1::6".parse().unwrap()]
        );
    });
}

#[test]
fn a_tentative_address_is_used_when_its_detection_is_over() {
    isolated("a_tentative_address_is_used_when_its_detection_is_over", || {
        let net = Net::new();
        let _wire = net.wire();
        net.address("eth0", "10.128.1.5/24");
        set_sysctl("ipv6", "eth0", "accept_dad", "1");
        net.address("eth0", "fd00:128:1::5/64");
        let mut monitor = Monitor::open().expect("subscribes");
        let mut capture = Capture::install(plan()).expect("installs at once");
        assert!(!capture.ipv6());
        assert!(routes_8362(&net).contains(&"unreachable fd00:128::/32 metric 4278198272".to_owned()));
        let refused = UdpSocket::bind("[::]:0").expect("binds").send_to(b"x", "[fd00:128:7::7]:7");
        assert!(refused.is_err());
        eventually("IPv6 is captured", || {
            while let Some(change) = monitor.poll().expect("monitors") {
                capture.follow(change).expect("follows");
            }
            capture.ipv6()
        });
        let routes = routes_8362(&net);
        let expected = "unicast fd00:128::/32 dev tenc0 metric 1 mtu 1420 src fd00:128:1::5";
        assert!(routes.contains(&expected.to_owned()), "{routes:?}");
    });
}

#[test]
fn a_new_gateway_is_exempt_and_the_old_one_no_longer() {
    isolated("a_new_gateway_is_exempt_and_the_old_one_no_longer", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        let route = |gateway: [u8; 4]| {
            rtnetlink::RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix([0, 0, 0, 0].into(), 0)
                .and_then(|route| route.gateway(gateway.into()))
                .expect("route")
                .output_interface(net.index("eth0"))
                .build()
        };
        net.wait(net.handle.route().del(route([10, 128, 1, 1])).execute());
        net.wait(net.handle.route().add(route([10, 128, 1, 254])).execute());
        settle(&mut monitor, &mut capture);
        assert_eq!(elements("exempt4"), ["10.128.1.2-10.128.1.3", "10.128.1.254-10.128.1.255"]);
        let throws: Vec<_> =
            routes_8362(&net).into_iter().filter(|line| line.starts_with("throw 10.")).collect();
        assert_eq!(throws, ["throw 10.128.1.2/32", "throw 10.128.1.254/32"]);
    });
}

#[test]
fn a_pod_without_ipv6_is_captured_in_ipv4() {
    isolated("a_pod_without_ipv6_is_captured_in_ipv4", || {
        let net = Net::new();
        let _wire = net.wire();
        net.address("eth0", "10.128.1.5/24");
        for interface in ["all", "default"] {
            set_sysctl("ipv6", interface, "disable_ipv6", "1");
        }
        let before = snapshot(&net);
        let capture = Capture::install(plan()).expect("installs");
        assert!(!capture.ipv6());
        assert!(routes_8362(&net).contains(&"unicast 10.128.0.0/16 dev tenc0 src 10.128.1.5".to_owned()));
        capture.remove().expect("removes");
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn loss_of_the_interface_or_the_device_is_told() {
    isolated("loss_of_the_interface_or_the_device_is_told", || {
        let net = Net::new();
        let (_wire, mut monitor, mut capture) = captured(&net);
        net.delete("eth0");
        assert!(settle(&mut monitor, &mut capture).contains(&Followed::InterfaceGone));
        assert_eq!(routes_8362(&net).iter().filter(|line| line.starts_with("unreachable")).count(), 2);
        net.delete("tenc0");
        assert!(settle(&mut monitor, &mut capture).contains(&Followed::DeviceGone));
        Capture::clean(plan().interface, plan().tun).expect("cleans");
        assert_eq!(routes_8362(&net), [""; 0]);
    });
}
