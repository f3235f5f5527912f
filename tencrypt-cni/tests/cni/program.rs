//! The program itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tencrypt_cni::{
    call::{Reply, Request},
    list::{List, Standing},
};

use crate::agent::{Agent, Folder, LIMIT};

/// A result that no reader of JSON gives back as it was, unless it does not read it.
const RESULT: &str = "{\n  \"cniVersion\" : \"1.1.0\",\"ips\":[ {\"address\":\"10.244.1.7/24\"} ],\
    \"n\":123456789012345678901234567890.10e+7,\"n\":-0.0,\"t\":\"\\u0061\\ud83d\\ude00\\/\",\"dns\":{}}";

const ADD: &[(&str, &str)] = &[
    ("CNI_CONTAINERID", "0a1b"),
    ("CNI_NETNS", "/proc/self/ns/net"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"),
    ("CNI_PATH", "/opt/cni/bin"),
];

/// The end of the program.
struct Ended {
    status: ExitStatus,
    output: String,
    errors: String,
    took: Duration,
}

impl Ended {
    /// The code and the details of a failure: one object, and nothing beside it.
    fn failure(&self) -> (u64, String) {
        assert_eq!(self.status.code(), Some(1), "{} {}", self.output, self.errors);
        let mut values = serde_json::Deserializer::from_str(&self.output).into_iter::<Value>();
        let value = values.next().expect("an object").expect("JSON");
        assert!(values.next().is_none(), "{}", self.output);
        let details = value["details"].as_str().expect("details").to_owned();
        assert!(!details.is_empty() && !details.chars().any(char::is_control), "{details:?}");
        (value["code"].as_u64().expect("a code"), details)
    }

    fn code(&self) -> u64 {
        self.failure().0
    }

    #[track_caller]
    fn succeeds_with(&self, output: &str) {
        assert_eq!((self.status.code(), &*self.output), (Some(0), output), "{}", self.errors);
    }
}

fn program(command: Option<&str>, variables: &[(&str, &str)]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tencrypt-cni"));
    program.env_clear().envs(variables.iter().copied());
    if let Some(command) = command {
        program.env("CNI_COMMAND", command);
    }
    program
}

/// Runs the program to its end.
fn run(mut program: Command, input: &[u8]) -> Ended {
    let begun = Instant::now();
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    // It need not read all, or any of it.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let (told, hears) = mpsc::channel();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    thread::spawn(move || {
        let (mut output, mut errors) = (String::new(), String::new());
        stdout.read_to_string(&mut output).expect("text");
        stderr.read_to_string(&mut errors).expect("text");
        told.send((output, errors))
    });
    let ended = hears.recv_timeout(LIMIT);
    if ended.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    writer.join().unwrap();
    let (output, errors) = ended.expect("it ends in time");
    Ended { status, output, errors, took: begun.elapsed() }
}

fn config(folder: &Folder, more: &str) -> String {
    let (socket, list) = (folder.socket(), folder.path("namespaces"));
    format!(
        "{{\"cniVersion\":\"1.1.0\",\"name\":\"pods\",\"type\":\"tencrypt-cni\",\"socket\":{:?},\"list\":{:?}{more}}}\n",
        socket.display().to_string(),
        list.display().to_string()
    )
}

fn operate(command: &str, folder: &Folder) -> Ended {
    let input = config(folder, &format!(",\"prevResult\":{RESULT}"));
    run(program(Some(command), ADD), input.as_bytes())
}

fn write_list(folder: &Folder, namespace: &str, standing: Standing) {
    let mut list = List::new();
    list.set_ready();
    list.set(Some(namespace), Some(standing)).unwrap();
    list.write(&folder.path("namespaces")).unwrap();
}

#[test]
fn a_pod_is_added_twice_checked_and_deleted_twice() {
    let folder = Folder::new("program-life");
    let (told, hears) = mpsc::channel();
    let _agent = Agent::answering(&folder, move |call| {
        let reply = if matches!(call.request, Request::Del { .. }) { Reply::Done } else { Reply::Protected };
        told.send(call).unwrap();
        reply
    });
    for _ in 0..2 {
        operate("ADD", &folder).succeeds_with(&format!("{RESULT}\n"));
    }
    operate("CHECK", &folder).succeeds_with("");
    for _ in 0..2 {
        operate("DEL", &folder).succeeds_with("");
    }
    let own = fs::metadata("/proc/self/ns/net").unwrap();
    let next = |_| {
        let call = hears.recv_timeout(LIMIT).unwrap();
        let found = fs::File::from(call.namespace.unwrap()).metadata().unwrap();
        assert_eq!((found.dev(), found.ino()), (own.dev(), own.ino()));
        call.request.name()
    };
    let names: Vec<&str> = (0..5).map(next).collect();
    assert_eq!(names, ["ADD", "ADD", "CHECK", "DEL", "DEL"]);
}

#[test]
fn a_pod_that_is_refused_is_told_why() {
    let folder = Folder::new("program-refused");
    let _agent = Agent::answering(&folder, |_| Reply::refused("the key of shop is not there yet"));
    let (code, details) = operate("ADD", &folder).failure();
    assert_eq!(code, 11);
    assert!(details.ends_with("the key of shop is not there yet"), "{details}");
    assert_eq!(operate("CHECK", &folder).code(), 100);
    let del = operate("DEL", &folder);
    del.succeeds_with("");
    assert_eq!(del.errors.lines().count(), 1, "{}", del.errors);
}

#[test]
fn an_agent_that_does_not_answer_as_it_should_leaves_it_to_the_list() {
    let ready = "{\"version\":1,\"reply\":\"protected\"}\n";
    for answer in [
        "",
        "garbage\n",
        "{\"version\":1,\"reply\":",
        &ready[..ready.len() - 1],
        &ready.repeat(2),
        &ready.replace('1', "2"),
        "{\"version\":1,\"reply\":\"done\"}\n",
        &"x".repeat(1 << 20),
    ] {
        let folder = Folder::new("program-astray");
        let _agent = Agent::saying(&folder, answer);
        write_list(&folder, "shop", Standing::Open);
        operate("ADD", &folder).succeeds_with(&format!("{RESULT}\n"));
        write_list(&folder, "shop", Standing::Enrolled);
        assert_eq!(operate("ADD", &folder).code(), 11);
        write_list(&folder, "shops", Standing::Open);
        assert_eq!(operate("ADD", &folder).code(), 11);
        operate("DEL", &folder).succeeds_with("");
        operate("STATUS", &folder).succeeds_with("");
    }
}

#[test]
fn a_pod_that_is_known_to_be_open_does_not_wait_for_an_agent_that_hangs() {
    let folder = Folder::new("program-hung");
    write_list(&folder, "shop", Standing::Open);
    let (over, wait) = mpsc::channel::<()>();
    let agent = Agent::start(&folder, move |_held| {
        let _ = wait.recv_timeout(LIMIT);
    });
    for (command, output) in
        [("ADD", format!("{RESULT}\n")), ("CHECK", String::new()), ("DEL", String::new())]
    {
        let ended = operate(command, &folder);
        ended.succeeds_with(&output);
        assert!(ended.took < Duration::from_secs(5), "{command} took {:?}", ended.took);
    }
    drop(over);
    drop(agent);
}

#[test]
fn without_agent_and_list_only_what_starts_a_pod_fails() {
    let folder = Folder::new("program-nothing");
    let (code, details) = operate("ADD", &folder).failure();
    assert_eq!(code, 11);
    assert!(details.contains("namespaces does not say if namespace `shop` is enrolled"), "{details}");
    assert_eq!(operate("CHECK", &folder).code(), 11);
    operate("DEL", &folder).succeeds_with("");
    let valid = ",\"cni.dev/valid-attachments\":[{\"containerID\":\"0a1b\",\"ifname\":\"eth0\"}]";
    run(program(Some("GC"), ADD), config(&folder, valid).as_bytes()).succeeds_with("");
    assert_eq!(operate("STATUS", &folder).code(), 50);
    assert!(fs::read_dir(folder.path("")).unwrap().next().is_none(), "something was left behind");
}

#[test]
fn a_broken_list_says_nothing() {
    let folder = Folder::new("program-broken");
    let path = folder.path("namespaces");
    for text in [
        "",
        "garbage\n",
        "tencrypt-namespaces-v2\nopen shop\n",
        "tencrypt-namespaces-v1\nready\nopen shop",
        "tencrypt-namespaces-v1\nready\nopen shop\nopen shop\n",
        "tencrypt-namespaces-v1\nready\nopen shop\nenrolled shop\n",
        "tencrypt-namespaces-v1\nopen shop\nready\n",
        "tencrypt-namespaces-v1\nready\nopen shop\nopen Shop\n",
        "tencrypt-namespaces-v1\nready\nopen shop\n\n",
    ] {
        fs::write(&path, text).unwrap();
        let (code, details) = operate("ADD", &folder).failure();
        assert_eq!(code, 11, "{text:?}");
        assert!(details.contains("does not say if namespace `shop` is enrolled (line "), "{details}");
        assert_eq!(operate("STATUS", &folder).code(), 50, "{text:?}");
        operate("DEL", &folder).succeeds_with("");
    }
    fs::write(&path, "tencrypt-namespaces-v1\nready\nopen shop\n").unwrap();
    operate("ADD", &folder).succeeds_with(&format!("{RESULT}\n"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let (code, details) = operate("ADD", &folder).failure();
    assert!(code == 11 && details.contains("(no regular file)"), "{details}");
}

#[test]
fn input_that_is_no_network_configuration_has_its_code() {
    let folder = Folder::new("program-input");
    let _agent = Agent::answering(&folder, |_| panic!("the agent is asked"));
    let good = config(&folder, ",\"prevResult\":{}");
    let deep = "[".repeat(100_000);
    for (input, code) in [
        (String::new(), 6),
        ("garbage".into(), 6),
        ("[]".into(), 6),
        (good[..good.len() / 2].into(), 6),
        (good.repeat(2), 6),
        (deep.clone(), 6),
        (format!("{{\"x\":{deep}"), 6),
        (config(&folder, &format!(",\"prevResult\":{{\"ips\":{deep}{}}}", "]".repeat(100_000))), 6),
        (config(&folder, &format!(",\"prevResult\":{{}},\"x\":\"{}\"", "a".repeat(2 << 20))), 6),
        (config(&folder, ",\"prevResult\":\"text\""), 6),
        (config(&folder, ",\"prevResult\":[]"), 6),
        (config(&folder, ",\"prevResult\":{\"ips\":{}}"), 7),
        (config(&folder, ",\"prevResult\":null"), 7),
        (config(&folder, ""), 7),
        (good.replace("\"pods\"", "\"\""), 7),
        (good.replace("\"name\"", "\"nam\""), 7),
        (good.replace("1.1.0", "2.0.0"), 1),
        (good.replace("\"1.1.0\"", "1.1"), 6),
        (good.replace(&*folder.socket().to_string_lossy(), "node.sock"), 7),
        (config(&folder, ",\"prevResult\":{},\"agent\":{\"name\":\"a\"}"), 2),
    ] {
        let short: String = input.chars().take(120).collect();
        assert_eq!(run(program(Some("ADD"), ADD), input.as_bytes()).code(), code, "{short}");
    }
    let bytes = [&good.as_bytes()[..good.len() - 2], b",\"x\":\"\xff\xfe\"}"].concat();
    assert_eq!(run(program(Some("ADD"), ADD), &bytes).code(), 6);
}

#[test]
fn variables_that_are_wrong_are_named() {
    let folder = Folder::new("program-variables");
    write_list(&folder, "shop", Standing::Open);
    let file = folder.path("file");
    fs::write(&file, "").unwrap();
    for (name, value) in [
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "a;b"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "0123456789abcdef"),
        ("CNI_NETNS", ""),
        ("CNI_NETNS", "proc/self/ns/net"),
        ("CNI_NETNS", "/proc/self/ns/uts"),
        ("CNI_NETNS", "/proc/self/ns/absent"),
        ("CNI_NETNS", file.to_str().unwrap()),
        ("CNI_NETNS", "/"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a/b"),
    ] {
        let mut changed = program(Some("ADD"), ADD);
        changed.env(name, value);
        let input = config(&folder, &format!(",\"prevResult\":{RESULT}"));
        let (code, details) = run(changed, input.as_bytes()).failure();
        assert_eq!(code, 4, "{name}={value}");
        assert!(details.contains(name), "{details}");
        if ["CNI_NETNS", "CNI_ARGS"].contains(&name) {
            let mut changed = program(Some("DEL"), ADD);
            changed.env(name, value);
            run(changed, input.as_bytes()).succeeds_with("");
        }
    }
    assert_eq!(run(program(None, ADD), b"").code(), 4);
    assert_eq!(operate("FORMAT", &folder).code(), 4);
    assert_eq!(run(program(Some("DEL"), &[]), config(&folder, "").as_bytes()).code(), 4);
}

#[test]
fn versions_are_told_without_anything_else() {
    let versions = "\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n";
    let ended = run(program(Some("VERSION"), &[]), b"{\"cniVersion\":\"0.4.0\"}");
    ended.succeeds_with(&format!("{{\"cniVersion\":\"0.4.0\",{versions}"));
    // As libcni asks.
    let dummies =
        &[("CNI_NETNS", "dummy"), ("CNI_IFNAME", "dummy"), ("CNI_PATH", "dummy"), ("CNI_CONTAINERID", "")];
    let ended = run(program(Some("VERSION"), dummies), b"{\"cniVersion\":\"1.1.0\"}");
    ended.succeeds_with(&format!("{{\"cniVersion\":\"1.1.0\",{versions}"));
}

#[test]
fn a_person_is_told_what_it_is() {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(terminal.as_fd(), Vec::new()).unwrap();
    let end = || {
        let mut options = fs::File::options();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(name.to_str().unwrap()).unwrap()
    };
    let said = program(None, &[]).stdin(end()).output().unwrap();
    let errors = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), &*said.stdout), (Some(1), &b""[..]));
    assert!(errors.starts_with("tencrypt-cni: ") && errors.lines().count() == 1, "{errors}");
    // Asked for something, it does not wait for input either.
    let said = program(Some("VERSION"), &[]).stdin(end()).output().unwrap();
    assert!(said.status.success() && said.stdout.starts_with(b"{\"cniVersion\":\"1.1.0\""));
}
