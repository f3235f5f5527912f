//! `tencrypt up --supervised`: an agent gives everything over one socket, changes it, goes away, and is replaced.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent::{
    AUTHORITY, Agent, CERTIFICATE, COMPLETE, END, FACTS, HELLO, KEYS, MOMENT, RENEW, REPORT, REVOCATION, pair,
};
use support::{Cluster, LIMIT, Running, eventually};
use tencrypt_lab::{NetNs, Signal, Snapshot, UdpEcho, test, test_within, udp_echo};

const PORT: u16 = 9001;
/// Time until a datagram without an answer is sent again.
const ATTEMPT: Duration = Duration::from_millis(20);

fn is_echoed(from: &NetNs, to: IpAddr, wait: Duration) -> bool {
    // A closed namespace answers with an error.
    udp_echo(from, SocketAddr::new(to, PORT), [100], wait).is_ok_and(|lost| lost.is_empty())
}

/// Two pods of one tenant, of which the second answers UDP.
struct Pods {
    cluster: Cluster,
    _echo: UdpEcho,
}

impl Pods {
    fn new() -> Self {
        let cluster = Cluster::on_one_node();
        let echo = UdpEcho::start(&cluster.b, PORT).unwrap();
        Self { cluster, _echo: echo }
    }

    /// Waits for an answer at each address of the other pod. Returns the time until the last came.
    fn assert_echoed(&self, running: &Running) -> Duration {
        let begin = Instant::now();
        for to in self.cluster.b.addresses() {
            while !is_echoed(self.cluster.a.netns(), to, ATTEMPT) {
                assert!(begin.elapsed() < LIMIT, "{to}: {}", running.log());
            }
        }
        begin.elapsed()
    }
}

fn epochs(status: &Value) -> (u64, Vec<u64>) {
    let keys = &status["keys"];
    let accept = keys["accept"].as_array().unwrap().iter().map(|epoch| epoch.as_u64().unwrap()).collect();
    (keys["send"].as_u64().unwrap(), accept)
}

#[test]
fn pods_whose_agent_gives_everything_talk_encrypted() {
    test("pods_whose_agent_gives_everything_talk_encrypted", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let (a, mut agent) = cluster.supervised(&cluster.a, "");
        // The other one as ever: both read the same things, whatever the way they came.
        let b = cluster.up(&cluster.b, "");
        cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
        probe.assert_only_encrypted();
        let up = agent.wait_for_event("peer_up");
        assert!(up["addresses"].as_array().unwrap().contains(&json!(cluster.b.v4())), "{up}");
        agent.send(REPORT, b"");
        let said = agent.wait_until(|message| {
            let status = message.get("status")?;
            (status["peers"] == 1).then(|| status.clone())
        });
        let (said, own) = (&said["report"], a.status());
        for part in ["identity", "keys", "network", "suite", "hardening"] {
            assert_eq!(said[part], own[part]);
        }
        assert_eq!(own["network"]["netns"], format!("shop/{}", cluster.a.v4()));
        assert_eq!(own["keys"], b.status()["keys"]);
        // No file of keys or settings is open, and none is looked at.
        let open = fs::read_dir(format!("/proc/{}/fd", a.program.id())).unwrap().flatten();
        let paths = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let own_files: Vec<_> = paths.filter(|path| path.starts_with(&cluster.directory)).collect();
        assert!(
            own_files.iter().all(|path| path.starts_with(cluster.directory.join("run"))),
            "{own_files:?}"
        );
    });
}

#[test]
fn what_its_starter_has_open_for_others_is_closed() {
    test("what_its_starter_has_open_for_others_is_closed", || {
        use std::os::fd::OwnedFd;
        let cluster = Cluster::on_one_node();
        let other_key = cluster.genkey("other-tenant.key");
        let leak = || {
            let file = OwnedFd::from(fs::File::open(&other_key).unwrap());
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
            file
        };
        // Below and above the number of the channel.
        let below = [leak(), leak()];
        let (mut agent, channel) = pair();
        let above = [leak(), leak()];
        let running = cluster.start_on(&cluster.a, channel);
        drop((below, above));
        agent.give(&cluster, &cluster.a, "");
        agent.send(COMPLETE, b"");
        agent.wait_for("ready");
        let open = fs::read_dir(format!("/proc/{}/fd", running.program.id())).unwrap().flatten();
        let paths: Vec<_> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
        assert!(paths.len() > 10 && !paths.contains(&other_key), "{paths:?}");
    });
}

/// The key file's text with a second epoch: accepted, and then the one that is sent under.
fn rotated(cluster: &Cluster) -> [String; 2] {
    let text = fs::read_to_string(&cluster.key_file).unwrap();
    let root: String =
        (0..32_u8).map(|byte| format!("{:02x}", byte.wrapping_mul(7).wrapping_add(3))).collect();
    let both = format!("{text}epoch 2 {root}\n");
    [format!("{both}send 1\n"), format!("{both}send 2\n")]
}

#[test]
fn later_keys_are_taken_or_refused_and_the_agent_is_told_which() {
    test("later_keys_are_taken_or_refused_and_the_agent_is_told_which", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let ((a, mut one), (b, mut other)) =
            (cluster.supervised(&cluster.a, ""), cluster.supervised(&cluster.b, ""));
        pods.assert_echoed(&a);
        for (step, text) in rotated(cluster).iter().enumerate() {
            for agent in [&mut one, &mut other] {
                agent.send(KEYS, text.as_bytes());
                let keys = agent.wait_for_event("keys");
                assert_eq!(keys, json!({"send": step + 1, "accept": [1, 2]}));
            }
            pods.assert_echoed(&a);
        }
        // What may not take their place is refused whole, in words that show no key.
        let good = fs::read_to_string(&cluster.key_file).unwrap();
        let other_root = "a5".repeat(31);
        for (text, reason) in [
            (good.replace("epoch 1 ", "epoch 1 00"), "key ring of the node's agent: line 3"),
            (format!("{good}epoch 9 {other_root}\n"), "key ring of the node's agent: line"),
            ("tencrypt-key-v1".to_owned(), "key ring of the node's agent"),
            (String::new(), "key ring of the node's agent"),
        ] {
            one.send(KEYS, text.as_bytes());
            let refused = one.wait_for("refused");
            assert_eq!(refused["message"], "keys");
            let said = refused["reason"].as_str().unwrap();
            assert!(said.contains(reason) && !said.contains(&other_root[..16]), "{said}");
        }
        let status = a.status();
        assert_eq!(epochs(&status), (2, vec![1, 2]));
        assert!(status["keys"]["error"].is_string());
        pods.assert_echoed(&a);
        let [_, last] = rotated(cluster);
        one.send(KEYS, last.as_bytes());
        one.wait_for_event("keys");
        assert_eq!(a.status()["keys"]["error"], Value::Null);
        drop(b);
    });
}

#[test]
fn it_goes_on_without_its_agent_and_the_newest_one_counts() {
    test("it_goes_on_without_its_agent_and_the_newest_one_counts", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let probe = cluster.probe();
        cluster.control(&probe, [cluster.b.v4()]);
        let (a, first) = cluster.supervised(&cluster.a, "");
        let _b = cluster.up(&cluster.b, "");
        pods.assert_echoed(&a);
        drop(first);
        thread::sleep(MOMENT);
        pods.assert_echoed(&a);
        let mut second = cluster.adopt(&cluster.a);
        second.send(HELLO, br#"{"oldest": 1, "newest": 7}"#);
        let hello = second.wait_for("hello");
        let own = a.status();
        assert_eq!(hello["protocol"], 1);
        assert_eq!(hello["pid"], a.program.id());
        let namespace = &hello["pod"];
        assert_eq!(namespace["name"], format!("shop/{}", cluster.a.v4()));
        assert_eq!(
            (&namespace["tag"], &namespace["public_key"]),
            (&json!("v1"), &own["identity"]["public_key"])
        );
        let [accepted, _] = rotated(cluster);
        second.send(KEYS, accepted.as_bytes());
        assert_eq!(second.wait_for_event("keys")["accept"], json!([1, 2]));
        // The one before is closed by the next, and heard no more.
        let mut third = cluster.adopt(&cluster.a);
        third.send(HELLO, br#"{"oldest": 1, "newest": 1}"#);
        third.wait_for("hello");
        second.wait_closed();
        let _ = second.try_send(END, br#"{"open": true}"#);
        // One that makes no sense is left, and everything stays as it is.
        third.send(99, b"");
        let said = third.wait_closed();
        let last = said.last().unwrap();
        assert_eq!(last["refused"]["message"], "channel");
        assert!(last["refused"]["reason"].as_str().unwrap().contains("kind 99"), "{last}");
        pods.assert_echoed(&a);
        let mut fourth = cluster.adopt(&cluster.a);
        fourth.send(KEYS, accepted.as_bytes());
        assert!(fourth.wait_closed().iter().any(|said| said["refused"]["message"] == "channel"));
        let mut fifth = cluster.adopt(&cluster.a);
        fifth.send(HELLO, br#"{"oldest": 2, "newest": 7}"#);
        assert!(fifth.wait_closed().iter().any(|said| said["refused"]["message"] == "channel"));
        pods.assert_echoed(&a);
        probe.assert_only_encrypted();
    });
}

#[test]
fn an_order_to_renew_counts_whoever_adopts_the_program_at_once() {
    test("an_order_to_renew_counts_whoever_adopts_the_program_at_once", || {
        let cluster = Cluster::on_one_node();
        let (a, mut agent) = cluster.supervised(&cluster.a, "");
        for count in 1..=20 {
            // Behind others, some of which the program has read and not yet heeded.
            for _ in 0..8 {
                agent.send(FACTS, b"{}");
            }
            agent.send(RENEW, br#"{"reason": "clone"}"#);
            let mut next = cluster.adopt(&cluster.a);
            next.send(HELLO, br#"{"oldest": 1, "newest": 1}"#);
            assert!(
                next.next().is_some_and(|first| first.get("hello").is_some()),
                "something is said before"
            );
            agent = next;
            eventually("another key", || a.status()["renewal"]["count"] == count);
        }
    });
}

#[test]
fn an_agent_whose_hello_is_not_good_does_not_take_the_place_of_another() {
    test("an_agent_whose_hello_is_not_good_does_not_take_the_place_of_another", || {
        let cluster = Cluster::on_one_node();
        let (a, mut agent) = cluster.supervised(&cluster.a, "");
        let silent = cluster.adopt(&cluster.a);
        let mut later = cluster.adopt(&cluster.a);
        later.send(HELLO, br#"{"oldest": 9, "newest": 9}"#);
        assert!(later.wait_closed().iter().any(|said| said["refused"]["message"] == "channel"));
        agent.send(RENEW, br#"{"reason": "pause"}"#);
        agent.wait_for_event("renewed");
        drop(silent);
        assert_eq!(a.status()["renewal"]["count"], 1);
    });
}

#[test]
fn a_program_that_reads_files_has_no_agent() {
    test("a_program_that_reads_files_has_no_agent", || {
        use std::io::{Read as _, Write as _};
        use std::os::unix::net::UnixStream;
        let cluster = Cluster::on_one_node();
        let _a = cluster.up(&cluster.a, "");
        let [socket] = &cluster.control_socket()[..] else { panic!("one socket") };
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"{\"request\":\"adopt\"}\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.contains("no agent has started it"), "{reply}");
        // What comes with the request would be lost in the server's buffer.
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"{\"request\":\"adopt\"}\n\0\0\0\x02\x01{}").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.contains("nothing may follow"), "{reply}");
    });
}

fn facts(agent: &mut Agent, learn: &[Value], forget: &[IpAddr]) {
    agent.send(FACTS, json!({"learn": learn, "forget": forget}).to_string().as_bytes());
}

#[test]
fn facts_of_the_agent_decide_and_what_they_led_around_the_tunnel_ends_with_them() {
    test("facts_of_the_agent_decide_and_what_they_led_around_the_tunnel_ends_with_them", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let outsider = cluster.pod(31);
        let _echo = UdpEcho::start(&outsider, PORT).unwrap();
        let (a, mut agent) = cluster.supervised(&cluster.a, "");
        let from = cluster.a.netns();
        let [v4, v6] = outsider.addresses();
        let about = |address: IpAddr, class: &str| json!({"prefix": address.to_string(), "class": class});
        let leads_around = |address: IpAddr| {
            let snapshot = Snapshot::take(from).unwrap();
            let (family, bits) = if address.is_ipv4() { ("v4", 32) } else { ("v6", 128) };
            snapshot.lines(&format!("route {family} table 8362 {address}/{bits} throw")).count() == 1
        };
        assert!(!is_echoed(from, v4, MOMENT), "nobody has said anything of it");
        facts(&mut agent, &[about(v4, "external"), about(v6, "external")], &[]);
        for address in [v4, v6] {
            assert!(is_echoed(from, address, LIMIT), "{address}: {}", a.log());
            eventually("a route around the tunnel", || leads_around(address));
            let why = a.ask(&["explain", "--json", &address.to_string()]);
            assert!(why.to_string().contains("\"kubernetes\""), "{why}");
        }
        // The tenant's from now on, the one; unknown, the other.
        facts(&mut agent, &[about(v4, "internal")], &[v6]);
        for address in [v4, v6] {
            eventually("no route around the tunnel", || !leads_around(address));
            assert!(!is_echoed(from, address, MOMENT), "{address} is spoken to in plain");
        }
        // All or none: a list with one that is wrong changes nothing.
        facts(&mut agent, &[about(v6, "external"), about("192.0.2.1".parse().unwrap(), "internal")], &[]);
        assert_eq!(agent.wait_for("refused")["message"], "facts");
        assert!(!is_echoed(from, v6, MOMENT));
        // A later agent names what there is: what it does not name ends when it has said so.
        facts(&mut agent, &[about(v6, "external")], &[]);
        assert!(is_echoed(from, v6, LIMIT));
        let mut later = cluster.adopt(&cluster.a);
        later.send(HELLO, br#"{"oldest": 1, "newest": 1}"#);
        later.wait_for("hello");
        facts(&mut later, &[about(v4, "external")], &[]);
        assert!(is_echoed(from, v4, LIMIT) && is_echoed(from, v6, LIMIT));
        later.send(COMPLETE, b"");
        eventually("no route around the tunnel", || !leads_around(v6));
        assert!(is_echoed(from, v4, LIMIT) && !is_echoed(from, v6, MOMENT));
    });
}

#[test]
fn a_service_of_the_agents_facts_leads_to_its_pods_and_port() {
    test("a_service_of_the_agents_facts_leads_to_its_pods_and_port", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let probe = cluster.probe();
        cluster.control(&probe, [cluster.b.v4()]);
        let ((a, mut agent), _b) = (cluster.supervised(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let service: IpAddr = "172.30.0.7".parse().unwrap();
        let fact = json!({"prefix": service.to_string(), "class": "internal",
            "endpoints": [cluster.b.v4()], "ports": {"80": PORT}});
        facts(&mut agent, &[fact], &[]);
        let at_port_80 =
            |wait| udp_echo(cluster.a.netns(), SocketAddr::new(service, 80), [100], wait).unwrap().is_empty();
        eventually("an answer of the service", || at_port_80(MOMENT));
        assert!(a.status()["peers"].as_array().unwrap().len() == 1);
        probe.assert_only_encrypted();
    });
}

#[test]
fn an_end_leaves_the_namespace_open_or_closed_as_the_agent_wants_it() {
    test("an_end_leaves_the_namespace_open_or_closed_as_the_agent_wants_it", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        cluster.excuse();
        let (from, to) = (cluster.a.netns(), cluster.b.v4());
        let before = Snapshot::take(from).unwrap();
        let (mut a, mut agent) = cluster.supervised(&cluster.a, "");
        agent.send(END, br#"{"open": false}"#);
        let said = agent.wait_closed();
        assert_eq!(said.last().unwrap()["ending"]["open"], false);
        assert!(a.program.wait(LIMIT).unwrap().status.success());
        assert!(!is_echoed(from, to, MOMENT), "closed");
        let (mut a, mut agent) = cluster.supervised(&cluster.a, "");
        agent.send(END, br#"{"open": true}"#);
        assert_eq!(agent.wait_closed().last().unwrap()["ending"]["open"], true);
        assert!(a.program.wait(LIMIT).unwrap().status.success());
        assert!(is_echoed(from, to, LIMIT), "open");
        assert_eq!(Snapshot::take(from).unwrap(), before);
    });
}

#[test]
fn a_program_that_is_prepared_takes_the_pod_over_when_the_one_before_ends() {
    test("a_program_that_is_prepared_takes_the_pod_over_when_the_one_before_ends", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let probe = cluster.probe();
        cluster.control(&probe, [cluster.b.v4()]);
        let ((mut old, mut agent), _b) = (cluster.supervised(&cluster.a, ""), cluster.up(&cluster.b, ""));
        pods.assert_echoed(&old);
        for _ in 0..3 {
            // An address is asked to prove itself once a second.
            thread::sleep(Duration::from_millis(1_100));
            let (new, mut next) = cluster.start_supervised(&cluster.a);
            next.give(cluster, &cluster.a, "");
            next.wait_for("hello");
            let begin = Instant::now();
            agent.send(END, br#"{"open": false}"#);
            next.send(COMPLETE, b"");
            next.wait_for("ready");
            println!("ready {:.1} ms after the end of the one before", begin.elapsed().as_secs_f64() * 1e3);
            assert!(old.program.wait(LIMIT).unwrap().status.success());
            (old, agent) = (new, next);
            let answered = pods.assert_echoed(&old);
            println!("and answers {:.1} ms later", answered.as_secs_f64() * 1e3);
        }
        probe.assert_only_encrypted();
    });
}

#[test]
fn a_certificate_is_issued_for_the_key_that_is_said_and_another_after_each_renewal() {
    test("a_certificate_is_issued_for_the_key_that_is_said_and_another_after_each_renewal", || {
        let pods = Pods::new();
        let cluster = &pods.cluster;
        let path = |name: &str| cluster.directory.join(name);
        let run = |arguments: Vec<std::ffi::OsString>| {
            let finished = cluster.tencrypt(arguments);
            assert!(finished.status.success(), "{finished:?}");
        };
        run(vec!["ca".into(), "init".into(), path("ca").into()]);
        let issue = |pod: &tencrypt_lab::Pod, public_key: &str| {
            let out = path("issued");
            let mut arguments: Vec<std::ffi::OsString> = vec![
                "ca".into(),
                "issue".into(),
                "--ca".into(),
                path("ca").into(),
                "--pod".into(),
                "web".into(),
            ];
            arguments.extend(["--tenant-key".into(), cluster.key_file.clone().into_os_string()]);
            arguments.extend(["--public-key".into(), public_key.into(), "--out".into(), out.clone().into()]);
            pod.addresses()
                .into_iter()
                .for_each(|address| arguments.extend(["--address".into(), address.to_string().into()]));
            run(arguments);
            fs::read(out).unwrap()
        };
        let public = fs::read(path("ca.pub")).unwrap();
        let started = [&cluster.a, &cluster.b].map(|pod| {
            let (running, mut agent) = cluster.start_supervised(pod);
            agent.give(cluster, pod, "");
            agent.send(AUTHORITY, &public);
            agent.send(REVOCATION, b"tencrypt-revoked-v1\n");
            agent.send(COMPLETE, b"");
            let ready = agent.wait_for("ready");
            cluster.expect_silence(pod);
            agent.send(CERTIFICATE, &issue(pod, ready["public_key"].as_str().unwrap()));
            assert_eq!(agent.wait_for_event("certificate")["generation"], 1);
            (running, agent, ready)
        });
        let [(a, mut agent, ready), _b] = started;
        pods.assert_echoed(&a);
        agent.send(RENEW, br#"{"reason": "clone"}"#);
        let renewed = agent.wait_for_event("renewed");
        assert_eq!((&renewed["reason"], &renewed["count"]), (&json!("clone"), &json!(1)));
        assert_ne!(renewed["public_key"], ready["public_key"]);
        // One of the key before is another key's; the next one is this one's.
        agent.send(CERTIFICATE, &issue(&cluster.a, ready["public_key"].as_str().unwrap()));
        let refused = agent.wait_for("refused");
        assert_eq!(refused["message"], "certificate");
        agent.send(CERTIFICATE, &issue(&cluster.a, renewed["public_key"].as_str().unwrap()));
        agent.wait_for_event("certificate");
        pods.assert_echoed(&a);
        // Revoked, it loses its certificate, and says so.
        agent.send(REVOCATION, b"tencrypt-revoked-v1\nmin-generation 2\n");
        assert_eq!(agent.wait_for_event("revocation")["minimum_generation"], 2);
        let problem = a.status()["identity"]["problem"].clone();
        assert!(problem.as_str().is_some_and(|problem| problem.contains("of the node's agent")), "{problem}");
    });
}

#[test]
fn an_agent_that_is_killed_or_stopped_leaves_the_pod_as_it_is() {
    test_within(
        "an_agent_that_is_killed_or_stopped_leaves_the_pod_as_it_is",
        Duration::from_secs(90),
        || {
            let pods = Pods::new();
            let cluster = &pods.cluster;
            let (mut a, agent) = cluster.supervised(&cluster.a, "");
            let _b = cluster.up(&cluster.b, "");
            // An agent that reads nothing: more is said to it than fits, and nobody waits for it.
            let mut stopped = agent;
            stopped.0.set_write_timeout(Some(MOMENT)).unwrap();
            for _ in 0..6_000 {
                stopped.send(CERTIFICATE, b"none");
                stopped.send(HELLO, br#"{"oldest": 1, "newest": 1}"#);
            }
            stopped.send(RENEW, br#"{"reason": "clone"}"#);
            eventually("another key", || a.status()["renewal"]["count"] == 1);
            pods.assert_echoed(&a);
            assert!(a.status()["peers"].as_array().is_some());
            let mut next = cluster.adopt(&cluster.a);
            next.send(HELLO, br#"{"oldest": 1, "newest": 1}"#);
            next.wait_for("hello");
            next.send(REPORT, b"");
            assert!(next.wait_for("status")["lost"].as_u64().unwrap() > 0, "all of it had room");
            pods.assert_echoed(&a);
            a.program.signal(Signal::Kill).unwrap();
            drop(stopped);
            next.wait_closed();
        },
    );
}
