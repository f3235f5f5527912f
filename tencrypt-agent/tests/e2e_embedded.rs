//! A pod that is a part of somebody else's program, examples/smoltcp, talks with a pod where the program runs.

mod support;

use std::{
    fs,
    net::{IpAddr, SocketAddrV4, UdpSocket},
};

use support::{CANARY, Cluster, HTTP, LIMIT};
use tencrypt::{KeyRing, TunnelConfig};
use tencrypt_example_smoltcp::Pod;
use tencrypt_lab::{Watch, test};

#[test]
fn a_tunnel_in_user_space_fetches_a_page_from_a_pod_where_the_program_runs() {
    test("a_tunnel_in_user_space_fetches_a_page_from_a_pod_where_the_program_runs", || {
        let cluster = Cluster::on_one_node();
        let embedded = cluster.pod(30);
        let running = cluster.up(&cluster.b, "");
        let watch = Watch::new([&embedded, &cluster.b], CANARY.as_bytes()).lanes(support::lanes());
        let probe = cluster.probe_with(watch);
        let keys = KeyRing::parse(&fs::read_to_string(&cluster.key_file).unwrap()).unwrap();
        let [own, server] = [&embedded, &cluster.b].map(|pod| match pod.v4() {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => panic!("an IPv4 address"),
        });
        let server = SocketAddrV4::new(server, HTTP);
        let fetch = || {
            let udp = UdpSocket::bind((own, TunnelConfig::DEFAULT_PORT)).unwrap();
            let mut pod = Pod::new(keys, own, "10.128.0.0/14", udp, Vec::new()).unwrap();
            [(); 2].map(|()| pod.get(server, &format!("/{CANARY}"), LIMIT).unwrap())
        };
        for page in embedded.netns().run(fetch) {
            assert!(String::from_utf8_lossy(&page).contains(CANARY), "another page");
        }
        probe.assert_only_encrypted();
        assert!(running.packets("encrypted") > 0 && running.packets("decrypted") > 0, "{}", running.log());
        for reason in ["malformed", "auth", "inner_malformed", "inner_source", "inner_destination"] {
            assert_eq!(running.drops(reason), 0, "{reason}: {}", running.status());
        }
    });
}
