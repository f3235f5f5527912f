//! Tests of services whose ports have endpoints of their own, and of their affinity.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    choices::MAX_CHOICES,
    tests::{ACK, SYN, V4, V6, World, balance, ip, nat, view},
    *,
};
use crate::{
    packet::samples::{Body, Sample},
    testing::start,
};

/// kube-proxy's time for `sessionAffinity: ClientIP` (core/v1 `DefaultClientIPServiceAffinitySeconds`).
const THREE_HOURS: Duration = Duration::from_secs(10_800);

fn port(protocol: ServiceProtocol, port: u16, endpoints: &[&str]) -> PortEndpoints {
    let endpoints: Vec<SocketAddr> =
        endpoints.iter().map(|endpoint| endpoint.parse().expect("an endpoint")).collect();
    PortEndpoints::new(protocol, port, endpoints)
}

fn tcp(number: u16, endpoints: &[&str]) -> PortEndpoints {
    port(ServiceProtocol::Tcp, number, endpoints)
}

fn of(services: &[PortEndpoints]) -> Service<'_> {
    Service { services, ..Service::new(ip(V4.vip)) }
}

/// The endpoint and port that a packet to the VIP of a service goes to.
fn sent(nat: &mut Nat, mut packet: Vec<u8>, service: &Service<'_>, now: Instant) -> Result<String, NatError> {
    let endpoint = balance(nat, &mut packet, service, now)?;
    let port = view(&mut packet).ports().map_or(0, |(_, port)| port);
    Ok(SocketAddr::new(endpoint, port).to_string())
}

/// The same for a new connection from this port.
fn called(nat: &mut Nat, from: u16, service: &Service<'_>, now: Instant) -> Result<String, NatError> {
    sent(nat, Sample::tcp(V4.client, V4.vip, (from, 80), SYN), service, now)
}

/// Endpoints that 3,000 new flows go to, and how many to each.
fn spread(service: &Service<'_>, make: impl Fn(u16) -> Vec<u8>) -> BTreeMap<String, u32> {
    let (mut nat, mut counts) = (nat(), BTreeMap::new());
    for number in 1..=3_000 {
        let to = sent(&mut nat, make(number), service, start()).expect("balanced");
        *counts.entry(to).or_insert(0) += 1;
    }
    counts
}

#[test]
fn flows_spread_over_the_endpoints_of_their_protocol_and_port_each_at_its_own_target() {
    let services = [
        // A named port, in the middle of a rolling update.
        tcp(80, &["10.244.3.1:8080", "10.244.3.2:8081", "10.244.3.3:8080"]),
        tcp(443, &["10.244.3.4:8443"]),
        port(ServiceProtocol::Udp, 80, &["10.244.3.5:53"]),
    ];
    let World { client, vip, .. } = V4;
    let counts = spread(&of(&services), |from| Sample::tcp(client, vip, (from, 80), SYN));
    let keys: Vec<_> = counts.keys().map(String::as_str).collect();
    assert_eq!(keys, ["10.244.3.1:8080", "10.244.3.2:8081", "10.244.3.3:8080"]);
    // 1,000 each; four standard deviations of a fair choice are 103.
    assert!(counts.values().all(|count| count.abs_diff(1_000) < 103), "{counts:?}");
    let (mut nat, now) = (nat(), start());
    let to = sent(&mut nat, Sample::tcp(client, vip, (5000, 443), SYN), &of(&services), now);
    assert_eq!(to.as_deref(), Ok("10.244.3.4:8443"));
    let to = sent(&mut nat, Sample::udp(client, vip, (5000, 80)), &of(&services), now);
    assert_eq!(to.as_deref(), Ok("10.244.3.5:53"));
}

#[test]
fn answers_come_from_the_port_that_was_called_in_both_families() {
    for (World { client, vip, own, .. }, endpoint) in [(V4, "10.244.2.9:8080"), (V6, "[fd00:2::9]:8080")] {
        let (mut nat, now) = (nat(), start());
        let services = [tcp(80, &[endpoint])];
        let service = Service { services: &services, ..Service::new(ip(vip)) };
        let mut call = Sample::tcp(client, vip, (5000, 80), SYN);
        assert_eq!(balance(&mut nat, &mut call, &service, now), Ok(ip(own)));
        assert_eq!(call, Sample::tcp(client, own, (5000, 8080), SYN));
        let mut answer = Sample::tcp(own, client, (8080, 5000), ACK);
        assert_eq!(nat.unbalance(&mut view(&mut answer), false, now), NatOutcome::Rewritten);
        assert_eq!(answer, Sample::tcp(vip, client, (80, 5000), ACK));
    }
}

#[test]
fn a_port_that_is_not_listed_is_refused_and_so_is_one_without_an_endpoint() {
    let services = [tcp(80, &["10.244.3.1:80"]), tcp(81, &[]), tcp(82, &["[fd00::1]:80"])];
    let (mut nat, now, service) = (nat(), start(), of(&services));
    let World { client, vip, .. } = V4;
    let mut refused = |packet: Vec<u8>| sent(&mut nat, packet, &service, now).expect_err("refused");
    assert_eq!(refused(Sample::tcp(client, vip, (5000, 90), SYN)), NatError::NoPort);
    assert_eq!(refused(Sample::udp(client, vip, (5000, 80))), NatError::NoPort);
    let sctp = Sample::new(client, vip, Body::Opaque { protocol: 132, payload: vec![3; 20] }).build();
    assert_eq!(refused(sctp), NatError::NoPort);
    for number in [81, 82] {
        assert_eq!(refused(Sample::tcp(client, vip, (5000, number), SYN)), NatError::NoEndpoint);
    }
    assert_eq!(NatError::NoPort.drop_reason(), DropReason::Policy);
    assert_eq!(NatError::NoEndpoint.drop_reason(), DropReason::Policy);
    assert!(nat.is_empty());
}

#[test]
fn what_has_no_ports_goes_to_an_endpoint_of_any_port_and_sctp_to_one_of_its_own() {
    let World { client, vip, .. } = V4;
    let services = [
        tcp(80, &["10.244.3.1:80", "10.244.3.2:80"]),
        tcp(81, &["10.244.3.1:81"]),
        tcp(82, &["10.244.3.1:82"]),
        port(ServiceProtocol::Sctp, 90, &["10.244.3.3:90"]),
    ];
    let counts = spread(&of(&services), |id| Sample::echo(client, vip, true, id));
    assert_eq!(counts.len(), 3);
    // One that is listed three times gets no more than another.
    assert!(counts.values().all(|count| count.abs_diff(1_000) < 103), "{counts:?}");
    let sctp = Sample::new(client, vip, Body::Opaque { protocol: 132, payload: vec![3; 20] }).build();
    assert_eq!(sent(&mut nat(), sctp, &of(&services), start()).as_deref(), Ok("10.244.3.3:0"));
}

#[test]
fn a_flow_keeps_its_endpoint_while_that_is_listed_at_its_port_and_then_gets_another() {
    let (mut nat, now) = (nat(), start());
    let before = [tcp(80, &["10.244.3.1:8080"])];
    let call = |nat: &mut Nat, services: &[PortEndpoints]| called(nat, 5000, &of(services), now);
    assert_eq!(call(&mut nat, &before).as_deref(), Ok("10.244.3.1:8080"));
    let names: Vec<String> = (1..=9).map(|last| format!("10.244.3.{last}:8080")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(call(&mut nat, &[tcp(80, &names)]).as_deref(), Ok("10.244.3.1:8080"));
    // The same pod, at another port alone.
    let moved = [tcp(80, &["10.244.3.2:8080"]), tcp(81, &["10.244.3.1:8080"])];
    assert_eq!(call(&mut nat, &moved).as_deref(), Ok("10.244.3.2:8080"));
    assert_eq!(call(&mut nat, &[tcp(80, &["10.244.3.2:8081"])]).as_deref(), Ok("10.244.3.2:8081"));
    assert_eq!(call(&mut nat, &[tcp(80, &[])]), Err(NatError::NoEndpoint));
    assert_eq!(call(&mut nat, &[tcp(81, &["10.244.3.2:8081"])]), Err(NatError::NoPort));
}

#[test]
fn a_pod_that_calls_its_own_service_comes_to_its_own_target_port() {
    let World { client: own, vip, .. } = V4;
    let exclude = [ip(own)];
    let services = [
        tcp(80, &["10.244.1.7:8081"]),
        tcp(81, &["10.244.1.7:9091", "10.244.3.2:9090"]),
        port(ServiceProtocol::Udp, 80, &["10.244.3.2:53"]),
    ];
    let service = Service { exclude: &exclude, ..of(&services) };
    let (mut nat, now) = (nat(), start());
    let alone = |mut packet: Vec<u8>| view(&mut packet).flow().and_then(|flow| service.excluded_alone(flow));
    assert_eq!(alone(Sample::tcp(own, vip, (5000, 80), SYN)), Some(ip(own)));
    assert_eq!(alone(Sample::tcp(own, vip, (5000, 81), SYN)), None, "another pod is behind that, too");
    assert_eq!(alone(Sample::udp(own, vip, (5000, 80))), None);
    assert_eq!(alone(Sample::tcp(own, vip, (5000, 90), SYN)), None);
    let mut loops = |mut packet: Vec<u8>| {
        nat.loop_back(&mut view(&mut packet), false, &service, ip(own), now).map(|()| packet)
    };
    for (number, target) in [(80, 8081), (81, 9091)] {
        let turned = loops(Sample::tcp(own, vip, (5000, number), SYN));
        assert_eq!(turned, Ok(Sample::tcp(vip, own, (5000, target), SYN)));
    }
    assert_eq!(loops(Sample::udp(own, vip, (5000, 80))), Err(NatError::NoEndpoint));
    assert_eq!(loops(Sample::tcp(own, vip, (5000, 90), SYN)), Err(NatError::NoPort));
    let mut answer = Sample::tcp(own, vip, (9091, 5000), ACK);
    assert_eq!(nat.loop_reply(&mut view(&mut answer), false, now), NatOutcome::Rewritten);
    assert_eq!(answer, Sample::tcp(vip, own, (81, 5000), ACK));
}

/// Fifty endpoints, so that two choices agree by chance once in fifty times.
fn fifty() -> Vec<String> {
    (1..=50).map(|last| format!("10.244.3.{last}:8080")).collect()
}

fn port_80(endpoints: &[String]) -> [PortEndpoints; 1] {
    [tcp(80, &endpoints.iter().map(String::as_str).collect::<Vec<_>>())]
}

fn affine(services: &[PortEndpoints]) -> Service<'_> {
    Service { affinity: Some(THREE_HOURS), ..of(services) }
}

#[test]
fn with_affinity_new_flows_follow_the_last_one_until_its_time_is_over() {
    let (mut nat, mut now, all) = (nat(), start(), fifty());
    let services = port_80(&all);
    let first = called(&mut nat, 1, &affine(&services), now).expect("balanced");
    // Of the endpoints that come it would choose others: it does not as long as each flow begins in time.
    let mut grown = all;
    for number in 2..100 {
        grown.push(format!("10.244.4.{number}:8080"));
        now += THREE_HOURS - Duration::from_secs(1);
        let services = port_80(&grown);
        assert_eq!(called(&mut nat, number, &affine(&services), now).as_ref(), Ok(&first), "flow {number}");
    }
    // With the time over the choice is free: of other seeds some choose one of the new ones.
    let late = now + THREE_HOURS;
    let chosen: Vec<bool> = (0..20)
        .map(|seed| {
            let mut nat = Nat::new(seed);
            let before = called(&mut nat, 1, &affine(&services), now);
            let services = port_80(&grown);
            let just = called(&mut nat, 2, &affine(&services), late - Duration::from_secs(1));
            assert_eq!(just, before);
            called(&mut nat, 3, &affine(&services), late + THREE_HOURS) != before
        })
        .collect();
    assert!(chosen.contains(&true) && chosen.contains(&false), "{chosen:?}");
}

#[test]
fn without_affinity_flows_go_to_many_endpoints_and_with_it_pods_do() {
    let (now, all) = (start(), fifty());
    let services = port_80(&all);
    let mut nat = nat();
    let mut flows: Vec<_> = (1..100).map(|from| called(&mut nat, from, &of(&services), now)).collect();
    let mut pods: Vec<_> =
        (1..100).map(|seed| called(&mut Nat::new(seed), 1, &affine(&services), now)).collect();
    for chosen in [&mut flows, &mut pods] {
        chosen.sort_unstable_by_key(|to| to.clone().expect("balanced"));
        chosen.dedup();
        assert!(chosen.len() > 30, "{} of 50", chosen.len());
    }
}

#[test]
fn with_affinity_an_endpoint_that_is_gone_is_replaced_for_all_new_flows() {
    let (mut nat, now, all) = (nat(), start(), fifty());
    let services = port_80(&all);
    let first = called(&mut nat, 1, &affine(&services), now).expect("balanced");
    let left: Vec<String> = all.into_iter().filter(|endpoint| *endpoint != first).collect();
    let services = port_80(&left);
    let second = called(&mut nat, 2, &affine(&services), now).expect("balanced");
    assert_ne!(second, first);
    for number in 3..20 {
        assert_eq!(called(&mut nat, number, &affine(&services), now).as_ref(), Ok(&second));
    }
    // Nor does it stay with one that may not be chosen any more.
    let exclude = [second.parse::<SocketAddr>().expect("an endpoint").ip()];
    let service = Service { exclude: &exclude, ..affine(&services) };
    assert_ne!(called(&mut nat, 20, &service, now).expect("balanced"), second);
}

#[test]
fn affinity_is_of_a_port_as_kube_proxy_has_it() {
    let all = fifty();
    let both =
        [port_80(&all), port_80(&all).map(|port| PortEndpoints::new(port.protocol(), 81, port.endpoints()))];
    let services = both.concat();
    let differs = |seed| {
        let (mut nat, now, World { client, vip, .. }) = (Nat::new(seed), start(), V4);
        let at = |nat: &mut Nat, number| {
            sent(nat, Sample::tcp(client, vip, (number, number), SYN), &affine(&services), now)
        };
        at(&mut nat, 80) != at(&mut nat, 81)
    };
    assert!((1..20).filter(|seed| differs(*seed)).count() > 10);
}

/// Lets two lanes hear of each other's flows and choices.
fn tell(from: &mut Nat, to: &mut Nat, now: Instant) {
    while let Some(update) = from.poll_update() {
        to.learn(&update, now);
    }
    while let Some(update) = from.poll_choice() {
        to.learn_choice(&update, now);
    }
}

#[test]
fn affinity_holds_in_all_lanes() {
    let (mut first, now, all) = (nat(), start(), fifty());
    let mut second = first.sibling();
    let services = port_80(&all);
    // Neither has heard of the other.
    let endpoint = called(&mut first, 1, &affine(&services), now).expect("balanced");
    assert_eq!(called(&mut second, 2, &affine(&services), now).as_ref(), Ok(&endpoint));
    tell(&mut first, &mut second, now);
    tell(&mut second, &mut first, now);
    // The list changes, and the last flow of the second lane was long ago: it knows of that of the first one.
    let later = now + THREE_HOURS - Duration::from_secs(1);
    assert_eq!(called(&mut first, 3, &affine(&services), later).as_ref(), Ok(&endpoint));
    tell(&mut first, &mut second, later);
    let much_later = later + THREE_HOURS - Duration::from_secs(1);
    let grown: Vec<String> = (1..=200).map(|last| format!("10.244.4.{last}:8080")).chain(all).collect();
    let services = port_80(&grown);
    assert_eq!(called(&mut second, 4, &affine(&services), much_later).as_ref(), Ok(&endpoint));
    // Without that word it would have gone elsewhere.
    let mut alone = Nat::new(7);
    assert_ne!(called(&mut alone, 4, &affine(&services), much_later).as_ref(), Ok(&endpoint));
    // A lane that comes later has the choice from the start.
    let mut third = second.sibling();
    assert_eq!(called(&mut third, 5, &affine(&services), much_later).as_ref(), Ok(&endpoint));
}

#[test]
fn choices_are_bounded_and_the_one_with_the_oldest_flow_goes_first() {
    let (mut nat, mut now, all) = (nat(), start(), fifty());
    let services = port_80(&all);
    let vip = |number: usize| IpAddr::from((0x0a60_0000 + number as u32).to_be_bytes());
    let mut call = |nat: &mut Nat, number: usize, from: u16| {
        now += Duration::from_millis(1);
        let service = Service { vip: vip(number), ..affine(&services) };
        let packet = Sample::tcp(V4.client, &vip(number).to_string(), (from, 80), SYN);
        sent(nat, packet, &service, now).expect("balanced");
    };
    (0..MAX_CHOICES).for_each(|number| call(&mut nat, number, 1));
    call(&mut nat, 0, 2);
    call(&mut nat, MAX_CHOICES, 1);
    assert_eq!(nat.choices.len(), MAX_CHOICES);
    let is_known = |number| nat.choices.find((vip(number), 6, 80), THREE_HOURS, now).is_some();
    assert!(is_known(0) && !is_known(1) && is_known(2) && is_known(MAX_CHOICES));
}
