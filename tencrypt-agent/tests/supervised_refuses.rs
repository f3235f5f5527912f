//! Refusals of `tencrypt up --supervised`: one line on standard error, the agent told the same, and nothing left behind.

mod support;

use std::fs::{self, File};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};
use support::agent::{
    AUTHORITY, Agent, CERTIFICATE, COMPLETE, CONFIG, END, FACTS, HELLO, KEYS, POD, RENEW, REPORT, REVOCATION,
    run_with_descriptor,
};
use support::{Cluster, LIMIT, PROTECTED};
use tencrypt_lab::{Finished, Pod, Snapshot, test};

const RUNTIME: i32 = 1;
const USAGE: i32 = 2;

const OWN: &[u8] = br#"{"oldest": 1, "newest": 1}"#;

fn assert_refused(finished: &Finished, code: i32, reason: &str) {
    assert_eq!(finished.status.code(), Some(code), "{reason}: {finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert!(matches!(lines[..], [line] if line.starts_with("tencrypt: ")), "not one line: {finished:?}");
    assert!(finished.stderr.contains(reason), "{:?} lacks {reason:?}", finished.stderr);
    assert_eq!(finished.stdout, "");
}

#[test]
fn what_is_no_channel_of_an_agent_is_refused() {
    test("what_is_no_channel_of_an_agent_is_refused", || {
        let cluster = Cluster::on_one_node();
        let inherited = |descriptor: OwnedFd| {
            fcntl_setfd(&descriptor, FdFlags::empty()).unwrap();
            descriptor
        };
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        let listener = UnixListener::bind(cluster.directory.join("listener")).unwrap();
        for (descriptor, reason) in [
            (inherited(File::open("/dev/null").unwrap().into()), "is no connected Unix stream socket"),
            (inherited(File::open(&cluster.key_file).unwrap().into()), "is no connected Unix stream socket"),
            (inherited(UdpSocket::bind("127.0.0.1:0").unwrap().into()), "is no connected Unix stream socket"),
            (
                inherited(TcpListener::bind("127.0.0.1:0").unwrap().into()),
                "is no connected Unix stream socket",
            ),
            (inherited(datagrams.into()), "is no connected Unix stream socket"),
            (inherited(listener.into()), "is no connected Unix stream socket"),
        ] {
            let number = descriptor.as_raw_fd().to_string();
            assert_refused(&run_with_descriptor(&cluster, &number), USAGE, reason);
        }
        for number in ["0", "1", "2", "999"] {
            assert_refused(&run_with_descriptor(&cluster, number), USAGE, "cannot be used");
        }
        for number in ["-1", "x", "", "4294967296"] {
            let finished = run_with_descriptor(&cluster, number);
            assert_eq!(finished.status.code(), Some(USAGE), "{number}: {finished:?}");
        }
        let both = cluster.tencrypt(["up", "--supervised", "3", "--netns", "x"].map(Into::into));
        assert_eq!(both.status.code(), Some(USAGE));
    });
}

/// A start that is refused.
struct Case<'c> {
    cluster: &'c Cluster,
    pod: &'c Pod,
    before: Snapshot,
}

impl<'c> Case<'c> {
    fn new(cluster: &'c Cluster) -> Self {
        Self { cluster, pod: &cluster.a, before: Snapshot::take(cluster.a.netns()).unwrap() }
    }

    /// Gives what `give` does, and expects an end with `code` for `reason`, of which the agent is told.
    fn refuses(&self, give: impl FnOnce(&mut Agent), code: i32, reason: &str) {
        let (mut running, mut agent) = self.cluster.start_supervised(self.pod);
        give(&mut agent);
        let finished = running.program.wait(LIMIT).unwrap();
        assert_refused(&finished, code, reason);
        let said = agent.wait_closed();
        let failed = said.iter().find_map(|said| said.get("failed"));
        let failed = failed.unwrap_or_else(|| panic!("{reason}: the agent was told {said:?}"));
        assert_eq!(failed["exit"], code);
        assert!(failed["reason"].as_str().unwrap().contains(reason), "{failed}");
        let changes = self.before.difference(&Snapshot::take(self.pod.netns()).unwrap());
        assert!(changes.is_empty(), "left behind:\n{}", changes.join("\n"));
        let run = self.cluster.directory.join("run");
        assert!(fs::read_dir(run).into_iter().flatten().next().is_none(), "left behind in the run directory");
    }

    /// The same for messages between those that `give` sends and `complete`.
    fn refuses_beside(&self, messages: &[(u8, &[u8])], code: i32, reason: &str) {
        let give = |agent: &mut Agent| {
            agent.give(self.cluster, self.pod, "");
            // The program may be gone before the last.
            for (kind, payload) in messages {
                let _ = agent.try_send(*kind, payload);
            }
            let _ = agent.try_send(COMPLETE, b"");
        };
        self.refuses(give, code, reason);
    }
}

#[test]
fn a_start_that_something_is_wrong_with_or_missing_in_is_refused() {
    test("a_start_that_something_is_wrong_with_or_missing_in_is_refused", || {
        let cluster = Cluster::on_one_node();
        let case = Case::new(&cluster);
        let keys = fs::read(&cluster.key_file).unwrap();
        let settings = cluster.settings("");
        case.refuses(|agent| agent.send(POD, b"{}"), USAGE, "0 descriptors");
        case.refuses(|agent| agent.send(COMPLETE, b""), USAGE, "no `hello`");
        case.refuses(|agent| agent.send(HELLO, b"hello"), USAGE, "message `hello`");
        let later = br#"{"oldest": 2, "newest": 3}"#;
        case.refuses(|agent| agent.send(HELLO, later), USAGE, "versions 2 to 3 of the protocol");
        let complete = |agent: &mut Agent, parts: &[u8]| {
            agent.send(HELLO, OWN);
            for part in parts {
                match *part {
                    POD => agent.give_pod(&cluster.a),
                    CONFIG => agent.send(CONFIG, settings.as_bytes()),
                    _ => agent.send(KEYS, &keys),
                }
            }
            agent.send(COMPLETE, b"");
        };
        case.refuses(|agent| complete(agent, &[]), USAGE, "gives no `pod`");
        case.refuses(|agent| complete(agent, &[POD]), USAGE, "gives no `config`");
        case.refuses(|agent| complete(agent, &[POD, CONFIG]), USAGE, "gives no `keys`");
        for (messages, reason) in [
            (&[(HELLO, OWN)][..], "no place before `complete`"),
            (&[(RENEW, br#"{"reason": "clone"}"#)], "no place before `complete`"),
            (&[(REPORT, b"")], "no place before `complete`"),
            (&[(KEYS, &keys)], "`keys` twice"),
            (&[(CONFIG, settings.as_bytes())], "`config` twice"),
            (&[(AUTHORITY, b"tencrypt-ca")], "message `authority`"),
            (&[(CERTIFICATE, b"x")], "certificate of the node's agent"),
            (&[(REVOCATION, b"x")], "revocation of the node's agent"),
            (&[(REVOCATION, b"tencrypt-revoked-v1\n")], "gives no `authority`"),
            (&[(FACTS, b"{\"learn\": 1}")], "message `facts`"),
            (&[(FACTS, br#"{"learn": [{"prefix": "192.0.2.1", "class": "internal"}]}"#)], "lies outside"),
            (&[(77, b"")], "no message is of kind 77"),
            (&[(REPORT, b"x")], "at most 0 are allowed"),
        ] {
            case.refuses_beside(messages, USAGE, reason);
        }
        case.refuses_beside(&[(END, br#"{"open": true}"#)], RUNTIME, "called it off");
        let many = [(FACTS, &b"{}"[..]); 1_030];
        case.refuses_beside(&many, USAGE, "more than 1024 messages");
    });
}

#[test]
fn settings_that_cannot_be_are_refused_as_those_of_a_file_are() {
    test("settings_that_cannot_be_are_refused_as_those_of_a_file_are", || {
        let cluster = Cluster::on_one_node();
        let case = Case::new(&cluster);
        let of = |config: String| {
            let cluster = &cluster;
            move |agent: &mut Agent| {
                agent.send(HELLO, OWN);
                agent.give_pod(&cluster.a);
                agent.send(CONFIG, config.as_bytes());
                let _ = agent.try_send(KEYS, &fs::read(&cluster.key_file).unwrap());
                let _ = agent.try_send(COMPLETE, b"");
            }
        };
        let tenant = "[tenant]\nproject = \"shop\"\n";
        let network = |more: &str| format!("{tenant}[network]\nprotected = {PROTECTED}\n{more}");
        for (config, code, reason) in [
            ("[tenant".to_owned(), USAGE, "configuration of the node's agent:1: "),
            (tenant.to_owned(), USAGE, "network.protected: missing"),
            (network("").replace("project", "key_file"), USAGE, "tenant.key_file: names a file"),
            (network("[policy]\nunknown = \"plain\"\n"), USAGE, "policy.unknown"),
            (network(""), USAGE, "resolv.conf of the node's agent: does not exist"),
            (
                network("interface = \"eth7\"\n[dns]\ncapture = false\n"),
                RUNTIME,
                "interface eth7 does not exist",
            ),
            (
                network("[dns]\ncapture = false\n").replace("10.128.0.0/14", "10.64.0.0/14"),
                USAGE,
                "no range of network.protected holds the pod's own address",
            ),
        ] {
            case.refuses(of(config), code, reason);
        }
    });
}

#[test]
fn wrong_descriptors_are_refused() {
    test("wrong_descriptors_are_refused", || {
        let cluster = Cluster::on_one_node();
        let case = Case::new(&cluster);
        let namespace = File::open(cluster.a.netns().path()).unwrap();
        let pod = json!({"name": "shop/a"}).to_string();
        for (path, reason) in [
            ("/dev/null", "is not a network namespace"),
            ("/proc/self/ns/mnt", "is not a network namespace"),
            ("/proc/self/ns/net", "this is the host's own network namespace"),
        ] {
            let wrong = File::open(path).unwrap();
            let give = |agent: &mut Agent| {
                agent.send(HELLO, OWN);
                agent.send_with(POD, pod.as_bytes(), &[wrong.as_fd()]);
                let _ = agent.try_send(CONFIG, cluster.settings("").as_bytes());
                let _ = agent.try_send(KEYS, &fs::read(&cluster.key_file).unwrap());
                let _ = agent.try_send(COMPLETE, b"");
            };
            case.refuses(give, USAGE, reason);
        }
        for count in [2, 3, 4] {
            let give = |agent: &mut Agent| {
                agent.send(HELLO, OWN);
                agent.send_with(POD, pod.as_bytes(), &vec![namespace.as_fd(); count]);
            };
            case.refuses(give, USAGE, "descriptors");
        }
        let beside_keys = |agent: &mut Agent| {
            agent.send(HELLO, OWN);
            agent.send_with(KEYS, b"x", &[namespace.as_fd()]);
        };
        case.refuses(beside_keys, USAGE, "`keys` came with 1 descriptors");
    });
}

#[test]
fn an_agent_that_goes_away_in_the_middle_ends_the_start() {
    test("an_agent_that_goes_away_in_the_middle_ends_the_start", || {
        let cluster = Cluster::on_one_node();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        let keys = fs::read(&cluster.key_file).unwrap();
        let gone = |give: &dyn Fn(&mut Agent)| {
            let (mut running, mut agent) = cluster.start_supervised(&cluster.a);
            give(&mut agent);
            agent.0.shutdown(Shutdown::Write).unwrap();
            let finished = running.program.wait(LIMIT).unwrap();
            assert_refused(&finished, RUNTIME, "the agent has gone before it gave everything");
            assert!(agent.wait_closed().iter().any(|said: &Value| said.get("failed").is_some()));
        };
        gone(&|_| {});
        gone(&|agent| agent.0.try_clone().map(drop).unwrap());
        gone(&|agent| agent.send(HELLO, OWN));
        gone(&|agent| {
            use std::io::Write as _;
            agent.send(HELLO, OWN);
            // A header, and half of what it promises.
            agent.0.write_all(&[0, 0, 1, 0, KEYS]).unwrap();
            agent.0.write_all(&keys[..keys.len().min(100)]).unwrap();
        });
        gone(&|agent| agent.give(&cluster, &cluster.a, ""));
        assert_eq!(Snapshot::take(cluster.a.netns()).unwrap(), before);
    });
}
