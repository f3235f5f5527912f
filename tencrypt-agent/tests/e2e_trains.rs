//! Cost of a train, counted at the running program, with all offloads and with none.

mod support;

use std::net::{SocketAddr, UdpSocket};

use support::{Cluster, LIMIT, Running};
use tencrypt_lab::{UdpEcho, send_train, test, udp_echo};

const PORT: u16 = 9001;
/// Records of a train that fills the largest UDP datagram on a link of 1,500 bytes.
const TRAIN: u64 = 44;
/// Bytes of a datagram; with its headers it fits the device's 1,440.
const SIZE: u16 = 1_400;

/// One of the counts in `calls` of the status.
fn calls(running: &Running, name: &str) -> u64 {
    let status = running.status();
    status["calls"][name].as_u64().unwrap_or_else(|| panic!("no calls.{name} in {status}"))
}

/// Sends a train from `a` to `b` and returns what it cost: reads and sends of `a`, receives and writes of `b`.
fn cost(cluster: &Cluster, offload: &str) -> [u64; 4] {
    let network = format!("[network]\nprotected = {}\noffload = \"{offload}\"\n", support::PROTECTED);
    let (a, b) = (cluster.up(&cluster.a, &network), cluster.up(&cluster.b, &network));
    let _echo = UdpEcho::start(&cluster.b, PORT).unwrap();
    let to = SocketAddr::new(cluster.b.v4(), PORT);
    assert_eq!(udp_echo(cluster.a.netns(), to, [100], LIMIT).unwrap(), [0; 0], "no session");
    // Nobody answers here, so that nothing else is on its way.
    let to = SocketAddr::new(cluster.b.v4(), PORT + 1);
    let receiver = cluster.b.netns().run(|| UdpSocket::bind(to)).unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let now = || [calls(&a, "reads"), calls(&a, "sends"), calls(&b, "receives"), calls(&b, "writes")];
    let before = now();
    send_train(cluster.a.netns(), to, SIZE, &vec![7; usize::from(SIZE) * TRAIN as usize]).unwrap();
    let mut buffer = [0; 2_048];
    for number in 0..TRAIN {
        let received =
            receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("datagram {number}: {error}"));
        assert_eq!(received, usize::from(SIZE));
    }
    let after = now();
    std::array::from_fn(|at| after[at] - before[at])
}

#[test]
fn a_train_costs_one_call_at_each_of_its_four_stations() {
    test("a_train_costs_one_call_at_each_of_its_four_stations", || {
        assert_eq!(cost(&Cluster::on_one_node(), "all"), [1, 1, 1, 1]);
    });
}

#[test]
fn without_offload_each_record_costs_a_call_at_each_station() {
    test("without_offload_each_record_costs_a_call_at_each_station", || {
        assert_eq!(cost(&Cluster::on_one_node(), "none"), [TRAIN; 4]);
    });
}
