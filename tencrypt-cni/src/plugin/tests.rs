//! Operations on a node that is none.

use std::{
    cell::RefCell,
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::*;
use crate::{call::WireError, netns::NetnsError};

const RESULT: &str = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.244.1.7/24"}],"x":1e400,"x":"\u0061"}"#;
const ATTACHED: &[(&str, &str)] = &[
    ("CNI_CONTAINERID", "0a1b"),
    ("CNI_NETNS", "/run/netns/a"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"),
    ("CNI_PATH", "/opt/cni/bin"),
];

type Answer = fn() -> Result<Reply, AskError>;

/// A node with one answer, and what was asked.
struct Fake {
    answer: Answer,
    list: Result<&'static str, ()>,
    has_namespace: bool,
    asked: RefCell<Vec<(Request, bool, Duration)>>,
}

impl Fake {
    fn new(answer: Answer, list: &'static str) -> Self {
        Self { answer, list: Ok(list), has_namespace: true, asked: RefCell::default() }
    }

    fn limits(&self) -> Vec<Duration> {
        self.asked.borrow().iter().map(|(_, _, limit)| *limit).collect()
    }
}

impl Host for Fake {
    fn namespace(&self, path: &Path) -> Result<OwnedFd, NetnsError> {
        assert_eq!(path, Path::new("/run/netns/a"));
        if self.has_namespace { Ok(File::open("/dev/null")?.into()) } else { Err(NetnsError::Other) }
    }

    fn list(&self, path: &Path) -> Result<List, ListError> {
        assert!(path == Path::new(crate::list::PATH) || path == Path::new("/list"));
        match self.list {
            Ok(rest) => List::parse(format!("tencrypt-namespaces-v1\n{rest}").as_bytes()),
            Err(()) => Err(ListError::Kind),
        }
    }

    fn ask(
        &self,
        socket: &Path,
        request: &Request,
        namespace: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Reply, AskError> {
        assert!(socket == Path::new(crate::call::SOCKET) || socket == Path::new("/socket"));
        self.asked.borrow_mut().push((request.clone(), namespace.is_some(), limit));
        (self.answer)()
    }
}

fn silent() -> Result<Reply, AskError> {
    Err(AskError::Absent)
}

fn late() -> Result<Reply, AskError> {
    Err(AskError::Wire(WireError::Timeout))
}

fn refused() -> Result<Reply, AskError> {
    Ok(Reply::Refused("the key of shop\nis not there yet".into()))
}

fn config(version: &str, more: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","name":"pods","type":"tencrypt-cni"{more}}}"#)
}

fn chained(more: &str) -> String {
    config("1.1.0", &format!(",\"prevResult\":{RESULT}{more}"))
}

fn variables(command: &str, pairs: &[(&str, &str)]) -> Environment {
    Environment::of(|name| {
        let given = || pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let value = if name == "CNI_COMMAND" { Some(command) } else { given() };
        value.map(OsString::from)
    })
}

fn operate(command: &str, input: &str, host: &Fake) -> Outcome {
    run(&variables(command, ATTACHED), &mut input.as_bytes(), host)
}

/// The code and the details of a failure, which is one object in one line.
fn failed(outcome: &Outcome) -> (u64, String) {
    assert_eq!(outcome.exit, 1, "{outcome:?}");
    assert!(outcome.output.ends_with('\n') && outcome.output.lines().count() == 1, "{outcome:?}");
    let value: Value = serde_json::from_str(&outcome.output).unwrap();
    assert!(Version::parse(value["cniVersion"].as_str().unwrap()).is_some());
    assert!(!value["msg"].as_str().unwrap().is_empty());
    (value["code"].as_u64().unwrap(), value["details"].as_str().unwrap().to_owned())
}

fn succeeded(outcome: &Outcome, output: &str) {
    assert_eq!((outcome.exit, &*outcome.output), (0, output), "{outcome:?}");
}

#[test]
fn add_gives_the_result_before_to_the_letter_once_the_agent_says_so() {
    for answer in [(|| Ok(Reply::Protected)) as Answer, || Ok(Reply::Open)] {
        let host = Fake::new(answer, "");
        succeeded(&operate("ADD", &chained(""), &host), &format!("{RESULT}\n"));
        let asked = host.asked.into_inner();
        let attachment =
            Attachment { network: "pods".into(), container: "0a1b".into(), interface: "eth0".into() };
        let pod = Pod { namespace: Some("shop".into()), name: Some("web-0".into()), uid: None };
        let addresses = vec!["10.244.1.7".parse().unwrap()];
        assert_eq!(asked, [(Request::Add { attachment, pod, addresses }, true, PATIENCE)]);
    }
}

#[test]
fn a_refusal_is_told_in_one_line_whatever_the_list_says() {
    for list in ["", "open shop\n", "enrolled shop\n"] {
        let host = Fake::new(refused, list);
        let (code, details) = failed(&operate("ADD", &chained(""), &host));
        assert_eq!(code, 11);
        assert!(details.ends_with("the key of shop\\nis not there yet"), "{details}");
        assert_eq!(failed(&operate("CHECK", &chained(""), &host)).0, 100);
    }
}

#[test]
fn without_an_answer_the_list_decides_and_open_namespaces_do_not_wait() {
    let answers = [
        silent as Answer,
        late,
        || Ok(Reply::Done),
        || Ok(Reply::Ready),
        || Err(AskError::Unexpected),
        || Err(AskError::Stranger),
    ];
    for answer in answers {
        let host = Fake::new(answer, "ready\nopen shop\n");
        succeeded(&operate("ADD", &chained(""), &host), &format!("{RESULT}\n"));
        succeeded(&operate("CHECK", &chained(""), &host), "");
        assert_eq!(host.limits(), [COURTESY; 2]);
        for list in ["enrolled shop\n", "", "open shops\nopen -\n"] {
            let host = Fake::new(answer, list);
            assert_eq!(failed(&operate("ADD", &chained(""), &host)).0, 11, "{list}");
            assert_eq!(failed(&operate("CHECK", &chained(""), &host)).0, 11, "{list}");
            assert_eq!(host.limits(), [PATIENCE; 2]);
        }
        let host = Fake { list: Err(()), ..Fake::new(answer, "") };
        assert_eq!(failed(&operate("ADD", &chained(""), &host)).0, 11);
    }
}

#[test]
fn who_waits_is_told_why_and_for_what() {
    let details = |list| failed(&operate("ADD", &chained(""), &Fake { list, ..Fake::new(silent, "") })).1;
    let end = "and the node agent at /run/tencrypt/node.sock does not say that the pod is protected (nobody listens); \
               the pod starts once the node agent runs on this node";
    assert_eq!(details(Ok("enrolled shop\n")), format!("namespace `shop` is enrolled, {end}"));
    assert_eq!(
        details(Ok("")),
        format!("/var/lib/tencrypt/namespaces does not name namespace `shop`, {end}")
    );
    assert_eq!(
        details(Ok("x\n")),
        format!(
            "/var/lib/tencrypt/namespaces does not say if namespace `shop` is enrolled (line 2: `ready`, `enrolled NAME` or \
             `open NAME` is expected), {end}"
        )
    );
}

#[test]
fn pods_without_a_namespace_are_those_of_the_dash() {
    let add = |list| {
        let pairs: Vec<_> = ATTACHED.iter().copied().filter(|(name, _)| *name != "CNI_ARGS").collect();
        run(&variables("ADD", &pairs), &mut chained("").as_bytes(), &Fake::new(silent, list))
    };
    succeeded(&add("open -\n"), &format!("{RESULT}\n"));
    let (code, details) = failed(&add("open shop\n"));
    assert_eq!(code, 11);
    assert!(details.contains("does not name pods without a namespace (`-`)"), "{details}");
}

#[test]
fn the_agents_own_pods_start_without_it_and_no_other_does() {
    let agent = r#","agent":{"namespace":"tencrypt","podPrefix":"tencrypt-"}"#;
    let add = |arguments: &str, more: &str| {
        let mut pairs = ATTACHED.to_vec();
        pairs.retain(|(name, _)| *name != "CNI_ARGS");
        pairs.push(("CNI_ARGS", arguments));
        let host = Fake::new(silent, "enrolled tencrypt\n");
        (run(&variables("ADD", &pairs), &mut chained(more).as_bytes(), &host), host.limits())
    };
    let own = "K8S_POD_NAMESPACE=tencrypt;K8S_POD_NAME=tencrypt-operator-0";
    let (outcome, limits) = add(own, agent);
    succeeded(&outcome, &format!("{RESULT}\n"));
    assert_eq!(limits, [COURTESY]);
    for (arguments, more) in [
        (own, ""),
        ("K8S_POD_NAMESPACE=tencrypt;K8S_POD_NAME=web-0", agent),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=tencrypt-operator-0", agent),
        ("K8S_POD_NAME=tencrypt-operator-0", agent),
        ("K8S_POD_NAMESPACE=tencrypt", agent),
    ] {
        assert_eq!(failed(&add(arguments, more).0).0, 11, "{arguments}");
    }
}

#[test]
fn add_and_check_have_to_be_chained_and_to_have_all_variables() {
    let host = Fake::new(|| Ok(Reply::Protected), "open shop\n");
    for command in ["ADD", "CHECK"] {
        assert_eq!(failed(&operate(command, &config("1.1.0", ""), &host)).0, 7);
        assert_eq!(failed(&operate(command, &config("1.1.0", ",\"prevResult\":null"), &host)).0, 7);
        assert_eq!(failed(&operate(command, &config("1.1.0", ",\"prevResult\":[]"), &host)).0, 6);
        assert_eq!(failed(&operate(command, &config("1.1.0", ",\"prevResult\":{\"ips\":[0]}"), &host)).0, 7);
        for (named, wrong) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a b"),
            ("CNI_NETNS", ""),
            ("CNI_NETNS", "a"),
            ("CNI_ARGS", "a"),
        ] {
            let pairs: Vec<_> = ATTACHED
                .iter()
                .map(|&(name, value)| (name, if name == named { wrong } else { value }))
                .collect();
            let (code, details) =
                failed(&run(&variables(command, &pairs), &mut chained("").as_bytes(), &host));
            assert_eq!(code, 4);
            assert!(details.contains(named), "{details}");
        }
        let host = Fake { has_namespace: false, ..Fake::new(|| Ok(Reply::Open), "open shop\n") };
        let (code, details) = failed(&operate(command, &chained(""), &host));
        assert_eq!((code, &*details), (4, "CNI_NETNS: /run/netns/a: no network namespace"));
        assert!(host.limits().is_empty());
        assert_eq!(failed(&operate(command, &chained(",\"socket\":7"), &host)).0, 4);
    }
    assert!(host.limits().is_empty(), "the agent was asked");
    assert_eq!(failed(&operate("ADD", &chained(",\"socket\":7"), &host)).0, 7);
    assert_eq!(failed(&operate("ADD", &chained(",\"agent\":{\"x\":7}"), &host)).0, 2);
}

#[test]
fn del_succeeds_without_anything() {
    let bare: &[(&str, &str)] =
        &[("CNI_CONTAINERID", "0a1b"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", "garbage")];
    for answer in [silent as Answer, late, refused, || Ok(Reply::Done)] {
        for input in [
            config("0.3.1", ""),
            config("1.1.0", ",\"prevResult\":7,\"agent\":7"),
            config("1.1.0", ",\"socket\":7"),
            chained(""),
        ] {
            for pairs in [bare, ATTACHED] {
                let host = Fake { has_namespace: false, list: Err(()), ..Fake::new(answer, "") };
                for _ in 0..2 {
                    succeeded(&run(&variables("DEL", pairs), &mut input.as_bytes(), &host), "");
                }
                assert!(host.limits().iter().all(|limit| *limit == SHORT));
                assert!(host.asked.borrow().iter().all(|(_, has_namespace, _)| !has_namespace));
            }
        }
    }
    let host = Fake::new(silent, "open shop\n");
    succeeded(&operate("DEL", &chained(""), &host), "");
    let asked = host.asked.into_inner();
    assert!(matches!(asked[..], [(Request::Del { .. }, true, COURTESY)]), "{asked:?}");
    let host = Fake::new(silent, "");
    assert_eq!(failed(&run(&variables("DEL", &[]), &mut chained("").as_bytes(), &host)).0, 4);
    assert_eq!(failed(&operate("DEL", "garbage", &host)).0, 6);
}

#[test]
fn a_del_that_the_agent_does_not_hear_of_is_noted_in_one_line() {
    let outcome = operate("DEL", &chained(""), &Fake::new(refused, ""));
    assert_eq!(
        outcome.note.unwrap(),
        "the node agent at /run/tencrypt/node.sock was told of DEL in vain: the key of shop\\nis not there yet"
    );
    assert_eq!(operate("DEL", &chained(""), &Fake::new(|| Ok(Reply::Done), "")).note, None);
    let outcome = operate("DEL", &chained(",\"socket\":7"), &Fake::new(silent, ""));
    assert!(outcome.note.unwrap().starts_with("the node agent was not told of DEL: "));
}

#[test]
fn gc_passes_on_what_is_valid_and_never_an_absent_list() {
    let valid = r#","cni.dev/valid-attachments":[{"containerID":"0a1b","ifname":"eth0"}]"#;
    for answer in [silent as Answer, refused, || Ok(Reply::Done)] {
        let host = Fake::new(answer, "");
        succeeded(&operate("GC", &config("1.1.0", valid), &host), "");
        let held = crate::call::Held { container: "0a1b".into(), interface: "eth0".into() };
        let request = Request::Gc { network: "pods".into(), valid: vec![held] };
        assert_eq!(host.asked.into_inner(), [(request, false, SHORT)]);
    }
    let host = Fake::new(silent, "");
    for input in [config("1.1.0", ""), config("1.1.0", ",\"cni.dev/valid-attachments\":null")] {
        succeeded(&operate("GC", &input, &host), "");
    }
    succeeded(&operate("GC", &config("1.1.0", &format!("{valid},\"socket\":7")), &host), "");
    assert_eq!(failed(&operate("GC", &config("1.1.0", ",\"cni.dev/valid-attachments\":{}"), &host)).0, 7);
    assert_eq!(failed(&run(&variables("GC", &[]), &mut config("1.1.0", valid).as_bytes(), &host)).0, 4);
    assert!(host.limits().is_empty());
}

#[test]
fn status_succeeds_once_the_agent_was_ready() {
    let status = |answer, list| operate("STATUS", &config("1.1.0", ""), &Fake::new(answer, list));
    for answer in [silent as Answer, refused, late] {
        succeeded(&status(answer, "ready\nenrolled shop\n"), "");
        for list in ["", "enrolled shop\n", "x\n"] {
            assert_eq!(failed(&status(answer, list)).0, 50);
        }
    }
    succeeded(&status(|| Ok(Reply::Ready), ""), "");
    assert_eq!(failed(&status(|| Ok(Reply::Done), "")).0, 50);
    let host = Fake::new(silent, "ready\n");
    succeeded(&run(&variables("STATUS", &[]), &mut config("1.1.0", "").as_bytes(), &host), "");
    assert!(host.limits().is_empty());
}

#[test]
fn a_version_has_the_commands_that_it_had() {
    let host = Fake::new(|| Ok(Reply::Protected), "ready\n");
    for (version, commands) in [
        ("0.3.1", &["ADD", "DEL"][..]),
        ("0.4.0", &["ADD", "DEL", "CHECK"]),
        ("1.0.0", &["ADD", "DEL", "CHECK"]),
        ("1.1.0", &["ADD", "DEL", "CHECK", "GC", "STATUS"]),
    ] {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let input = config(version, &format!(",\"prevResult\":{RESULT}"));
            let outcome = operate(command, &input, &host);
            if commands.contains(&command) {
                assert_eq!(outcome.exit, 0, "{version} {command}: {outcome:?}");
            } else {
                assert_eq!(
                    failed(&outcome),
                    (1, format!("CNI {version}, of which the network configuration is, has no {command}"))
                );
                assert!(outcome.output.starts_with(&format!("{{\"cniVersion\":\"{version}\"")));
            }
        }
    }
}

#[test]
fn versions_are_told_to_whom_asks() {
    let host = Fake::new(silent, "");
    let versions = |input: &str| run(&variables("VERSION", &[]), &mut input.as_bytes(), &host);
    let told = |version| {
        format!(
            "{{\"cniVersion\":\"{version}\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}}\n"
        )
    };
    succeeded(&versions(r#"{"cniVersion":"1.0.0"}"#), &told("1.0.0"));
    succeeded(&versions(""), &told("1.1.0"));
    assert_eq!(failed(&versions("garbage")).0, 6);
}

#[test]
fn commands_and_input_that_are_none_are_refused() {
    let host = Fake::new(|| Ok(Reply::Protected), "open shop\n");
    for command in ["", "add", "FORMAT"] {
        let (code, details) = failed(&operate(command, &chained(""), &host));
        assert_eq!(code, 4);
        assert!(details.starts_with("CNI_COMMAND: "), "{details}");
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    assert_eq!(failed(&run(&variables("ADD", ATTACHED), &mut Broken, &host)).0, 5);
    // Without an end: no more is read than may be.
    assert_eq!(failed(&run(&variables("ADD", ATTACHED), &mut io::repeat(b' '), &host)).0, 6);
    assert!(host.limits().is_empty());
}

#[test]
fn socket_and_list_are_those_of_the_configuration() {
    let host = Fake::new(silent, "");
    let (_, details) = failed(&operate("ADD", &chained(",\"socket\":\"/socket\",\"list\":\"/list\""), &host));
    assert!(details.contains("/list does not name") && details.contains("agent at /socket "), "{details}");
    assert_eq!(PathBuf::from(crate::list::PATH), Path::new("/var/lib/tencrypt/namespaces"));
}
