//! The agent and the CNI plugin: pods that a runtime tells of, the plugin's place in the network configuration, what comes to the sockets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::runtime::{NETWORK, Runtime, code};
use crate::support::{Agent, LIMIT, replace};
use serde_json::Value;
use tencrypt_lab::{Signal, test};

#[test]
fn a_pod_of_an_enrolled_namespace_starts_protected_and_its_end_leaves_nothing() {
    test("plugin::a_pod_of_an_enrolled_namespace_starts_protected_and_its_end_leaves_nothing", || {
        let runtime = Runtime::new();
        let agent = runtime.site.start(&runtime.settings());
        agent.eventually("the plugin is in the network configuration", || runtime.entry().is_some());
        let (a, b, c) = (runtime.site.pod(21), runtime.site.pod(22), runtime.site.pod(23));
        let added = runtime.call("ADD", &a, "shop", "c1");
        assert!(added.status.success(), "{added:?}\n{}", agent.log());
        let result: Value = serde_json::from_slice(&added.stdout).unwrap();
        assert_eq!(result["ips"][0]["address"], format!("{}/24", a.v4()), "the result of the plugin before");
        let pod = agent.pod("shop/web-0").expect("it is there as soon as ADD returns");
        assert_eq!((&pod["state"], &pod["source"]), (&"protected".into(), &"plugin".into()));
        assert!(runtime.call("CHECK", &a, "shop", "c1").status.success());
        // Twice is as good as once.
        assert!(runtime.call("ADD", &a, "shop", "c1").status.success());
        assert!(runtime.call("ADD", &b, "default", "c2").status.success());
        assert_eq!(code(&runtime.call("ADD", &c, "elsewhere", "c3")), 11);
        assert_eq!(code(&runtime.call("CHECK", &b, "shop", "c2")), 100);
        assert_eq!(agent.pods().len(), 1);
        assert_eq!((agent.count("added"), agent.count("open")), (2, 1));
        for _ in 0..2 {
            assert!(runtime.call("DEL", &a, "shop", "c1").status.success());
        }
        assert!(agent.pods().is_empty());
        let run = runtime.site.directory.join("run");
        let left: Vec<_> = fs::read_dir(run).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 3, "the sockets and the folder of pods: {left:?}");
    });
}

#[test]
fn without_the_agent_enrolled_pods_wait_and_open_ones_start() {
    test("plugin::without_the_agent_enrolled_pods_wait_and_open_ones_start", || {
        let runtime = Runtime::new();
        let agent = runtime.site.start(&runtime.settings());
        agent.eventually("the plugin is in the network configuration", || runtime.entry().is_some());
        let (a, b) = (runtime.site.pod(21), runtime.site.pod(22));
        assert!(runtime.call("ADD", &a, "shop", "c1").status.success());
        agent.stop(Signal::Kill);
        assert!(runtime.call("ADD", &b, "default", "c2").status.success());
        assert_eq!(code(&runtime.call("ADD", &b, "shop", "c3")), 11);
        // Its pod ends without anybody to tell, and the next agent hears it of the runtime's collection alone.
        assert!(runtime.call("DEL", &a, "shop", "c1").status.success());
        // What its tenant's files say is needed: without its key the pod does not start.
        let key = runtime.site.directory.join("tenants/shop/tenant.key");
        let kept = runtime.site.directory.join("kept.key");
        fs::rename(&key, &kept).unwrap();
        let agent = runtime.site.start(&runtime.settings());
        let refused = runtime.call("ADD", &b, "shop", "c3");
        assert_eq!(code(&refused), 11);
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(said.contains("cannot be read"), "{said}");
        assert!(agent.pod("shop/web-0").is_some(), "what runs goes on without its tenant's files");
        fs::rename(&kept, &key).unwrap();
        agent.eventually("the tenant is there", || runtime.call("ADD", &b, "shop", "c3").status.success());
        assert_eq!(agent.pods().len(), 2);
    });
}

#[test]
fn the_plugin_is_put_back_and_pods_that_were_missed_are_found_and_protected() {
    test("plugin::the_plugin_is_put_back_and_pods_that_were_missed_are_found_and_protected", || {
        const ROUNDS: usize = 20;
        let runtime = Runtime::new();
        let agent = runtime.site.start(&runtime.settings());
        agent.eventually("the plugin is in the network configuration", || runtime.entry().is_some());
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let begin = Instant::now();
            if round % 2 == 0 {
                replace(&runtime.conflist(), NETWORK);
            } else {
                fs::write(runtime.conflist(), NETWORK).unwrap();
            }
            agent.eventually("it is put back", || runtime.entry().is_some());
            times.push(begin.elapsed());
        }
        times.sort();
        println!("put back after {:?} (median), {:?} (worst)", times[ROUNDS / 2], times[ROUNDS - 1]);
        assert!(agent.count("put_back") >= 1);
        // A pod whose plugin was not called: libcni has noted what the others did.
        let pod = runtime.site.pod(21);
        let bound = runtime.bind(&pod);
        // One that was left of a pod before says nothing of whoever is there now.
        runtime.note("c9", "web-9", &bound, "10.128.0.77");
        thread::sleep(Duration::from_millis(300));
        assert!(agent.pods().is_empty());
        let begin = Instant::now();
        runtime.note("c9", "web-9", &bound, &pod.v4().to_string());
        agent.protected("shop/web-9");
        println!("found and protected after {:?}", begin.elapsed());
        assert_eq!(agent.count("found_unprotected"), 1);
        // Its end is told as any other's.
        assert!(runtime.call("DEL", &pod, "shop", "c9").status.success());
        agent.eventually("it is gone", || agent.pods().is_empty());
    });
}

#[test]
fn a_pod_that_the_plugin_did_not_wait_for_is_protected_and_counted() {
    test("plugin::a_pod_that_the_plugin_did_not_wait_for_is_protected_and_counted", || {
        let runtime = Runtime::new();
        let mut agent = runtime.site.start(&runtime.settings());
        agent.eventually("the plugin is in the network configuration", || runtime.entry().is_some());
        let pod = runtime.site.pod(21);
        // The list that the plugin reads a moment before the namespace is enrolled.
        let list = runtime.site.directory.join("namespaces");
        let enrolled = fs::read_to_string(&list).unwrap();
        assert!(enrolled.contains("enrolled shop"), "{enrolled}");
        agent.program.signal(Signal::Stop).unwrap();
        replace(&list, &enrolled.replace("enrolled shop", "open shop"));
        let added = runtime.call("ADD", &pod, "shop", "c1");
        agent.program.signal(Signal::Continue).unwrap();
        assert!(added.status.success(), "{added:?}");
        agent.protected("shop/web-0");
        agent.eventually("it is counted", || agent.count("found_unprotected") == 1);
    });
}

#[test]
fn what_makes_no_sense_is_refused_at_every_socket_and_the_agent_goes_on() {
    test("plugin::what_makes_no_sense_is_refused_at_every_socket_and_the_agent_goes_on", || {
        let runtime = Runtime::new();
        let agent = runtime.site.start(&runtime.settings());
        let run = runtime.site.directory.join("run");
        let pieces: [&[u8]; 8] = [
            b"",
            b"\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"{\"version\":1,\"request\":\"status\"}",
            b"{\"version\":2,\"request\":\"status\"}\n",
            b"{\"version\":1,\"request\":{\"add\":{}}}\n",
            b"\xff\xfe\x00\x80",
            &[b'x'; 200_000],
        ];
        for socket in ["node.sock", "agent.sock"] {
            for piece in pieces {
                let mut stream = UnixStream::connect(run.join(socket)).unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                // It may close before it has read all.
                let _ = stream.write_all(piece);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
            }
        }
        // Many at once, none of which says anything.
        let silent: Vec<UnixStream> =
            (0..300).filter_map(|_| UnixStream::connect(run.join("node.sock")).ok()).collect();
        thread::sleep(Duration::from_millis(100));
        drop(silent);
        assert!(agent.count("malformed") > 0);
        assert_eq!(agent.status()["ready"], true);
        let pod = runtime.site.pod(21);
        agent.eventually("the plugin is in the network configuration", || runtime.entry().is_some());
        assert!(runtime.call("ADD", &pod, "shop", "c1").status.success());
        assert_panics_nowhere(&agent);
    });
}

fn assert_panics_nowhere(agent: &Agent<'_>) {
    let log = agent.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn state_on_disk_that_is_broken_is_named_and_nothing_starts_in_plain() {
    test("plugin::state_on_disk_that_is_broken_is_named_and_nothing_starts_in_plain", || {
        let runtime = Runtime::new();
        let list = runtime.site.directory.join("namespaces");
        let pods = runtime.site.directory.join("run/pods");
        fs::create_dir(&pods).unwrap();
        for (number, content) in ["", "{", "{\"version\":1}", "\u{0}"].iter().enumerate() {
            fs::write(pods.join(format!("4-{number}.json")), content).unwrap();
        }
        for broken in ["", "nonsense\n", "tencrypt-namespaces-v1\nopen shop\nopen shop\n"] {
            fs::write(&list, broken).unwrap();
            let agent = runtime.site.start(&runtime.settings());
            let status = agent.status();
            let problems = status["problems"].as_array().unwrap();
            assert!(
                problems.iter().any(|problem| problem.as_str().unwrap().contains("4-1.json")),
                "{status}"
            );
            assert!(
                problems.iter().all(|problem| problem.as_str().unwrap().lines().count() == 1),
                "{status}"
            );
            let written = fs::read_to_string(&list).unwrap();
            assert!(written.contains("enrolled shop\n") && written.contains("open default\n"), "{written}");
            agent.stop(Signal::Term);
        }
        // A namespace that is claimed and open, whose tenant's file is broken while no agent runs, stays enrolled.
        let file = runtime.site.directory.join("tenants/shop/tenant.toml");
        let good = fs::read_to_string(&file).unwrap();
        for broken in ["", "namespaces = [\"shop\"\n"] {
            replace(&file, broken);
            let settings = runtime.settings();
            let agent = runtime.site.start(&format!("open = [\"default\", \"shop\"]\n{settings}"));
            let written = fs::read_to_string(&list).unwrap();
            assert!(written.contains("enrolled shop\n") && !written.contains("open shop"), "{written}");
            agent.stop(Signal::Term);
        }
        replace(&file, &good);
        // Settings that are wrong: a line, exit code 2, and nothing was begun.
        for (more, reason) in [
            ("grous = 1\n", "unknown field `grous`"),
            ("program = \"/nonexistent/tencrypt\"\n", "program: /nonexistent/tencrypt"),
            ("[plugin]\nprogram = \"/nonexistent/cni\"\n", "plugin.program: /nonexistent/cni"),
        ] {
            let finished = runtime.site.begin(more).program.wait(LIMIT).unwrap();
            assert_eq!(finished.status.code(), Some(2), "{more}: {finished:?}");
            assert!(finished.stderr.contains(reason), "{more}: {finished:?}");
            assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
        }
    });
}
