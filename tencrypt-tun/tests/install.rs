//! Content of an installed capture; removing it leaves the namespace as it was.

mod support;

use std::{net::IpAddr, time::Duration};

use netlink_packet_route::AddressFamily;
use support::{
    isolated,
    net::{Net, set_sysctl, sysctl},
    plan, powerless_player, prefix, role,
    state::{assert_same, elements, nftables, routes_8362, rules_8362, snapshot},
};
use tencrypt_tun::{Capture, CaptureError, Occupied, Step};

#[test]
fn routes_rules_and_sets_of_both_families_are_installed() {
    isolated("routes_rules_and_sets_of_both_families_are_installed", || {
        let net = Net::new();
        let _wire = net.pod();
        let mut plan = plan();
        plan.external = vec![prefix("10.128.64.0/18"), prefix("fd00:128:64::/48")];
        plan.internal = vec![prefix("10.128.65.7/32")];
        plan.nameservers =
            vec!["10.128.9.10".parse().expect("address"), "198.51.100.53".parse().expect("address")];
        let capture = Capture::install(plan).expect("installs");

        assert_eq!(
            routes_8362(&net),
            [
                "throw 10.128.1.1/32",
                "throw 10.128.1.2/32",
                "throw 10.128.64.0/18",
                "throw fd00:128:1::1/128 metric 1024",
                "throw fd00:128:64::/48 metric 1024",
                "unicast 10.128.0.0/16 dev tenc0 src 10.128.1.5",
                "unicast 10.128.65.7/32 dev tenc0 src 10.128.1.5",
                "unicast 10.128.9.10/32 dev tenc0 src 10.128.1.5",
                "unicast 198.51.100.53/32 dev tenc0 src 10.128.1.5",
                "unicast fd00:128::/32 dev tenc0 metric 1 mtu 1420 src fd00:128:1::5",
                "unreachable 10.128.0.0/16 metric 4278198272",
                "unreachable 10.128.65.7/32 metric 4278198272",
                "unreachable 10.128.9.10/32 metric 4278198272",
                "unreachable 198.51.100.53/32 metric 4278198272",
                "unreachable fd00:128::/32 metric 4278198272",
            ]
        );
        assert_eq!(
            rules_8362(&net),
            [
                (AddressFamily::Inet, true, Some(0x8362), Some(8362)),
                (AddressFamily::Inet6, true, Some(0x8362), Some(8362)),
            ]
        );
        assert_eq!(elements("protected4"), ["10.128.0.0-10.129.0.0"]);
        assert_eq!(elements("protected6"), ["fd00:128::-fd00:129::"]);
        assert_eq!(elements("exempt4"), ["10.128.1.1-10.128.1.3"]);
        assert_eq!(elements("exempt6"), ["fd00:128:1::1-fd00:128:1::2"]);
        assert_eq!(elements("external4"), ["10.128.64.0-10.128.65.7", "10.128.65.8-10.128.128.0"]);
        assert_eq!(elements("external6"), ["fd00:128:64::-fd00:128:65::"]);
        assert_eq!(elements("internal4"), ["10.128.65.7-10.128.65.8"]);
        assert_eq!(elements("internal6"), [""; 0]);

        assert_eq!(net.link_mtu("tenc0"), 1440);
        assert_eq!((capture.mtu().device(), capture.mtu().ipv6()), (1440, Some(1420)));
        assert!(capture.ipv6());
        assert_eq!(
            capture.addresses(),
            ["10.128.1.5".parse::<IpAddr>().unwrap(), "fd00:128:1::5".parse().unwrap()]
        );
        assert_eq!(
            capture.gateways(),
            ["10.128.1.1".parse::<IpAddr>().unwrap(), "fd00:128:1::1".parse().unwrap()]
        );
        assert_eq!(capture.subnets(), [prefix("10.128.1.0/24"), prefix("fd00:128:1::/64")]);
    });
}

#[test]
fn the_device_is_silent_and_believes_nobody() {
    isolated("the_device_is_silent_and_believes_nobody", || {
        let net = Net::new();
        let _wire = net.pod();
        let _capture = Capture::install(plan()).expect("installs");
        assert_eq!(sysctl("ipv4", "tenc0", "rp_filter"), "0");
        assert_eq!(sysctl("ipv6", "tenc0", "addr_gen_mode"), "1");
        for key in ["accept_ra", "accept_redirects", "autoconf"] {
            assert_eq!(sysctl("ipv6", "tenc0", key), "0", "{key}");
        }
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(net.sent("tenc0"), 0, "no router solicitation, no multicast report");
        let index = net.index("tenc0");
        let addresses: Vec<String> = snapshot(&net)
            .into_iter()
            .filter(|line| line.starts_with("address") && line.contains(&format!("index: {index}")))
            .collect();
        assert_eq!(addresses.len(), 2, "copies of the interface's: {addresses:?}");
        assert!(!addresses.iter().any(|line| line.contains("scope: Link")), "no link-local address");
    });
}

#[test]
fn removing_leaves_the_namespace_as_it_was() {
    isolated("removing_leaves_the_namespace_as_it_was", || {
        let net = Net::new();
        let _wire = net.pod();
        set_sysctl("ipv4", "eth0", "rp_filter", "1");
        let before = snapshot(&net);
        let mut capture = Capture::install(plan()).expect("installs");
        capture.allow_external("10.128.7.7".parse().unwrap(), Duration::from_secs(60)).expect("allows");
        capture.allow_external("fd00:128:7::7".parse().unwrap(), Duration::from_secs(60)).expect("allows");
        capture.add_internal("10.128.7.8".parse().unwrap()).expect("adds");
        assert_ne!(snapshot(&net), before);
        capture.remove().expect("removes");
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn down_works_without_the_installing_process_and_twice() {
    isolated("down_works_without_the_installing_process_and_twice", || {
        let net = Net::new();
        let _wire = net.pod();
        set_sysctl("ipv4", "eth0", "rp_filter", "1");
        let before = snapshot(&net);
        let plan = plan();
        drop(Capture::install(plan.clone()).expect("installs"));
        let cleaned = Capture::clean(plan.interface, plan.tun).expect("cleans");
        assert_eq!((cleaned.rules, cleaned.device, cleaned.table), (2, false, true));
        assert!(cleaned.routes > 0);
        assert_same(&snapshot(&net), &before);
        assert!(Capture::clean(plan.interface, plan.tun).expect("cleans again").is_empty());
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn down_takes_the_device_from_a_running_process() {
    isolated("down_takes_the_device_from_a_running_process", || {
        let net = Net::new();
        let _wire = net.pod();
        let before = snapshot(&net);
        let capture = Capture::install(plan()).expect("installs");
        let cleaned = Capture::clean(plan().interface, plan().tun).expect("cleans");
        assert!(cleaned.device);
        assert_same(&snapshot(&net), &before);
        let mut buf = [0; 2048];
        assert_eq!(capture.device().read(&mut buf).expect("reads"), tencrypt_tun::Received::Gone);
        let mut capture = capture;
        let followed = capture.follow(tencrypt_tun::Change::Missed).expect("follows");
        assert_eq!(followed, tencrypt_tun::Followed::DeviceGone);
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn without_enforcement_there_are_no_chains_and_down_still_restores() {
    isolated("without_enforcement_there_are_no_chains_and_down_still_restores", || {
        let net = Net::new();
        let _wire = net.pod();
        set_sysctl("ipv4", "eth0", "rp_filter", "1");
        let before = snapshot(&net);
        let mut plan = plan();
        plan.enforce = false;
        let mut capture = Capture::install(plan).expect("installs");
        assert_eq!(nftables().len(), 1, "the table alone: {:?}", nftables());
        assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), "2");
        capture.allow_external("10.128.7.7".parse().unwrap(), Duration::from_secs(60)).expect("allows");
        assert_eq!(capture.counters().expect("counts").leak, 0);
        capture.remove().expect("removes");
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn strict_reverse_path_filtering_is_relaxed_only_where_it_is_in_effect() {
    isolated("strict_reverse_path_filtering_is_relaxed_only_where_it_is_in_effect", || {
        let net = Net::new();
        let _wire = net.pod();
        for (all, own, during) in
            [("0", "0", "0"), ("0", "1", "2"), ("0", "2", "2"), ("1", "0", "2"), ("2", "1", "1")]
        {
            set_sysctl("ipv4", "all", "rp_filter", all);
            set_sysctl("ipv4", "eth0", "rp_filter", own);
            let capture = Capture::install(plan()).expect("installs");
            assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), during, "all {all}, eth0 {own}");
            capture.remove().expect("removes");
            assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), own, "all {all}, eth0 {own}");
        }
        // What somebody else changed meanwhile is theirs.
        set_sysctl("ipv4", "all", "rp_filter", "0");
        set_sysctl("ipv4", "eth0", "rp_filter", "1");
        let capture = Capture::install(plan()).expect("installs");
        set_sysctl("ipv4", "eth0", "rp_filter", "0");
        capture.remove().expect("removes");
        assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), "0");
    });
}

#[test]
fn an_absent_interface_is_named_and_nothing_is_left() {
    isolated("an_absent_interface_is_named_and_nothing_is_left", || {
        let net = Net::new();
        let before = snapshot(&net);
        let error = Capture::install(plan()).expect_err("no eth0");
        assert!(matches!(error, CaptureError::InterfaceAbsent { interface } if interface.as_str() == "eth0"));
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn a_device_name_in_use_is_named_and_nothing_is_left() {
    isolated("a_device_name_in_use_is_named_and_nothing_is_left", || {
        let net = Net::new();
        let _wire = net.pod();
        net.bridge("tenc0");
        let before = snapshot(&net);
        let error = Capture::install(plan()).expect_err("tenc0 is taken");
        assert!(matches!(error, CaptureError::TunNameTaken { tun } if tun.as_str() == "tenc0"), "{error:?}");
        assert_same(&snapshot(&net), &before);
        assert!(Capture::clean(plan().interface, plan().tun).expect("cleans").is_empty());
        assert!(net.link("tenc0").is_some(), "down leaves a device of another kind alone");
    });
}

#[test]
fn a_second_capture_is_refused_and_the_first_stands() {
    isolated("a_second_capture_is_refused_and_the_first_stands", || {
        let net = Net::new();
        let _wire = net.pod();
        let _first = Capture::install(plan()).expect("installs");
        let standing = snapshot(&net);
        let error = Capture::install(plan()).expect_err("one is running");
        assert!(matches!(error, CaptureError::TunNameTaken { .. }), "{error:?}");
        assert_same(&snapshot(&net), &standing);
    });
}

#[test]
fn foreign_rules_routes_and_tables_are_not_touched() {
    isolated("foreign_rules_routes_and_tables_are_not_touched", || {
        let net = Net::new();
        let _wire = net.pod();
        let mut foreign = net.handle.rule().add().v4().priority(8362).table_id(77);
        foreign.message_mut().header.action = netlink_packet_route::rule::RuleAction::ToTable;
        let rule = foreign.message_mut().clone();
        net.wait(foreign.execute());
        let before = snapshot(&net);
        let error = Capture::install(plan()).expect_err("the preference is taken");
        assert!(matches!(error, CaptureError::Occupied(Occupied::Rule)), "{error:?}");
        assert!(Capture::clean(plan().interface, plan().tun).expect("cleans").is_empty());
        assert_same(&snapshot(&net), &before);
        net.wait(net.handle.rule().del(rule).execute());

        let route = rtnetlink::RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix("10.77.0.0".parse().unwrap(), 16)
            .expect("route")
            .output_interface(net.index("eth0"))
            .table_id(8362)
            .build();
        net.wait(net.handle.route().add(route).execute());
        let before = snapshot(&net);
        let error = Capture::install(plan()).expect_err("the table is taken");
        assert!(matches!(error, CaptureError::Occupied(Occupied::RoutingTable)), "{error:?}");
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn lack_of_permission_is_named_and_nothing_is_left() {
    const TEST: &str = "lack_of_permission_is_named_and_nothing_is_left";
    isolated(TEST, || {
        if role() == "powerless" {
            let error = Capture::install(plan()).expect_err("no CAP_NET_ADMIN");
            assert!(matches!(error, CaptureError::Permission { step: Step::CreateDevice, .. }), "{error:?}");
            return;
        }
        let net = Net::new();
        let _wire = net.pod();
        let before = snapshot(&net);
        let output = powerless_player(TEST, "powerless");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_same(&snapshot(&net), &before);
    });
}
