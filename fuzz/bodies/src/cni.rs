//! The CNI plugin: its input, the lines between it and the node agent, the list on disk, its place in a chain.

use std::{
    ffi::OsString,
    fs::File,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use tencrypt_cni::{
    Environment, Host,
    call::{AskError, Reply, Request},
    conflist,
    list::{List, ListError, Standing},
    netns::NetnsError,
    plugin::{self, Outcome},
};

use crate::input::Input;

/// The operations, one that there is none of among them.
const COMMANDS: [&str; 7] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "FORMAT"];

/// Reads the bytes as lines of the protocol, as a list and as a chain, and performs an operation with them as network configuration. The first
/// byte chooses the operation, the second the state of the node.
pub fn cni(data: &[u8]) {
    lines(data);
    list(data);
    chain(data);
    let mut input = Input::new(data);
    let (command, state) = (COMMANDS[usize::from(input.byte()) % COMMANDS.len()], input.byte());
    operation(command, state, data.get(2..).unwrap_or_default());
}

/// A line that is taken is written as one that is taken again, and is the same. A request is no reply.
fn lines(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        let line = request.line().expect("it was not too long before");
        assert_eq!(Request::parse(&line).as_ref().ok(), Some(&request));
        assert!(Reply::parse(data).is_err());
    }
    if let Ok(reply) = Reply::parse(data) {
        assert_eq!(
            Reply::parse(&reply.line().expect("it was not too long before")).as_ref().ok(),
            Some(&reply)
        );
        if let Reply::Refused(reason) = &reply {
            let Reply::Refused(shown) = Reply::refused(reason) else { unreachable!("a refusal") };
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
}

/// A list is written as what is read again; a piece of it says of no namespace what the whole does not.
fn list(data: &[u8]) {
    match List::parse(data) {
        Ok(list) => {
            assert_eq!(List::parse(list.to_string().as_bytes()).as_ref().ok(), Some(&list));
            let half = List::parse(&data[..data.len() / 2]).unwrap_or_default();
            for line in data.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
                let name = line.split(' ').nth(1).filter(|name| *name != "-");
                let in_half = half.standing(name);
                assert!(in_half.is_none() || in_half == list.standing(name), "{line}");
            }
        }
        Err(ListError::Line { line, .. }) => {
            assert!(line <= data.split(|byte| *byte == b'\n').count());
        }
        Err(error) => panic!("{error}: neither long nor a file"),
    }
}

/// An entry that was put into a chain is there once, and taken out again it leaves what was there before but for other entries of the plugin.
fn chain(data: &[u8]) {
    const ENTRY: &str = r#"{"type": "tencrypt-cni-1", "socket": "/run/s"}"#;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(with) = conflist::with_entry(text, ENTRY) else { return };
    let with = with.unwrap_or_else(|| text.to_owned());
    assert_eq!(conflist::with_entry(&with, ENTRY).ok(), Some(None), "{with}");
    let out = |text: &str| conflist::without_entry(text).expect("a list").unwrap_or_else(|| text.to_owned());
    let (before, after) = (out(text), out(&with));
    assert_eq!(conflist::without_entry(&after).ok(), Some(None));
    assert_eq!(before, after, "something else was changed");
}

fn operation(command: &str, state: u8, config: &[u8]) {
    let node = Fake { state };
    // The pod may be one of those that the configuration says are the agent's own.
    let may_pass = node.lets_pass() || String::from_utf8_lossy(config).contains("podPrefix");
    let environment = Environment::of(|name| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "0a1b",
            "CNI_NETNS" => "/run/netns/a",
            "CNI_IFNAME" => "eth0",
            "CNI_ARGS" => "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
            _ => "/opt/cni/bin",
        };
        Some(OsString::from(value))
    });
    let Outcome { output, note, exit, .. } = plugin::run(&environment, &mut &*config, &node);
    assert!(note.is_none_or(|note| !note.chars().any(char::is_control)));
    let is_json = |text: &str| text.trim_start().starts_with('{') && text.ends_with('\n');
    match (command, exit) {
        ("ADD", 0) => {
            assert!(is_json(&output), "{output}");
            assert!(may_pass, "a pod starts of which nobody says that it may");
            let result = output.trim_end_matches('\n');
            assert!(String::from_utf8_lossy(config).contains(result), "the result was changed: {output}");
        }
        ("VERSION", 0) => assert!(is_json(&output), "{output}"),
        ("CHECK", 0) => assert!(output.is_empty() && may_pass),
        (_, 0) => assert!(output.is_empty() && command != "FORMAT", "{output}"),
        (_, 1) => assert!(is_json(&output) && output.contains("\"code\":"), "{output}"),
        _ => panic!("exit code {exit}"),
    }
}

/// A node: four answers, four lists.
struct Fake {
    state: u8,
}

impl Fake {
    fn standing(&self) -> Option<Standing> {
        match self.state / 4 % 4 {
            0 => Some(Standing::Open),
            1 => Some(Standing::Enrolled),
            _ => None,
        }
    }

    /// The agent says that the pod may start, or is silent about a namespace that is open.
    fn lets_pass(&self) -> bool {
        match self.state % 4 {
            0 => true,
            1 => false,
            _ => self.standing() == Some(Standing::Open),
        }
    }
}

impl Host for Fake {
    fn namespace(&self, _: &Path) -> Result<OwnedFd, NetnsError> {
        Ok(File::open("/dev/null")?.into())
    }

    fn list(&self, _: &Path) -> Result<List, ListError> {
        if self.state / 4 % 4 == 3 {
            return Err(ListError::Kind);
        }
        let mut list = List::new();
        list.set(Some("shop"), self.standing()).expect("a name");
        Ok(list)
    }

    fn ask(
        &self,
        _: &Path,
        request: &Request,
        namespace: Option<BorrowedFd<'_>>,
        _: Duration,
    ) -> Result<Reply, AskError> {
        let line = request.line().map_err(AskError::Request)?;
        assert_eq!(Request::parse(&line).as_ref().ok(), Some(request), "the other end would not take it");
        assert!(namespace.is_some() == !matches!(request, Request::Gc { .. } | Request::Status));
        match self.state % 4 {
            0 => Ok(Reply::Protected),
            1 => Ok(Reply::refused("no")),
            2 => Err(AskError::Absent),
            _ => Ok(Reply::Ready),
        }
    }
}
