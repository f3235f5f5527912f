//! Pods with a firewall of their own that knows nothing of the tunnel: what it drops is named, with what to let in.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use support::{CANARY, Cluster, HTTP, LIMIT, Running};
use tencrypt_lab::{Asked, DNS_PORT, DnsServer, Zone, dns_over_udp, dns_query, http_get, test};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SECOND: Duration = Duration::from_secs(1);

/// The kinds of packets that `status` names.
fn filtered(running: &Running) -> Vec<String> {
    let status = running.status();
    let kinds = status["network"]["filtered"].as_array().unwrap_or_else(|| panic!("{status}"));
    kinds.iter().map(|kind| kind["kind"].as_str().unwrap().to_owned()).collect()
}

fn eventually(what: &str, running: &Running, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "never: {what}: {}\n{}", running.status(), running.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Tells if pod `b` answers at an address within a second.
fn answers(cluster: &Cluster, to: IpAddr) -> bool {
    http_get(cluster.a.netns(), SocketAddr::new(to, HTTP), "shop", CANARY, SECOND).is_ok()
}

#[test]
fn a_firewall_that_lets_the_tunnel_in_step_by_step_is_told_what_it_drops() {
    test("a_firewall_that_lets_the_tunnel_in_step_by_step_is_told_what_it_drops", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        cluster.b.firewall().unwrap();
        let [_a, b] = [&cluster.a, &cluster.b].map(|pod| cluster.up(pod, ""));
        probe.reset();
        cluster.b.addresses().into_iter().for_each(|to| assert!(!answers(&cluster, to)));
        eventually("datagrams are named", &b, || filtered(&b) == ["datagrams"]);
        eventually("in the log", &b, || b.log().contains("let UDP port 8362 in at eth0"));
        cluster.b.let_in(UDP, 8362).unwrap();
        for to in cluster.b.addresses() {
            eventually("packets are named", &b, || {
                assert!(!answers(&cluster, to));
                filtered(&b).contains(&"packets".to_owned())
            });
        }
        eventually("in the log", &b, || b.log().contains("let in at tenc0 what may come in at eth0"));
        let shown = b.status_by(&cluster.b.netns().path()).stdout;
        assert!(shown.contains("NOT let in by a firewall of the pod's own"), "{shown}");
        cluster.b.let_in(TCP, HTTP).unwrap();
        cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
        probe.assert_only_encrypted();
    });
}

#[test]
fn what_is_dropped_before_any_input_policy_is_named_too() {
    test("what_is_dropped_before_any_input_policy_is_named_too", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let dns = cluster.pod(53);
        let zone = Zone::new().address("web.other.svc.k8s.corp", [198, 51, 100, 7].into());
        let _server = DnsServer::start(&dns, zone).unwrap();
        let resolv_conf = cluster.directory.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {}\nsearch shop.svc.k8s.corp\n", dns.v4())).unwrap();
        let extra = format!(
            "[tenant]\nkey_file = \"{}\"\n[dns]\nresolv_conf = \"{}\"\n",
            cluster.key_file.display(),
            resolv_conf.display()
        );
        let [a, b] = [cluster.up(&cluster.a, &extra), cluster.up(&cluster.b, "")];
        probe.reset();
        let ask = || {
            let query = dns_query(7, "web.other.svc.k8s.corp", Asked::A, None);
            dns_over_udp(cluster.a.netns(), SocketAddr::new(dns.v4(), DNS_PORT), &query, SECOND).is_ok()
        };
        assert!(ask());
        cluster.say_canary(cluster.b.v6());
        for (running, pod) in [(&a, &cluster.a), (&b, &cluster.b)] {
            assert_eq!(filtered(running), [""; 0]);
            pod.drop_at("tenc0").unwrap();
        }
        eventually("names are named", &a, || {
            assert!(!ask());
            filtered(&a) == ["names"]
        });
        assert!(a.log().contains("let in at tenc0 what comes from the nameservers"), "{}", a.log());
        eventually("packets are named", &b, || {
            assert!(!answers(&cluster, cluster.b.v6()));
            filtered(&b) == ["packets"]
        });
        probe.assert_only_encrypted();
    });
}
