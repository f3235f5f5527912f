//! Certificates between pods: who has none is no peer, and who is revoked loses its sessions within a second.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::{Cluster, Running};
use tencrypt_lab::{Pod, UdpEcho, test, udp_echo};

const PORT: u16 = 9001;
/// Longest time that a revocation may take. Nothing here depends on it but the last assertion of that test.
const SECOND: Duration = Duration::from_secs(1);

/// A cluster with an authority.
struct Certified {
    cluster: Cluster,
    _echo: UdpEcho,
}

impl Certified {
    fn new() -> Self {
        let cluster = Cluster::on_one_node();
        let echo = UdpEcho::start(&cluster.b, PORT).unwrap();
        let certified = Self { cluster, _echo: echo };
        certified.run(&["ca", "init", &certified.file("ca")]);
        for pod in ["a", "b"] {
            certified.revoke(pod, "# nothing");
        }
        certified
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.directory.join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    fn run(&self, arguments: &[&str]) {
        let finished = self.cluster.tencrypt(arguments.iter().map(Into::into));
        assert!(finished.status.success(), "{arguments:?}: {finished:?}");
    }

    /// Writes the revocation that one pod is told, as an operator should: whole, under its name at once.
    fn revoke(&self, pod: &str, line: &str) {
        fs::write(self.path("new"), format!("tencrypt-revoked-v1\n{line}\n")).unwrap();
        fs::rename(self.path("new"), self.path(&format!("{pod}.revoked"))).unwrap();
    }

    /// `up` in a pod that asks for certificates and has none yet.
    fn up(&self, pod: &Pod, name: &str) -> Running {
        let [ca, certificate, revoked] =
            ["ca.pub".to_owned(), format!("{name}.cert"), format!("{name}.revoked")]
                .map(|name| self.file(&name));
        let identity =
            format!("[identity]\nca = \"{ca}\"\ncertificate = \"{certificate}\"\nrevoked = \"{revoked}\"\n");
        self.cluster.up(pod, &identity)
    }

    fn issue(&self, pod: &Pod, name: &str, generation: &str) {
        let netns = pod.netns().path().into_os_string().into_string().unwrap();
        let (ca, out) = (self.file("ca"), self.file(&format!("{name}.cert")));
        self.run(&[
            "ca",
            "issue",
            "--ca",
            &ca,
            "--netns",
            &netns,
            "--pod",
            name,
            "--generation",
            generation,
            "--out",
            &out,
        ]);
    }

    /// Tells if a datagram of pod `from` reaches pod `b` and is answered, tried for a while.
    fn reaches(&self, from: &Pod, tries: u32) -> bool {
        let to = SocketAddr::new(self.cluster.b.v4(), PORT);
        (0..tries).any(|_| {
            udp_echo(from.netns(), to, [100], Duration::from_millis(300)).is_ok_and(|lost| lost.is_empty())
        })
    }
}

/// Waits until `what` holds of the status.
fn until(running: &Running, what: impl Fn(&serde_json::Value) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let status = running.status();
        if what(&status) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < support::LIMIT, "{status}\n{}", running.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn pods_with_certificates_talk_and_one_with_the_tenants_key_alone_does_not() {
    test("pods_with_certificates_talk_and_one_with_the_tenants_key_alone_does_not", || {
        let net = Certified::new();
        let probe = net.cluster.probe();
        net.cluster.control(&probe, net.cluster.b.addresses());
        let (a, b) = (net.up(&net.cluster.a, "a"), net.up(&net.cluster.b, "b"));
        let identity = &a.status()["identity"];
        assert_eq!((&identity["mode"], &identity["certificate"]), (&"certificate".into(), &().into()));
        assert!(identity["problem"].as_str().unwrap().contains("does not exist"), "{identity}");
        let key = identity["public_key"].as_str().unwrap();
        assert!(a.log().contains(key), "said on standard error:\n{}", a.log());
        assert!(!net.reaches(&net.cluster.a, 2) && a.drops("certificate") > 0, "closed without one");
        assert_eq!(probe.report().tunnel, 0, "nothing is even asked");

        for (pod, name, running) in [(&net.cluster.a, "a", &a), (&net.cluster.b, "b", &b)] {
            net.issue(pod, name, "1");
            until(running, |status| status["identity"]["certificate"]["pod"] == name);
            assert_eq!(running.status()["identity"]["problem"], serde_json::Value::Null);
        }
        for to in net.cluster.b.addresses() {
            net.cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
        let (refused_a, refused_b) = (a.drops("certificate"), b.drops("certificate"));

        let other = net.cluster.pod(23);
        let third = net.cluster.up(&other, "");
        assert_eq!(third.status()["identity"]["mode"], "key-only");
        assert!(!net.reaches(&other, 3));
        assert!(b.drops("certificate") > refused_b, "refused and counted: {}", b.status());
        assert_eq!(a.drops("certificate"), refused_a);
        assert!(net.reaches(&net.cluster.a, 10));
    });
}

#[test]
fn a_revoked_pod_is_cut_off_within_a_second_in_mid_flow_and_a_broken_file_changes_nothing() {
    test("a_revoked_pod_is_cut_off_within_a_second_in_mid_flow_and_a_broken_file_changes_nothing", || {
        let net = Certified::new();
        let (a, b) = (net.up(&net.cluster.a, "a"), net.up(&net.cluster.b, "b"));
        for (pod, name, running) in [(&net.cluster.a, "a", &a), (&net.cluster.b, "b", &b)] {
            net.issue(pod, name, "1");
            until(running, |status| status["identity"]["certificate"]["pod"] == name);
        }
        assert!(net.reaches(&net.cluster.a, 10));

        // Cut off in the middle of a line: not believed, not forgotten.
        fs::write(net.path("b.revoked"), "tencrypt-revoked-v1\ndeny-pod a").unwrap();
        until(&b, |status| !status["identity"]["revocation_problem"].is_null());
        assert!(net.reaches(&net.cluster.a, 10), "the one before is in force");
        fs::write(net.path("b.cert"), "half a certificate").unwrap();
        until(&b, |status| !status["identity"]["problem"].is_null());
        assert_eq!(b.status()["identity"]["certificate"]["pod"], "b");
        assert!(net.reaches(&net.cluster.a, 10));

        let begun = Instant::now();
        net.revoke("b", "deny-pod a");
        let flow = std::iter::from_fn(|| net.reaches(&net.cluster.a, 1).then(|| begun.elapsed()));
        let last = flow.last().unwrap_or_default();
        assert!(last <= SECOND, "it was answered {last:?} after it was revoked");
        until(&b, |status| status["peers"] == serde_json::json!([]) && status["identity"]["denied"] == 1);
        let sealed = b.packets("encrypted");
        assert!(!net.reaches(&net.cluster.a, 4));
        assert!(b.drops("certificate") > 0, "what it sends is counted: {}", b.status());
        assert_eq!(b.packets("encrypted"), sealed, "nothing is sent to it");

        // It is told itself, and stops.
        net.revoke("a", "deny-pod a");
        until(&a, |status| {
            status["identity"]["certificate"].is_null() && status["peers"] == serde_json::json!([])
        });
        assert!(!net.reaches(&net.cluster.a, 2) && a.drops("certificate") > 0);
    });
}
