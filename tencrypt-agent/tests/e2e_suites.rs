//! Cipher suites between two running programs: each of them works, two that differ never do, and one whose handshake the
//! network does not carry is refused, with the way out.

mod support;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{CANARY, Cluster, HTTP, LIMIT, Running};
use tencrypt::CipherSuite;
use tencrypt_lab::{http_get, test};

const HYBRID: CipherSuite = CipherSuite::MlKem768Aes256Gcm;
const CLASSICAL: CipherSuite = CipherSuite::Aes256Gcm;

fn tenant(cluster: &Cluster, suite: CipherSuite) -> String {
    let key_file = cluster.key_file.display();
    format!("[tenant]\nproject = \"shop\"\nkey_file = \"{key_file}\"\nsuite = \"{suite}\"\n")
}

#[test]
fn every_suite_works_and_the_hybrid_ones_unfragmented_over_vxlan() {
    test("every_suite_works_and_the_hybrid_ones_unfragmented_over_vxlan", || {
        let cluster = Cluster::on_two_nodes();
        assert_eq!(cluster.mtu, 1450);
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        for &suite in CipherSuite::ALL {
            let extra = tenant(&cluster, suite);
            let (a, b) = (cluster.up(&cluster.a, &extra), cluster.up(&cluster.b, &extra));
            probe.reset();
            // A handshake of its own for each family: a piece of a fragmented one has no port, and is a leak.
            for to in cluster.b.addresses() {
                cluster.say_canary(to);
            }
            for pod in [&a, &b] {
                let status = pod.status();
                assert_eq!(
                    (&status["suite"], &status["suite_problem"]),
                    (&suite.name().into(), &Value::Null)
                );
                let peers = status["peers"].as_array().expect("peers");
                assert!(
                    !peers.is_empty() && peers.iter().all(|peer| peer["suite"] == suite.name()),
                    "{status}"
                );
            }
            probe.assert_only_encrypted();
            for (pod, running) in [(&cluster.a, a), (&cluster.b, b)] {
                running.stop();
                assert!(cluster.down(pod).status.success());
            }
        }
    });
}

#[test]
fn pods_of_different_suites_have_no_session_and_nothing_leaves_in_plain() {
    test("pods_of_different_suites_have_no_session_and_nothing_leaves_in_plain", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, [cluster.b.v4()]);
        let a = cluster.up(&cluster.a, &tenant(&cluster, HYBRID));
        let b = cluster.up(&cluster.b, &tenant(&cluster, CLASSICAL));
        let to = SocketAddr::new(cluster.b.v4(), HTTP);
        assert!(http_get(cluster.a.netns(), to, "shop", CANARY, Duration::from_secs(2)).is_err());
        assert!(b.drops("unsupported") > 0, "{}", b.status());
        for pod in [&a, &b] {
            assert_eq!(pod.peers(), Value::Array(Vec::new()));
        }
        let report = probe.report();
        assert!(report.is_clean(), "{report}");
    });
}

#[test]
fn a_network_of_1280_bytes_takes_the_classical_suite_and_the_error_says_so() {
    test("a_network_of_1280_bytes_takes_the_classical_suite_and_the_error_says_so", || {
        let cluster = Cluster::on_one_node();
        for pod in [&cluster.a, &cluster.b] {
            pod.set_mtu(1280).unwrap();
        }
        let refused = cluster.start(&cluster.a, &tenant(&cluster, HYBRID)).program.wait(LIMIT).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let expected = "tencrypt: handshakes of the suite x25519-mlkem768-aes-256-gcm need an MTU of 1400 over IPv4, eth0 \
                        has 1280; give all pods of the tenant `suite = \"aes-256-gcm\"`, or eth0 a larger MTU\n";
        assert_eq!(refused.stderr, expected);

        let classical = tenant(&cluster, CLASSICAL);
        let (a, b) = (cluster.up(&cluster.a, &classical), cluster.up(&cluster.b, &classical));
        let probe = cluster.probe();
        cluster.say_canary(cluster.b.v4());
        probe.assert_only_encrypted();
        drop((a, b));
    });
}

#[test]
fn a_network_that_shrinks_below_the_handshake_is_said() {
    test("a_network_that_shrinks_below_the_handshake_is_said", || {
        let cluster = Cluster::on_one_node();
        let a = cluster.up(&cluster.a, &tenant(&cluster, HYBRID));
        assert_eq!(a.status()["suite_problem"], Value::Null);
        cluster.a.set_mtu(1419).unwrap();
        let said = wait(&a, |problem| problem.is_string());
        let said = said.as_str().expect("a reason");
        assert!(said.contains("MTU of 1420 over IPv6, eth0 has 1419"), "{said}");
        assert!(a.log().contains(&format!("no new sessions: {said}")), "{}", a.log());
        cluster.a.set_mtu(1420).unwrap();
        wait(&a, Value::is_null);
    });
}

/// Waits until the status' `suite_problem` is so.
fn wait(pod: &Running, is: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let problem = pod.status()["suite_problem"].clone();
        if is(&problem) {
            return problem;
        }
        assert!(Instant::now() < end, "{problem}");
        thread::sleep(Duration::from_millis(20));
    }
}
