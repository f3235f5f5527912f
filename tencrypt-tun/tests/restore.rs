//! Changes that somebody else makes to a capture are undone, told, and left closed where that does not help.
//!
//! `TENCRYPT_RESTORE_TIMES=50 cargo test -p tencrypt-tun --test restore -- --nocapture` prints the time from change to
//! repair of each kind: the median and the worst of 50.

mod support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    SetElementAttribute, SetElementList, SetElementMessage, TableAttribute, TableMessage,
};
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteMessage},
    rule::{RuleAction, RuleAttribute as RoutingAttribute},
};
use rtnetlink::{IpVersion, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use support::{
    eventually, isolated,
    net::{Net, Wire, set_sysctl, sysctl},
    plan,
    state::{elements, nft_batch_with, routes_8362, rules_8362, snapshot},
};
use tencrypt_tun::{
    Capture, CaptureError, CapturePlan, Followed, Monitor, Part, PartState, Step, bind_to_interface,
};

const CANARY: &[u8] = b"the canary sings in plain";
const SECOND: Duration = Duration::from_secs(1);

/// A captured pod whose monitor is at rest.
struct Captured {
    net: Net,
    wire: Wire,
    monitor: Monitor,
    capture: Capture,
}

impl Captured {
    fn new() -> Self {
        let net = Net::new();
        let wire = net.pod();
        set_sysctl("ipv4", "eth0", "rp_filter", "1");
        let mut monitor = Monitor::open().expect("subscribes");
        let capture = Capture::install(plan()).expect("installs");
        monitor.ignore(capture.ports());
        let mut captured = Self { net, wire, monitor, capture };
        captured.settle(Duration::from_millis(100));
        captured
    }

    /// Feeds the capture all changes until none has come for `rest`.
    fn settle(&mut self, rest: Duration) -> Vec<Followed> {
        let (mut followed, end) = (Vec::new(), Instant::now() + 5 * SECOND);
        while let Some(change) = self.monitor.wait(rest).expect("monitors") {
            followed.push(self.capture.follow(change).expect("follows"));
            assert!(Instant::now() < end, "changes without end: {change:?}");
        }
        followed
    }

    /// Feeds the capture changes until `is_right`; returns the time that it took.
    fn follow_until(&mut self, is_right: impl Fn(&Net, &Capture) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            if let Some(change) = self.monitor.wait(Duration::from_millis(5)).expect("monitors") {
                self.capture.follow(change).expect("follows");
            }
            if is_right(&self.net, &self.capture) {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < SECOND,
                "not put back: {:#?}\n{:#?}",
                self.capture.parts(),
                snapshot(&self.net)
            );
        }
    }

    fn part(&self, part: Part) -> PartState {
        self.capture.parts().into_iter().find(|state| state.part == part).expect("there")
    }
}

/// The namespace as far as a capture makes it, without the numbers that the kernel gives things.
fn installed(net: &Net) -> Vec<String> {
    let numbers = ["Handle(", "Position(", "Use("];
    let mut lines = snapshot(net);
    for line in &mut lines {
        for number in numbers {
            while let Some(start) = line.find(number) {
                let end = line[start..].find(')').map_or(line.len(), |end| start + end + 1);
                line.replace_range(start..end, "");
            }
        }
    }
    lines.sort();
    lines
}

fn is_ours(route: &RouteMessage) -> bool {
    route.attributes.contains(&RouteAttribute::Table(8362))
}

fn flush_routes(net: &Net, family: AddressFamily) {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let all = net.wait(net.handle.route().get(query).execute().try_collect::<Vec<_>>());
    for route in all.into_iter().filter(is_ours) {
        net.wait(net.handle.route().del(route).execute());
    }
}

fn delete_rule(net: &Net, version: IpVersion) {
    let rules = net.wait(net.handle.rule().get(version).execute().try_collect::<Vec<_>>());
    for rule in rules {
        if rule.attributes.contains(&RoutingAttribute::Table(8362)) {
            net.wait(net.handle.rule().del(rule).execute());
        }
    }
}

/// A route of somebody else's in the capture's table, by the gateway.
fn foreign_route(net: &Net, to: &str, gateway: &str) {
    let (to, gateway): (IpAddr, IpAddr) = (to.parse().unwrap(), gateway.parse().unwrap());
    let length = if to.is_ipv4() { 32 } else { 128 };
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to, length)
        .and_then(|route| route.gateway(gateway))
        .expect("route")
        .output_interface(net.index("eth0"))
        .table_id(8362)
        .build();
    net.wait(net.handle.route().add(route).execute());
}

fn delete_table() {
    let table = TableMessage { attributes: vec![TableAttribute::Name("tencrypt".into())] };
    nft_batch_with(vec![(NfTablesMessage::DeleteTable(table), 0)]);
}

/// Deletes the rules of a chain.
fn flush_chain(chain: &str) {
    let attributes = vec![RuleAttribute::Table("tencrypt".into()), RuleAttribute::Chain(chain.into())];
    nft_batch_with(vec![(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0)]);
}

fn add_chain(name: &str) {
    let attributes = vec![ChainAttribute::Table("tencrypt".into()), ChainAttribute::Name(name.into())];
    nft_batch_with(vec![(NfTablesMessage::NewChain(ChainMessage { attributes }), 0x400)]);
}

fn edit_set(set: &str, address: Option<&str>) {
    let key = address.map(|address| match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    let mut attributes = vec![SetElementList::Table("tencrypt".into()), SetElementList::Set(set.into())];
    attributes.extend(key.clone().map(|key| {
        let key = SetElementAttribute::Key(DataAttribute::Value(key));
        SetElementList::Elements(vec![ListAttribute::Element(vec![key])])
    }));
    let message = SetElementMessage { attributes };
    let message = match key {
        // A range from there to the last address.
        Some(_) => (NfTablesMessage::NewSetElement(message), 0x400),
        // All of it.
        None => (NfTablesMessage::DeleteSetElement(message), 0),
    };
    nft_batch_with(vec![message]);
}

fn change_link(
    net: &Net,
    change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) {
    let link = change(LinkUnspec::new_with_index(net.index("tenc0")));
    net.wait(net.handle.link().set(link.build()).execute());
}

type Act = fn(&Net);

/// Kinds of change, and the part that has to be put back.
const KINDS: &[(&str, Part, Act)] = &[
    ("rule deleted, IPv4", Part::Rules, |net| delete_rule(net, IpVersion::V4)),
    ("rule deleted, IPv6", Part::Rules, |net| delete_rule(net, IpVersion::V6)),
    ("rules deleted, both", Part::Rules, |net| {
        delete_rule(net, IpVersion::V4);
        delete_rule(net, IpVersion::V6);
    }),
    ("table 8362 flushed, IPv4", Part::Routes, |net| flush_routes(net, AddressFamily::Inet)),
    ("table 8362 flushed, IPv6", Part::Routes, |net| flush_routes(net, AddressFamily::Inet6)),
    ("route added to table 8362, IPv4", Part::Routes, |net| foreign_route(net, "10.128.7.7", "10.128.1.1")),
    ("route added to table 8362, IPv6", Part::Routes, |net| {
        foreign_route(net, "fd00:128:7::7", "fd00:128:1::1");
    }),
    ("nft table deleted", Part::Chains, |_| delete_table()),
    ("chain out emptied", Part::Chains, |_| flush_chain("out")),
    ("chain in emptied", Part::Chains, |_| flush_chain("in")),
    ("chain added to the table", Part::Chains, |_| add_chain("more")),
    ("set protected4 emptied", Part::Chains, |_| edit_set("protected4", None)),
    ("set protected6 emptied", Part::Chains, |_| edit_set("protected6", None)),
    ("set external4 widened", Part::Chains, |_| edit_set("external4", Some("10.128.7.0"))),
    ("set exempt6 widened", Part::Chains, |_| edit_set("exempt6", Some("fd00:128:7::"))),
    ("device down", Part::Device, |net| net.down("tenc0")),
    ("device's MTU", Part::Device, |net| net.mtu("tenc0", 1500)),
    ("device's MTU below IPv6's", Part::Device, |net| net.mtu("tenc0", 1000)),
    ("device's queue", Part::Device, |net| change_link(net, |link| link.txqueuelen(7))),
    ("device's name", Part::Device, |net| change_link(net, |link| link.down().name("other0".to_owned()))),
    ("copy of an address removed, IPv4", Part::Device, |net| net.remove_address("tenc0", "10.128.1.5/32")),
    ("copy of an address removed, IPv6", Part::Device, |net| {
        net.remove_address("tenc0", "fd00:128:1::5/128")
    }),
    ("address added to the device", Part::Device, |net| net.address("tenc0", "10.128.99.1/32")),
    ("rp_filter of the device", Part::Device, |_| set_sysctl("ipv4", "tenc0", "rp_filter", "1")),
    ("rp_filter of the interface", Part::ReversePathFilter, |_| set_sysctl("ipv4", "eth0", "rp_filter", "1")),
];

#[test]
fn each_change_is_put_back_within_a_second_and_told() {
    isolated("each_change_is_put_back_within_a_second_and_told", || {
        let times = std::env::var("TENCRYPT_RESTORE_TIMES").ok().and_then(|times| times.parse().ok());
        let times: u32 = times.unwrap_or(1);
        for (name, part, act) in KINDS {
            let mut durations: Vec<Duration> = (0..times).map(|_| put_back(name, *part, *act)).collect();
            durations.sort_unstable();
            let (median, worst) = (durations[durations.len() / 2], durations[durations.len() - 1]);
            println!("{name}: median {:.1} ms, worst {:.1} ms of {times}", ms(median), ms(worst));
        }
    });
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Makes one change in a new capture; returns the time until all is as before.
fn put_back(name: &str, part: Part, act: Act) -> Duration {
    let mut captured = Captured::new();
    let external: IpAddr = "10.128.9.9".parse().unwrap();
    captured.capture.allow_external(external, 60 * SECOND).expect("allows");
    captured.capture.add_internal("10.128.9.10".parse().unwrap()).expect("adds");
    captured.settle(Duration::from_millis(20));
    let standing = installed(&captured.net);
    let sets = ["protected4", "protected6", "exempt4", "exempt6", "external4", "internal4"].map(elements);
    act(&captured.net);
    let restored =
        |capture: &Capture| capture.parts().iter().any(|state| state.part == part && state.restored > 0);
    let duration = captured.follow_until(|net, capture| {
        restored(capture)
            && installed(net) == standing
            && ["protected4", "protected6", "exempt4", "exempt6", "external4", "internal4"].map(elements)
                == sets
    });
    captured.settle(Duration::from_millis(20));
    let state = captured.part(part);
    assert!(state.restored >= 1 && state.last.is_some() && state.problem.is_none(), "{name}: {state:?}");
    assert!(!captured.capture.is_closed());
    let others =
        captured.capture.parts().into_iter().filter(|other| other.part != part && other.restored > 0);
    assert_eq!(others.map(|other| other.part).filter(|other| *other != Part::Routes).collect::<Vec<_>>(), []);
    captured.capture.remove().expect("removes");
    captured.net.delete("eth0");
    duration
}

/// Sends the canary from a socket bound to eth0, which ignores the routes. The chains alone stop it.
fn say_bound(to: &str) -> bool {
    let to: IpAddr = to.parse().unwrap();
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("binds");
    bind_to_interface(&socket, plan().interface).expect("binds to eth0");
    socket.send_to(CANARY, SocketAddr::new(to, 7777)).is_ok()
}

const BOUND: [&str; 2] = ["10.128.1.1", "fd00:128:1::1"];

#[test]
fn a_table_that_comes_back_stops_what_it_stopped_before() {
    isolated("a_table_that_comes_back_stops_what_it_stopped_before", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        plan.exempt.clear();
        for to in BOUND {
            assert!(say_bound(to) && wire.carried(CANARY), "{to}: the probe is blind");
        }
        // The gateways are exempt, so addresses beside them.
        let mut monitor = Monitor::open().expect("subscribes");
        let mut capture = Capture::install(plan).expect("installs");
        monitor.ignore(capture.ports());
        let beside = ["10.128.1.9", "fd00:128:1::9"];
        let is_stopped = |wire: &Wire| beside.iter().all(|to| !say_bound(to) && !wire.carried(CANARY));
        assert!(is_stopped(&wire));
        let counted = capture.counters().expect("counts").leak;
        assert!(counted >= 2, "{counted}");
        for act in [delete_table as fn(), || flush_chain("out"), || edit_set("protected4", None)] {
            act();
            while let Some(change) = monitor.wait(Duration::from_millis(50)).expect("monitors") {
                capture.follow(change).expect("follows");
            }
            assert!(is_stopped(&wire));
        }
        let now = capture.counters().expect("counts").leak;
        assert!(now >= counted + 4, "{now} after {counted}: what was counted is not lost");
    });
}

/// A capture that fails on its way: no kernel takes a queue of so many packets.
fn failing() -> CapturePlan {
    let mut failing = plan();
    failing.queue_len = u32::MAX;
    failing
}

#[test]
fn a_take_over_that_fails_leaves_the_namespace_closed() {
    isolated("a_take_over_that_fails_leaves_the_namespace_closed", || {
        let net = Net::new();
        let wire = net.pod();
        let before = snapshot(&net);
        let error = Capture::install(failing()).expect_err("too long a queue");
        let (CaptureError::Failed { step, .. } | CaptureError::Permission { step, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(step, Step::ConfigureDevice);
        assert_eq!(snapshot(&net), before, "the first one's failure leaves nothing");

        drop(Capture::install(plan()).expect("installs"));
        let closed = |net: &Net| {
            assert!(routes_8362(net).iter().any(|line| line.starts_with("unreachable 10.128.0.0/16")));
            assert!(!say_bound("10.128.1.9") && !wire.carried(CANARY), "a bound socket");
        };
        closed(&net);
        Capture::install(failing()).expect_err("too long a queue");
        closed(&net);
        assert_eq!(rules_8362(&net).len(), 2);
        assert!(!wire.carried(CANARY));
    });
}

#[test]
fn what_stops_plaintext_is_installed_before_what_leads_packets_anywhere() {
    isolated("what_stops_plaintext_is_installed_before_what_leads_packets_anywhere", || {
        let net = Net::new();
        let wire = net.pod();
        drop(Capture::install(plan()).expect("installs"));
        // What is left of it is the table alone, and that stops nothing. A take-over is not undone where it fails, and so
        // shows how far it came: not to the device.
        for version in [IpVersion::V4, IpVersion::V6] {
            delete_rule(&net, version);
        }
        flush_routes(&net, AddressFamily::Inet);
        flush_routes(&net, AddressFamily::Inet6);
        flush_chain("out");
        assert!(say_bound("10.128.1.1") && wire.carried(CANARY), "the probe is blind");
        Capture::install(failing()).expect_err("too long a queue");
        assert!(!say_bound("10.128.1.9") && !wire.carried(CANARY), "chains come first");
        let routes = routes_8362(&net);
        for protected in ["unreachable 10.128.0.0/16", "unreachable fd00:128::/32"] {
            assert!(routes.iter().any(|line| line.starts_with(protected)), "{routes:?}");
        }
        assert_eq!(rules_8362(&net), [], "the rule comes last");
    });
}

/// A rule of somebody else's that leads everything into the main table.
fn foreign_rule(net: &Net, v4: bool, preference: u32) {
    let add = net.handle.rule().add().priority(preference).table_id(254).action(RuleAction::ToTable);
    if v4 { net.wait(add.v4().execute()) } else { net.wait(add.v6().execute()) }
}

/// Preferences of the rules of a family that look into these tables.
fn preferences(net: &Net, version: IpVersion, table: u32) -> Vec<u32> {
    let rules = net.wait(net.handle.rule().get(version).execute().try_collect::<Vec<_>>());
    let of_table = rules.into_iter().filter(|rule| {
        rule.attributes.contains(&RoutingAttribute::Table(table)) || u32::from(rule.header.table) == table
    });
    let preference = |attribute: &RoutingAttribute| match attribute {
        RoutingAttribute::Priority(priority) => Some(*priority),
        _ => None,
    };
    of_table.map(|rule| rule.attributes.iter().find_map(preference).unwrap_or_default()).collect()
}

#[test]
fn a_rule_that_comes_before_ours_comes_after_it() {
    isolated("a_rule_that_comes_before_ours_comes_after_it", || {
        let mut captured = Captured::new();
        for (v4, version) in [(true, IpVersion::V4), (false, IpVersion::V6)] {
            for (foreign, own) in [(8361, 8360), (100, 99), (8362, 99)] {
                foreign_rule(&captured.net, v4, foreign);
                captured.follow_until(|net, _| {
                    preferences(net, if v4 { IpVersion::V4 } else { IpVersion::V6 }, 8362) == [own]
                });
            }
            assert_eq!(preferences(&captured.net, version, 254), [100, 8361, 8362, 32_766]);
        }
        assert_eq!(captured.part(Part::Rules).problem, None);
        assert_eq!(captured.capture.look().expect("looks"), Followed::Unchanged);
        let routes = routes_8362(&captured.net);
        assert!(routes.iter().any(|line| line.starts_with("unicast 10.128.0.0/16 dev tenc0")), "{routes:?}");
        captured.capture.remove().expect("removes");
        assert_eq!(rules_8362(&Net::new()).len(), 2, "somebody's stay");
    });
}

#[test]
fn a_rule_that_cannot_be_preceded_closes_the_pod_until_it_is_gone() {
    isolated("a_rule_that_cannot_be_preceded_closes_the_pod_until_it_is_gone", || {
        let mut captured = Captured::new();
        foreign_rule(&captured.net, true, 0);
        captured.settle(Duration::from_millis(50));
        assert!(captured.capture.is_closed());
        let problem = captured.part(Part::Rules).problem.expect("told");
        assert!(problem.contains("8362"), "{problem}");
        let routes = routes_8362(&captured.net);
        assert!(routes.iter().all(|line| !line.contains("tenc0")), "{routes:?}");
        let rules = captured
            .net
            .wait(captured.net.handle.rule().get(IpVersion::V4).execute().try_collect::<Vec<_>>());
        let is_foreign = |rule: &&netlink_packet_route::rule::RuleMessage| {
            rule.header.table == 254
                && !rule.attributes.iter().any(|attribute| matches!(attribute, RoutingAttribute::Priority(_)))
        };
        let foreign = rules.iter().find(is_foreign).expect("there").clone();
        captured.net.wait(captured.net.handle.rule().del(foreign).execute());
        let end = Instant::now() + 5 * SECOND;
        while captured.capture.is_closed() {
            captured.settle(Duration::from_millis(20));
            captured.capture.look().expect("looks");
            assert!(Instant::now() < end, "{:?}", captured.capture.parts());
        }
        let routes = routes_8362(&captured.net);
        assert!(routes.iter().any(|line| line.contains("tenc0")), "{routes:?}");
    });
}

#[test]
fn who_changes_it_all_the_time_finds_the_pod_closed_and_not_a_busy_loop() {
    const FIGHTS: [(Part, Act); 4] = [
        (Part::Chains, |_| delete_table()),
        (Part::Rules, |net| delete_rule(net, IpVersion::V6)),
        (Part::Device, |net| net.down("tenc0")),
        (Part::ReversePathFilter, |_| set_sysctl("ipv4", "eth0", "rp_filter", "1")),
    ];
    isolated("who_changes_it_all_the_time_finds_the_pod_closed_and_not_a_busy_loop", || {
        for (part, act) in FIGHTS {
            let mut captured = Captured::new();
            for round in 0..200 {
                act(&captured.net);
                captured.settle(Duration::from_millis(2));
                if captured.capture.is_closed() {
                    assert!(round > 10, "{part:?}, {round}: too early");
                    break;
                }
            }
            let state = captured.part(part);
            assert!(captured.capture.is_closed(), "{state:?}");
            assert!(state.problem.is_some_and(|problem| problem.contains("all the time")));
            let restored = state.restored;
            for _ in 0..50 {
                captured.capture.look().expect("looks");
                captured.settle(Duration::from_millis(2));
            }
            assert_eq!(captured.part(part).restored, restored, "{part:?} is left alone");
            assert!(routes_8362(&captured.net).iter().all(|line| !line.contains("tenc0")), "{part:?}");
            captured.capture.remove().expect("removes");
            captured.net.delete("eth0");
        }
    });
}

/// Somebody starts the network anew: everything of the capture goes, but its device.
#[test]
fn what_is_changed_all_at_once_is_put_back_all_at_once() {
    isolated("what_is_changed_all_at_once_is_put_back_all_at_once", || {
        for is_down in [false, true] {
            let mut captured = Captured::new();
            let standing = installed(&captured.net);
            [IpVersion::V4, IpVersion::V6]
                .into_iter()
                .for_each(|version| delete_rule(&captured.net, version));
            delete_table();
            flush_routes(&captured.net, AddressFamily::Inet);
            flush_routes(&captured.net, AddressFamily::Inet6);
            set_sysctl("ipv4", "eth0", "rp_filter", "1");
            if is_down {
                captured.net.down("tenc0");
            }
            captured.follow_until(|net, _| installed(net) == standing);
            captured.settle(Duration::from_millis(20));
            assert!(!captured.capture.is_closed(), "{:?}", captured.capture.parts());
            assert!(!say_bound("10.128.1.9") && !captured.wire.carried(CANARY));
            captured.capture.remove().expect("removes");
            captured.net.delete("eth0");
        }
    });
}

#[test]
fn an_interface_with_another_name_is_closed_under_that_name() {
    isolated("an_interface_with_another_name_is_closed_under_that_name", || {
        let mut captured = Captured::new();
        let index = captured.net.index("eth0");
        let rename = |net: &Net, to: &str| {
            let change = LinkUnspec::new_with_index(index).down().name(to.to_owned()).build();
            net.wait(net.handle.link().set(change).execute());
            let up = LinkUnspec::new_with_index(index).up().build();
            net.wait(net.handle.link().set(up).execute());
        };
        for name in ["uplink0", "eth0"] {
            rename(&captured.net, name);
            captured.settle(Duration::from_millis(50));
            for (any, to) in [("0.0.0.0:0", "10.128.1.9:7777"), ("[::]:0", "[fd00:128:1::9]:7777")] {
                let socket = UdpSocket::bind(any).expect("binds");
                bind_to_interface(&socket, name.parse().expect("name")).expect("binds");
                let sent = socket.send_to(CANARY, to).is_ok();
                assert!(!sent && !captured.wire.carried(CANARY), "{name}, {to}");
            }
        }
        assert!(!captured.capture.is_closed());
    });
}

#[test]
fn a_new_interface_of_the_same_name_has_its_own_rp_filter_relaxed_and_restored() {
    isolated("a_new_interface_of_the_same_name_has_its_own_rp_filter_relaxed_and_restored", || {
        let mut captured = Captured::new();
        captured.net.delete("eth0");
        captured.settle(Duration::from_millis(50));
        set_sysctl("ipv4", "default", "rp_filter", "1");
        let _wire = captured.net.pod();
        captured.net.mtu("eth0", 1400);
        captured.settle(Duration::from_millis(50));
        assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), "2");
        assert_eq!(captured.net.link_mtu("tenc0"), 1340, "of the new one");
        let routes = routes_8362(&captured.net);
        assert!(routes.iter().any(|line| line.starts_with("unicast 10.128.0.0/16 dev tenc0")), "{routes:?}");
        assert_eq!(captured.capture.addresses().len(), 2);
        captured.capture.remove().expect("removes");
        assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), "1");
    });
}

#[test]
fn settings_of_the_device_that_the_kernel_does_not_tell_of_are_put_back_by_the_next_look() {
    isolated("settings_of_the_device_that_the_kernel_does_not_tell_of_are_put_back_by_the_next_look", || {
        let mut captured = Captured::new();
        assert_eq!(captured.capture.look().expect("looks"), Followed::Unchanged);
        let changes = [
            ("addr_gen_mode", "0"),
            ("accept_ra", "2"),
            ("accept_redirects", "1"),
            ("autoconf", "1"),
            ("router_solicitations", "-1"),
        ];
        for (key, changed) in changes {
            let before = sysctl("ipv6", "tenc0", key);
            // Twice: it is watched on after it was put back.
            for _ in 0..2 {
                set_sysctl("ipv6", "tenc0", key, changed);
                captured.capture.look().expect("looks");
                assert_eq!(sysctl("ipv6", "tenc0", key), before, "{key}");
                let found = captured.part(Part::Device).found.expect("told");
                assert!(found.contains(key), "{key}: {found}");
            }
            captured.settle(Duration::from_millis(20));
        }
        assert_eq!(captured.part(Part::Device).restored, 2 * changes.len() as u64);
        assert_eq!(captured.capture.look().expect("looks"), Followed::Unchanged);
    });
}

#[test]
fn strict_filtering_set_everywhere_at_once_is_made_loose_for_the_interface_alone() {
    isolated("strict_filtering_set_everywhere_at_once_is_made_loose_for_the_interface_alone", || {
        let mut captured = Captured::new();
        for name in ["all", "default", "eth0", "tenc0"] {
            set_sysctl("ipv4", name, "rp_filter", "1");
        }
        captured.follow_until(|_, _| {
            ["eth0", "tenc0"].map(|name| sysctl("ipv4", name, "rp_filter")) == ["2", "0"]
        });
        captured.settle(Duration::from_millis(20));
        // The larger one is in effect: loose at the interface. At the device even strict lets in what its routes lead back to.
        assert_eq!(["all", "default"].map(|name| sysctl("ipv4", name, "rp_filter")), ["1", "1"]);
        assert!(!captured.capture.is_closed(), "{:?}", captured.capture.parts());
        captured.capture.remove().expect("removes");
        assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), "1");
    });
}

#[test]
fn what_waited_for_a_neighbour_while_the_chains_were_away_is_not_sent_when_it_answers() {
    isolated("what_waited_for_a_neighbour_while_the_chains_were_away_is_not_sent_when_it_answers", || {
        let mut captured = Captured::new();
        let answer = |captured: &Captured, [v4, v6]: [&str; 2]| {
            captured.wire.on_node(|net| {
                net.address("eth0", &format!("{v4}/24"));
                net.quick_address("eth0", &format!("{v6}/64"));
            });
        };
        let absent = ["10.128.1.77", "fd00:128:1::77"];
        delete_table();
        assert!(absent.iter().all(|to| say_bound(to)), "nothing stops it");
        captured.settle(Duration::from_millis(50));
        assert_eq!(captured.part(Part::Chains).restored, 1);
        answer(&captured, absent);
        let end = Instant::now() + 3 * SECOND;
        while Instant::now() < end {
            assert!(!captured.wire.carried(CANARY));
        }
        // As it would go if nobody put them back.
        let controls = ["10.128.1.78", "fd00:128:1::78"];
        delete_table();
        assert!(controls.iter().all(|to| say_bound(to)));
        answer(&captured, controls);
        eventually("the probe sees what waited", || captured.wire.carried(CANARY));
    });
}

#[test]
fn a_device_of_the_tunnels_name_is_not_taken_for_the_tunnels() {
    isolated("a_device_of_the_tunnels_name_is_not_taken_for_the_tunnels", || {
        let mut captured = Captured::new();
        let [eth0, tenc0] = ["eth0", "tenc0"].map(|name| captured.net.index(name));
        let rename = |net: &Net, index: u32, to: &str| {
            let change = LinkUnspec::new_with_index(index).down().name(to.to_owned()).build();
            net.wait(net.handle.link().set(change).execute());
            net.wait(net.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute());
        };
        rename(&captured.net, tenc0, "other0");
        rename(&captured.net, eth0, "tenc0");
        let is_stopped = |captured: &Captured| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
            bind_to_interface(&socket, "tenc0".parse().expect("name")).expect("binds");
            socket.send_to(CANARY, "10.128.1.9:7777").is_err() && !captured.wire.carried(CANARY)
        };
        assert!(is_stopped(&captured), "before anything is followed");
        captured.settle(Duration::from_millis(50));
        assert!(is_stopped(&captured), "and after");
        // The tunnel's name is taken, and so the device cannot be put right.
        assert!(captured.capture.is_closed(), "{:?}", captured.capture.parts());
        rename(&captured.net, eth0, "eth0");
        let end = Instant::now() + 10 * SECOND;
        while captured.capture.is_closed() {
            captured.settle(Duration::from_millis(20));
            captured.capture.look().expect("looks");
            assert!(Instant::now() < end, "{:?}", captured.capture.parts());
        }
        assert_eq!(captured.net.index("tenc0"), tenc0);
    });
}
