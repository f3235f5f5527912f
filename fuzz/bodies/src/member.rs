//! Two pods, one of two lanes, and a member that lies, beside facts, packets, super-packets, trains and time.

mod net;
mod packets;
mod places;

use std::{net::SocketAddr, time::Duration};

use tencrypt::{
    directory::{Class, Fact, FactChange, FactSource},
    nat::{PortEndpoints, ServiceProtocol},
};

use self::{
    net::{Net, Passing},
    packets::Outgoing,
    places::{LIAR, NOBODY, OUTSIDE, PODS, PODS_V6, PORT, VIP, place},
};
use crate::input::Input;

/// Steps that one input may take, at most.
const MAX_STEPS: usize = 48;
/// Rounds within which pods find each other once nobody lies any more: a silent peer is noticed after 15 s.
const ROUNDS: usize = 60;

/// Lets the bytes say what two pods and a liar do. Whatever it is: each packet comes out at most once, whole, at the pod it
/// was for, and never at the one it came from; nothing that the liar says in the name of others comes out; nothing leaves in
/// plain to an address of the tenant that no fact calls anything else. And when the liar is silent and no fact says
/// anything, the pods find each other.
pub fn member(data: &[u8]) {
    let mut input = Input::new(data);
    let mut net = Net::new(input.byte());
    let mut is_told = false;
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let here = usize::from(what >> 7);
        match what % 12 {
            0 => net.pass(Duration::from_millis(input.word().into())),
            1 => net.pass(Duration::from_secs(input.byte().into())),
            2..5 => send(&mut net, &mut input, here),
            5 => {
                learn(&mut net, &mut input, here);
                is_told = true;
            }
            6 => {
                let (from, asked, asserted) = (place(&mut input), place(&mut input), asserted(&mut input));
                net.ask(from, here, asked, &asserted);
            }
            7 => speak(&mut net, &mut input, here),
            8 => net.repeat(here, &mut input),
            9 => net.unreachable(here, SocketAddr::new(place(&mut input), PORT)),
            10 => net.reset(&mut input),
            _ => net.raw(here, &mut input),
        }
        let passing = match what >> 5 & 3 {
            3 => Passing::Lost,
            2 => Passing::Reversed,
            _ => Passing::InOrder,
        };
        net.settle(passing, &asserted(&mut input));
    }
    if !is_told {
        find_each_other(&mut net);
    }
}

fn find_each_other(net: &mut Net) {
    net.silence();
    let mut last = [0; 2];
    for _ in 0..ROUNDS {
        for here in 0..2 {
            last[here] = net.send(here, Outgoing::single(PODS[here], PODS[1 - here], 9, 64));
        }
        net.settle(Passing::InOrder, &[]);
        net.pass(Duration::from_secs(1));
        net.settle(Passing::InOrder, &[]);
    }
    assert!(last.iter().all(|number| net.is_delivered(*number)), "the pods did not find each other");
}

fn send(net: &mut Net, input: &mut Input<'_>, here: usize) {
    let is_v6 = input.byte().is_multiple_of(4);
    let (source, to) = if is_v6 {
        (PODS_V6[here], PODS_V6[1 - here])
    } else {
        let to = [PODS[1 - here], PODS[1 - here], VIP, LIAR, NOBODY, OUTSIDE];
        (PODS[here], to[input.index(to.len())])
    };
    let outgoing = Outgoing {
        source,
        to,
        port: u16::from(input.byte() % 8),
        segment: 8 + usize::from(input.word()) % 1_400,
        segments: 1 + u16::from(input.byte() % 6),
        last: usize::from(input.byte()),
        is_unfinished: input.flag(),
    };
    net.send(here, outgoing);
}

fn learn(net: &mut Net, input: &mut Input<'_>, here: usize) {
    let address = place(input);
    let class = [Class::Internal, Class::External, Class::Exempt][input.index(3)];
    let source = [FactSource::Static, FactSource::Kubernetes, FactSource::Dns("a.example.".into())]
        [input.index(3)]
    .clone();
    let expires = input.flag().then(|| net.now() + Duration::from_millis(input.word().into()));
    let mut fact = Fact::new(address, class, source.clone(), expires);
    match input.byte() % 4 {
        0 => fact = fact.with_endpoints([PODS[1 - here]], []),
        1 => {
            let port = PortEndpoints::new(ServiceProtocol::Udp, 3, [SocketAddr::new(PODS[1 - here], 3)]);
            fact = fact.with_services([port], Some(Duration::from_secs(1)));
        }
        _ => {}
    }
    if input.byte().is_multiple_of(4) {
        net.apply(here, FactChange::Forget { prefix: address.into(), source });
    } else {
        net.apply(here, FactChange::Learn(fact));
    }
}

/// A record of the liar's, with a packet of its own making or with anything.
fn speak(net: &mut Net, input: &mut Input<'_>, here: usize) {
    let (from, is_unfinished) = (place(input), input.byte() & 1 == 1);
    if input.flag() {
        let packet = input.chunk().to_vec();
        net.speak(from, is_unfinished, &packet);
        return;
    }
    let (source, to) = (place(input), if input.flag() { PODS[here] } else { place(input) });
    net.speak(from, is_unfinished, &tencrypt_sim::udp((source, 7), (to, 9), b"in another's name"));
}

/// Addresses that the liar says it has.
fn asserted(input: &mut Input<'_>) -> Vec<std::net::IpAddr> {
    let which = input.byte();
    let all = [LIAR, PODS[0], PODS[1], VIP, NOBODY];
    all.into_iter().enumerate().filter(|(at, _)| which >> at & 1 == 0).map(|(_, address)| address).collect()
}
