//! The program's words to an operator: a pod that is not protected, a namespace that is closed or somebody else's, a peer that is
//! configured otherwise, and all tunnels of the machine.

mod support;

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{CANARY, Cluster, HTTP, LIMIT, PROGRAM, PROTECTED, Running};
use tencrypt_lab::{Finished, Pod, Program, Signal, Snapshot, http_get, run_program, test};
use tencrypt_tun::bind_to_interface;

const USAGE: i32 = 2;
const NOT_RUNNING: i32 = 3;
const NOT_PERMITTED: i32 = 4;
const HELD: i32 = 5;

/// Runs the program with these arguments, and `--netns` of the pod, with the cluster's run directory or another one.
fn ask(cluster: &Cluster, run: &str, pod: &Pod, arguments: &[&str]) -> Finished {
    let mut all = variables(cluster, run, arguments);
    all.extend(["--netns".into(), pod.netns().path().into()]);
    run_program(Path::new("/usr/bin/env"), all, None, LIMIT).unwrap()
}

/// Arguments of env(1): the run directory, the program, and its arguments.
fn variables(cluster: &Cluster, run: &str, arguments: &[&str]) -> Vec<OsString> {
    let mut variable = OsString::from("TENCRYPT_RUN_DIR=");
    variable.push(cluster.directory.join(run));
    [variable, PROGRAM.into()].into_iter().chain(arguments.iter().map(OsString::from)).collect()
}

/// `tencrypt check` of the configuration with `extra` in a pod.
fn check(cluster: &Cluster, pod: &Pod, extra: &str) -> Finished {
    let config = cluster.directory.join("check.toml");
    std::fs::write(&config, cluster.configuration(extra)).unwrap();
    ask(cluster, "run", pod, &["check", "--config", config.to_str().unwrap()])
}

/// `tencrypt up` in a pod with these further arguments and variables, not waited for.
fn start(cluster: &Cluster, pod: &Pod, arguments: &[&str], environment: &[(&str, &OsStr)]) -> Program {
    let config = cluster.directory.join(format!("{}.toml", pod.v4()));
    std::fs::write(&config, cluster.configuration("")).unwrap();
    let mut all = variables(cluster, "run", &["up", "--config", config.to_str().unwrap()]);
    all.extend(["--netns".into(), pod.netns().path().into()]);
    all.extend(arguments.iter().map(OsString::from));
    Program::start_with(Path::new("/usr/bin/env"), all, environment, None).unwrap()
}

/// Waits until `found` finds something.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_pod_with_an_address_of_either_family_in_no_range_is_refused_unless_that_is_allowed() {
    const NAME: &str = "a_pod_with_an_address_of_either_family_in_no_range_is_refused_unless_that_is_allowed";
    test(NAME, || {
        let cluster = Cluster::on_one_node();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        let network = |ranges: &str| format!("[network]\nprotected = [{ranges}]\n");
        for (ranges, missing) in [
            ("\"10.128.0.0/14\"", vec![cluster.a.v6()]),
            ("\"fd00:128::/64\"", vec![cluster.a.v4()]),
            ("\"10.245.0.0/16\"", vec![cluster.a.v4(), cluster.a.v6()]),
        ] {
            let extra = network(ranges);
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let reason = format!(
                "no range of network.protected holds the pod's own address {}:",
                missing.join(" and ")
            );
            let refused = cluster.start(&cluster.a, &extra).program.wait(LIMIT).unwrap();
            assert_eq!((refused.status.code(), refused.stdout.as_str()), (Some(USAGE), ""), "{refused:?}");
            assert!(refused.stderr.contains(&reason) && refused.stderr.lines().count() == 1, "{refused:?}");
            let checked = check(&cluster, &cluster.a, &extra);
            assert_eq!(checked.status.code(), Some(USAGE), "{checked:?}");
            assert!(
                checked.stderr.contains(&reason) && checked.stdout.contains("REFUSED  addresses"),
                "{checked:?}"
            );
            let changes = before.difference(&Snapshot::take(cluster.a.netns()).unwrap());
            assert!(changes.is_empty(), "left behind:\n{}", changes.join("\n"));
        }
        // The configuration may speak of it by an exempt range, or allow whatever comes.
        let exempt = format!("{}exempt = [\"{}\"]\n", network("\"10.128.0.0/14\""), cluster.a.v6());
        let running = cluster.up(&cluster.a, &exempt);
        assert_eq!(running.status()["network"]["unprotected"], serde_json::json!([]));
        running.stop();
        let allowed = format!("{}[policy]\nunprotected_addresses = true\n", network("\"10.128.0.0/14\""));
        let running = cluster.up(&cluster.a, &allowed);
        let named = cluster.a.v6().to_string();
        assert_eq!(running.status()["network"]["unprotected"], serde_json::json!([named]));
        assert!(running.log().contains("NOT protected: no range") && running.log().contains(&named));
    });
}

#[test]
fn an_address_in_no_range_that_comes_later_is_told() {
    test("an_address_in_no_range_that_comes_later_is_told", || {
        let cluster = Cluster::on_one_node();
        let running = cluster.up(&cluster.a, "");
        let unprotected = |running: &Running| running.status()["network"]["unprotected"].clone();
        assert_eq!(unprotected(&running), serde_json::json!([]));
        for address in ["192.0.2.7/32", "2001:db8::7/128"] {
            cluster.a.add_address(address.parse().unwrap()).unwrap();
            let address = address.split('/').next().unwrap();
            until("the address is told", || {
                (unprotected(&running) == serde_json::json!([address])).then_some(())
            });
            let line =
                format!("NOT protected: no range of network.protected holds the pod's own address {address}");
            assert!(running.log().contains(&line), "{}", running.log());
            let text = ask(&cluster, "run", &cluster.a, &["status"]).stdout;
            assert!(text.contains(&format!("NOT protected: {address}")), "{text}");
            let prefix = if address.contains(':') { 128 } else { 32 };
            cluster.a.delete_address(format!("{address}/{prefix}").parse().unwrap()).unwrap();
            until("the address goes", || (unprotected(&running) == serde_json::json!([])).then_some(()));
        }
    });
}

#[test]
fn a_closed_namespace_is_called_closed_with_both_ways_out() {
    test("a_closed_namespace_is_called_closed_with_both_ways_out", || {
        let cluster = Cluster::on_one_node();
        let mut in_it = cluster.a.netns().spawn(sleep()).unwrap();
        let mut running = cluster.up(&cluster.a, "");
        running.program.signal(Signal::Kill).unwrap();
        running.program.wait(LIMIT).unwrap();
        for command in ["status", "peers"] {
            let said = ask(&cluster, "run", &cluster.a, &[command]);
            assert_eq!(said.status.code(), Some(NOT_RUNNING), "{said:?}");
            for part in [
                "nothing runs in namespace",
                "CLOSED",
                "`tencrypt up` takes over",
                "`tencrypt down` opens it",
            ] {
                assert!(said.stderr.contains(part) && said.stderr.lines().count() == 1, "{said:?}");
            }
        }
        let path = format!("/proc/{}/ns/net", in_it.id());
        let listed = list(&cluster);
        assert_eq!(row(&listed, &path)["state"], "closed", "{listed}");
        let checked = check(&cluster, &cluster.a, "");
        assert!(
            checked.status.success() && checked.stdout.contains("CLOSED: `up` takes it over"),
            "{checked:?}"
        );
        assert!(cluster.down(&cluster.a).status.success());
        let said = ask(&cluster, "run", &cluster.a, &["status"]);
        assert_eq!(said.status.code(), Some(NOT_RUNNING));
        assert!(!said.stderr.contains("CLOSED"), "{said:?}");
        in_it.kill().unwrap();
        in_it.wait().unwrap();
    });
}

#[test]
fn a_tunnel_of_another_run_directory_is_said_to_be_there() {
    test("a_tunnel_of_another_run_directory_is_said_to_be_there", || {
        let cluster = Cluster::on_one_node();
        let running = cluster.up(&cluster.a, "");
        let twice = cluster.start(&cluster.a, "").program.wait(LIMIT).unwrap();
        let holder =
            format!("another `tencrypt up` holds this namespace: process {}\n", running.program.id());
        assert!(twice.status.code() == Some(HELD) && twice.stderr.ends_with(&holder), "{twice:?}");
        let said = ask(&cluster, "elsewhere", &cluster.a, &["status"]);
        assert_eq!(said.status.code(), Some(NOT_PERMITTED), "{said:?}");
        assert!(said.stderr.contains("a tunnel runs in namespace") && said.stderr.contains("another user's"));
        assert!(!cluster.directory.join("elsewhere").exists(), "a question makes nothing");
        let checked = check(&cluster, &cluster.a, "");
        assert_eq!(checked.status.code(), Some(HELD), "{checked:?}");
        assert!(checked.stderr.contains("`tencrypt up` runs there, process "), "{checked:?}");
    });
}

#[test]
fn explain_says_of_each_of_the_pods_own_addresses_that_it_is() {
    test("explain_says_of_each_of_the_pods_own_addresses_that_it_is", || {
        let cluster = Cluster::on_one_node();
        let running = cluster.up(&cluster.a, "");
        let said = |address: IpAddr| {
            let own = running.ask(&["explain", &address.to_string(), "--json"]);
            let is_own = own["because"][0].as_str().unwrap().contains("an address of this pod");
            (is_own && own["verdict"] == "bypass" && own["reason"] == Value::Null).then_some(())
        };
        for address in cluster.a.addresses() {
            said(address).unwrap_or_else(|| panic!("{address}: {}", running.status()));
        }
        for (address, length) in [("10.128.0.99", 14), ("fd00:128::99", 64)] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(said(address), None, "{address} is nobody's yet");
            cluster.a.add_address(format!("{address}/{length}").parse().unwrap()).unwrap();
            until("one that came later", || said(address));
        }
    });
}

/// `tencrypt list --json`.
fn list(cluster: &Cluster) -> Value {
    let all = variables(cluster, "run", &["list", "--json"]);
    let finished = run_program(Path::new("/usr/bin/env"), all, None, LIMIT).unwrap();
    assert!(finished.status.success(), "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The tunnel in the namespace called so.
fn row<'a>(listed: &'a Value, netns: &str) -> &'a Value {
    let tunnels = listed["tunnels"].as_array().unwrap();
    tunnels.iter().find(|tunnel| tunnel["netns"] == netns).unwrap_or_else(|| panic!("no {netns} in {listed}"))
}

#[test]
fn all_tunnels_are_listed_with_their_problems_and_check_finds_nothing_to_say_of_a_good_pod() {
    const NAME: &str =
        "all_tunnels_are_listed_with_their_problems_and_check_finds_nothing_to_say_of_a_good_pod";
    test(NAME, || {
        let cluster = Cluster::on_one_node();
        let checked = check(&cluster, &cluster.a, "");
        assert!(checked.status.success() && !checked.stdout.contains("REFUSED"), "{checked:?}");
        for part in
            ["eth0: MTU 1500, addresses 10.128.0.21", "each is protected", "UDP 8362", "MTU of tenc0 1440"]
        {
            assert!(checked.stdout.contains(part), "{part}: {checked:?}");
        }
        let ups = [cluster.up(&cluster.a, ""), cluster.up(&cluster.b, "")];
        cluster.a.add_address("192.0.2.7/32".parse().unwrap()).unwrap();
        cluster.say_canary(cluster.b.v4());
        until("the address is told", || {
            (ups[0].status()["network"]["unprotected"] != serde_json::json!([])).then_some(())
        });
        let listed = list(&cluster);
        for (pod, up, problems) in [(&cluster.a, &ups[0], 1), (&cluster.b, &ups[1], 0)] {
            let found = row(&listed, pod.netns().path().to_str().unwrap());
            assert_eq!((&found["state"], &found["status"]["project"]), (&"running".into(), &"shop".into()));
            assert_eq!(found["status"]["pid"], up.program.id());
            assert_eq!(found["status"]["peers"], 1, "{listed}");
            assert_eq!(found["status"]["problems"].as_array().unwrap().len(), problems, "{listed}");
        }
    });
}

#[test]
fn another_key_suite_or_epoch_is_said_once_a_minute_with_the_address_of_the_peer() {
    test("another_key_suite_or_epoch_is_said_once_a_minute_with_the_address_of_the_peer", || {
        let cluster = Cluster::on_one_node();
        let tenant = |key: &Path, suite: &str| {
            format!("[tenant]\nproject = \"shop\"\nkey_file = \"{}\"\nsuite = \"{suite}\"\n", key.display())
        };
        let (suite, own) = ("aes-256-gcm", cluster.key_file.clone());
        let other = cluster.genkey("other.key");
        let ahead = cluster.directory.join("ahead.key");
        std::fs::copy(&own, &ahead).unwrap();
        for step in ["add", "activate"] {
            let done = cluster.tencrypt(["rotate".into(), step.into(), ahead.clone().into_os_string()]);
            assert!(done.status.success(), "{done:?}");
        }
        for (key, suite_of_a, words) in [
            (&other, suite, "has another key than this tenant's"),
            (&own, "chacha20-poly1305", "has another suite in its configuration"),
            (&ahead, suite, "sends under an epoch that the key file of this pod lacks"),
        ] {
            let b = cluster.up(&cluster.b, &tenant(&own, suite));
            let a = cluster.up(&cluster.a, &tenant(key, suite_of_a));
            let to = SocketAddr::new(cluster.b.v4(), HTTP);
            assert!(http_get(cluster.a.netns(), to, "shop", CANARY, Duration::from_secs(3)).is_err());
            let (sender, log) = (format!("refused: {}:", cluster.a.v4()), b.log());
            let said = log.lines().filter(|line| line.contains(&sender) && line.contains(words)).count();
            assert!((1..=usize::from(support::lanes())).contains(&said), "{words}: {log}");
            for (pod, running) in [(&cluster.a, a), (&cluster.b, b)] {
                running.stop();
                assert!(cluster.down(pod).status.success());
            }
        }
    });
}

#[test]
fn more_is_logged_with_each_v_and_as_json_by_choice() {
    test("more_is_logged_with_each_v_and_as_json_by_choice", || {
        let cluster = Cluster::on_one_node();
        let peer: IpAddr = cluster.b.v4();
        let _b = cluster.up(&cluster.b, "");
        for (arguments, happens, addresses) in [
            (&[][..], false, false),
            (&["-v"], true, false),
            (&["-vv"], true, true),
            (&["-vv", "--log-format", "json"], true, true),
        ] {
            let mut up = start(&cluster, &cluster.a, arguments, &[]);
            up.wait_ready(LIMIT).unwrap();
            cluster.say_canary(peer);
            up.signal(Signal::Term).unwrap();
            let ended = up.wait(LIMIT).unwrap();
            let log = &ended.stderr;
            for words in ["ready: traffic is protected", "a session with a peer", "stays closed"] {
                assert_eq!(log.contains(words), happens, "{arguments:?}, {words}: {log}");
            }
            assert_eq!(log.contains(&peer.to_string()), addresses, "{arguments:?}: {log}");
            if arguments.contains(&"json") {
                for line in log.lines() {
                    let object: Value =
                        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    assert!(object["timestamp"].is_string() && object["level"].is_string(), "{line}");
                }
            }
        }
    });
}

#[test]
fn the_service_manager_is_told_when_traffic_is_protected_and_when_it_ends() {
    test("the_service_manager_is_told_when_traffic_is_protected_and_when_it_ends", || {
        let cluster = Cluster::on_one_node();
        let path = cluster.directory.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        let told = || {
            let mut bytes = [0; 256];
            let len = manager.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        };
        let mut up = start(&cluster, &cluster.a, &[], &[("NOTIFY_SOCKET", path.as_os_str())]);
        assert!(told().starts_with("READY=1\n"));
        // From then on nothing leaves in plain.
        let to = SocketAddr::new(cluster.b.v4(), HTTP);
        assert!(http_get(cluster.a.netns(), to, "shop", CANARY, Duration::from_millis(500)).is_err());
        up.wait_ready(LIMIT).unwrap();
        up.signal(Signal::Term).unwrap();
        assert!(told().starts_with("STOPPING=1\n"));
        assert!(up.wait(LIMIT).unwrap().status.success());
    });
}

#[test]
fn status_is_watched_until_the_tunnel_ends() {
    test("status_is_watched_until_the_tunnel_ends", || {
        let cluster = Cluster::on_one_node();
        let running = cluster.up(&cluster.a, "");
        let mut arguments = variables(&cluster, "run", &["status", "-w", "--json"]);
        arguments.extend(["--netns".into(), cluster.a.netns().path().into()]);
        let mut watching = Command::new("/usr/bin/env");
        watching.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut watching = watching.spawn().unwrap();
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        for _ in 0..3 {
            let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!((&status["version"], &status["project"]), (&1.into(), &"shop".into()));
        }
        running.stop();
        assert!(lines.all(|line| line.is_ok()));
        assert_eq!(watching.wait().unwrap().code(), Some(NOT_RUNNING));
    });
}

#[test]
fn a_server_that_is_bound_to_the_interface_is_named() {
    test("a_server_that_is_bound_to_the_interface_is_named", || {
        let cluster = Cluster::on_one_node();
        let servers = [("0.0.0.0:9700", true), ("0.0.0.0:9701", false), ("[::]:9702", true)];
        let servers = servers.map(|(address, is_bound)| {
            cluster.b.netns().run(|| {
                let server = (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
                if is_bound {
                    bind_to_interface(&server.0, "eth0".parse().unwrap()).unwrap();
                    bind_to_interface(&server.1, "eth0".parse().unwrap()).unwrap();
                }
                server
            })
        });
        let b = cluster.up(&cluster.b, "");
        // At the first question, and none but these.
        let named = b.status()["network"]["bound_servers"].as_array().unwrap().clone();
        let named: BTreeSet<String> = named
            .iter()
            .map(|server| {
                format!("{} {}", server["protocol"].as_str().unwrap(), server["address"].as_str().unwrap())
            })
            .collect();
        let expected = ["tcp 0.0.0.0:9700", "tcp [::]:9702", "udp 0.0.0.0:9700", "udp [::]:9702"];
        assert_eq!(named, expected.map(str::to_owned).into());
        let text = ask(&cluster, "run", &cluster.b, &["status"]).stdout;
        assert!(text.contains("NOT reached through the tunnel: the tcp server at 0.0.0.0:9700"), "{text}");
        drop(servers);
    });
}

fn sleep() -> Command {
    let mut command = Command::new("/bin/sleep");
    command.arg("600");
    command
}

#[test]
fn the_fixtures_own_probe_sees_what_a_protected_pod_says_in_plain() {
    test("the_fixtures_own_probe_sees_what_a_protected_pod_says_in_plain", || {
        let cluster = Cluster::on_one_node();
        cluster.judge();
        // As if its program were ready.
        cluster.expect_silence(&cluster.a);
        cluster.judge();
        cluster.expect_silence(&cluster.a);
        cluster.say_canary(cluster.b.v6());
        let judged = panic::catch_unwind(AssertUnwindSafe(|| cluster.judge()));
        let said = judged.expect_err("it is seen");
        assert!(said.downcast_ref::<String>().is_some_and(|said| said.contains("in plain since `ready`")));
    });
}

/// The ranges of the fixture hold the pods' own addresses, in both families: else every test here would say nothing.
#[test]
fn the_fixtures_own_ranges_are_of_both_families() {
    assert!(PROTECTED.contains("10.128.0.0/14") && PROTECTED.contains("fd00:128::/64"));
}
