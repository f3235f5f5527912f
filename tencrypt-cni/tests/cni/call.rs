//! The protocol, at both ends.

use std::{
    env,
    fs::{self, File},
    io::{self, IoSlice, PipeReader, Read as _, Write as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    cmsg_space,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, bind, listen, sendmsg, socket_with,
    },
};
use tencrypt_cni::{
    call::{
        self, AskError, Attachment, Call, Held, LineError, Pod, REPLY_LIMIT, REQUEST_LIMIT, ReceiveError,
        Reply, Request, WireError,
    },
    netns,
};

use crate::agent::{Agent, Folder, LIMIT};

/// The time for what is not to happen.
const MOMENT: Duration = Duration::from_millis(50);

const STATUS: &[u8] = b"{\"version\":1,\"request\":\"status\"}\n";

fn attachment() -> Attachment {
    Attachment { network: "pods".into(), container: "0a1b".into(), interface: "eth0".into() }
}

fn add() -> Request {
    Request::Add {
        attachment: attachment(),
        pod: Pod::default(),
        addresses: vec!["10.244.1.7".parse().unwrap()],
    }
}

fn del() -> Request {
    Request::Del { attachment: attachment(), pod: Pod::default() }
}

fn namespace() -> OwnedFd {
    netns::open(Path::new("/proc/self/ns/net")).unwrap()
}

/// Sends bytes with descriptors beside the first of them.
fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(32))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(beside.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// Receives what a client sends that says `bytes` and no more.
fn received(bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Call, ReceiveError> {
    let (client, server) = UnixStream::pair().unwrap();
    send(&client, bytes, descriptors);
    client.shutdown(Shutdown::Write).unwrap();
    call::receive(&server, LIMIT)
}

/// Tells if nobody holds the other end of a pipe any more.
fn is_closed(mut pipe: PipeReader) -> bool {
    let (told, hears) = mpsc::channel();
    thread::spawn(move || told.send(pipe.read(&mut [0]).unwrap()));
    hears.recv_timeout(LIMIT) == Ok(0)
}

fn ask(folder: &Folder, request: &Request) -> Result<Reply, AskError> {
    call::ask(&folder.socket(), request, None, LIMIT)
}

#[test]
fn the_namespace_that_arrives_is_the_one_that_was_sent() {
    let folder = Folder::new("call-namespace");
    let (told, hears) = mpsc::channel();
    let _agent = Agent::answering(&folder, move |call| {
        told.send(call).unwrap();
        Reply::Protected
    });
    let reply = call::ask(&folder.socket(), &add(), Some(namespace().as_fd()), LIMIT).unwrap();
    assert_eq!(reply, Reply::Protected);
    let call = hears.recv_timeout(LIMIT).unwrap();
    assert_eq!(call.request, add());
    let arrived = File::from(call.namespace.unwrap());
    let flags = rustix::io::fcntl_getfd(&arrived).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "programs that the agent starts inherit it");
    let (arrived, own) = (arrived.metadata().unwrap(), fs::metadata("/proc/self/ns/net").unwrap());
    assert_eq!((arrived.dev(), arrived.ino()), (own.dev(), own.ino()));
}

#[test]
fn every_reply_that_belongs_to_its_request_arrives() {
    let gc = Request::Gc { network: "pods".into(), valid: vec![] };
    for (request, reply, belongs) in [
        (Request::Status, Reply::Ready, true),
        (Request::Status, Reply::refused("not yet"), true),
        (Request::Status, Reply::Done, false),
        (del(), Reply::Done, true),
        (del(), Reply::Protected, false),
        (gc.clone(), Reply::Done, true),
        (gc, Reply::Open, false),
    ] {
        let folder = Folder::new("call-replies");
        let answer = reply.clone();
        let _agent = Agent::answering(&folder, move |_| answer.clone());
        match ask(&folder, &request) {
            Ok(arrived) => assert!(belongs && arrived == reply, "{request:?}: {arrived:?}"),
            Err(AskError::Unexpected) => assert!(!belongs, "{request:?}: {reply:?}"),
            Err(error) => panic!("{request:?}: {error}"),
        }
    }
}

#[test]
fn the_longest_request_goes_over_whole() {
    let held = |at: usize| Held { container: format!("{at:064}"), interface: "eth0".into() };
    let request = Request::Gc { network: "pods".into(), valid: (0..10_000).map(held).collect() };
    assert!(request.line().unwrap().len() > REQUEST_LIMIT / 10 * 9);
    let folder = Folder::new("call-long");
    let (told, hears) = mpsc::channel();
    let _agent = Agent::answering(&folder, move |call| {
        told.send(call.request).unwrap();
        Reply::Done
    });
    assert_eq!(ask(&folder, &request).unwrap(), Reply::Done);
    assert_eq!(hears.recv_timeout(LIMIT).unwrap(), request);
}

#[test]
fn more_descriptors_than_one_are_refused_and_closed() {
    for count in [2, 3, 16] {
        let (readers, writers): (Vec<_>, Vec<_>) = (0..count).map(|_| io::pipe().unwrap()).unzip();
        let descriptors: Vec<_> = writers.iter().map(|writer| writer.as_fd()).collect();
        let error = received(&add().line().unwrap(), &descriptors).unwrap_err();
        assert!(matches!(error, ReceiveError::Wire(WireError::Descriptors)), "{count}: {error}");
        drop(writers);
        assert!(readers.into_iter().all(is_closed), "{count}");
    }
    // One after the other.
    let (client, server) = UnixStream::pair().unwrap();
    let line = add().line().unwrap();
    let (first, second) = line.split_at(1);
    send(&client, first, &[namespace().as_fd()]);
    send(&client, second, &[namespace().as_fd()]);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(call::receive(&server, LIMIT), Err(ReceiveError::Wire(WireError::Descriptors))));
}

#[test]
fn a_descriptor_of_anything_but_a_network_namespace_is_refused_and_closed() {
    let (reader, writer) = io::pipe().unwrap();
    for request in
        [add(), Request::Check { attachment: attachment(), pod: Pod::default(), addresses: vec![] }, del()]
    {
        let line = request.line().unwrap();
        for path in ["/proc/self/ns/uts", "/proc/self/ns/user", "/dev/null", "/"] {
            let file = File::open(path).unwrap();
            let refused = received(&line, &[file.as_fd()]);
            assert!(matches!(refused, Err(ReceiveError::NoNamespace)), "{path}: {refused:?}");
        }
        assert!(matches!(received(&line, &[writer.as_fd()]), Err(ReceiveError::NoNamespace)));
        assert!(received(&line, &[namespace().as_fd()]).is_ok());
        let without = received(&line, &[]);
        match request {
            Request::Del { .. } => assert!(without.unwrap().namespace.is_none()),
            _ => assert!(matches!(without, Err(ReceiveError::NoNamespace)), "{without:?}"),
        }
    }
    drop(writer);
    assert!(is_closed(reader));
    assert!(received(STATUS, &[]).is_ok());
    assert!(matches!(received(STATUS, &[namespace().as_fd()]), Err(ReceiveError::Descriptor)));
}

#[test]
fn what_is_no_request_is_refused_and_its_descriptor_closed() {
    let (reader, writer) = io::pipe().unwrap();
    let twice = STATUS.repeat(2);
    let later = b"{\"version\":2,\"request\":\"status\"}\n";
    for (bytes, said) in [
        (&b"garbage\n"[..], "the request: malformed"),
        (b"\xff\xfe\n", "the request: malformed"),
        (b"\n", "the request: malformed"),
        (&STATUS[..10], "the request: cut off"),
        (&STATUS[..STATUS.len() - 1], "the request: cut off"),
        (&twice, "the request: more than one line"),
        (later, "the request: version 2 of the protocol, not 1"),
    ] {
        let error = received(bytes, &[writer.as_fd()]).unwrap_err();
        assert_eq!(error.to_string(), said);
    }
    drop(writer);
    assert!(is_closed(reader));
    let (client, server) = UnixStream::pair().unwrap();
    drop(client);
    assert!(matches!(call::receive(&server, LIMIT), Err(ReceiveError::Request(LineError::CutOff))));
}

#[test]
fn a_request_without_end_is_left_after_its_limit_in_bytes() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let sender = thread::spawn(move || while client.write_all(&[b'x'; 4096]).is_ok() {});
    let error = call::receive(&server, LIMIT).unwrap_err();
    assert!(matches!(error, ReceiveError::Wire(WireError::TooLong { limit: REQUEST_LIMIT })), "{error}");
    drop(server);
    sender.join().unwrap();
}

#[test]
fn a_client_that_dawdles_is_left_in_time() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let begun = Instant::now();
    assert!(matches!(call::receive(&server, MOMENT), Err(ReceiveError::Wire(WireError::Timeout))));
    // A byte now and then does not prolong it.
    let dawdler = thread::spawn(move || {
        for byte in STATUS.iter().cycle() {
            if client.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(MOMENT / 10);
        }
    });
    assert!(matches!(call::receive(&server, MOMENT), Err(ReceiveError::Wire(WireError::Timeout))));
    assert!(begun.elapsed() < LIMIT);
    drop(server);
    dawdler.join().unwrap();
    // One that takes no answer, of which more are sent than the socket holds.
    let (client, server) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&server, 4096).unwrap();
    let long = Reply::Refused("a".repeat(REPLY_LIMIT - 100));
    assert_eq!(call::respond(&server, &long, MOMENT).unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(client);
    assert_eq!(call::respond(&server, &long, LIMIT).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let (_client, server) = UnixStream::pair().unwrap();
    let longer = Reply::Refused("a".repeat(REPLY_LIMIT));
    assert_eq!(call::respond(&server, &longer, LIMIT).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn nobody_there_is_told_at_once() {
    let folder = Folder::new("call-absent");
    assert!(matches!(ask(&folder, &Request::Status), Err(AskError::Absent)));
    drop(UnixListener::bind(folder.socket()).unwrap());
    assert!(matches!(ask(&folder, &Request::Status), Err(AskError::Absent)));
    fs::remove_file(folder.socket()).unwrap();
    fs::write(folder.socket(), "a file").unwrap();
    assert!(matches!(ask(&folder, &Request::Status), Err(AskError::Absent)));
    let inside = call::ask(&folder.socket().join("node.sock"), &Request::Status, None, LIMIT);
    assert!(matches!(inside, Err(AskError::Wire(WireError::Io(_)))), "{inside:?}");
}

#[test]
fn an_agent_that_accepts_nobody_is_left_in_time() {
    let folder = Folder::new("call-deaf");
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(folder.socket()).unwrap()).unwrap();
    listen(&socket, 0).unwrap();
    let begun = Instant::now();
    // The first is let into the queue and hears nothing, the second does not come so far.
    let waiting = UnixStream::connect(folder.socket()).unwrap();
    for _ in 0..2 {
        let error = call::ask(&folder.socket(), &Request::Status, None, MOMENT).unwrap_err();
        assert!(matches!(error, AskError::Wire(WireError::Timeout)), "{error:?}");
    }
    assert!(begun.elapsed() < LIMIT);
    drop(waiting);
}

#[test]
fn an_agent_that_hangs_is_left_in_time() {
    for begun_with in [&b""[..], b"{\"version\":1,\"reply\"", b"{\"version\":1,\"reply\":\"ready\"}\n"] {
        let folder = Folder::new("call-hung");
        let (over, wait) = mpsc::channel::<()>();
        let agent = Agent::start(&folder, move |mut stream| {
            let _ = stream.write_all(begun_with);
            // Holds the connection until the test is over.
            let _ = wait.recv_timeout(LIMIT);
        });
        let begun = Instant::now();
        let error = call::ask(&folder.socket(), &Request::Status, None, MOMENT).unwrap_err();
        assert!(matches!(error, AskError::Wire(WireError::Timeout)), "{error:?}");
        assert!(begun.elapsed() < LIMIT / 2);
        drop(over);
        drop(agent);
    }
}

#[test]
fn what_is_no_reply_is_called_so() {
    for (bytes, said) in [
        (&b""[..], "the answer: cut off"),
        (b"{\"version\":1,\"reply\":\"rea", "the answer: cut off"),
        (b"{\"version\":1,\"reply\":\"ready\"}", "the answer: cut off"),
        (b"garbage\n", "the answer: malformed"),
        (b"\xff\n", "the answer: malformed"),
        (STATUS, "the answer: malformed"),
        (b"{\"version\":1,\"reply\":\"maybe\"}\n", "the answer: malformed"),
        (b"{\"version\":1,\"reply\":\"ready\",\"more\":1}\n", "the answer: malformed"),
        (b"{\"version\":2,\"reply\":\"ready\"}\n", "the answer: version 2 of the protocol, not 1"),
        (
            b"{\"version\":1,\"reply\":\"ready\"}\n{\"version\":1,\"reply\":\"ready\"}\n",
            "the answer: more than one line",
        ),
    ] {
        let folder = Folder::new("call-garbage");
        let _agent = Agent::saying(&folder, bytes);
        assert_eq!(ask(&folder, &Request::Status).unwrap_err().to_string(), said);
    }
    let folder = Folder::new("call-endless");
    let _agent = Agent::saying(&folder, vec![b'x'; 1 << 20]);
    let error = ask(&folder, &Request::Status).unwrap_err();
    assert!(matches!(error, AskError::Wire(WireError::TooLong { limit: REPLY_LIMIT })), "{error:?}");
}

#[test]
fn an_agent_that_reads_nothing_may_still_answer_or_not() {
    let folder = Folder::new("call-unread");
    let held = |at: usize| Held { container: format!("{at:064}"), interface: "eth0".into() };
    let long = Request::Gc { network: "pods".into(), valid: (0..10_000).map(held).collect() };
    for request in [&long, &Request::Status] {
        let agent = Agent::start(&folder, |stream| {
            call::respond(&stream, &Reply::refused("not permitted"), LIMIT).unwrap();
        });
        assert_eq!(ask(&folder, request).unwrap(), Reply::refused("not permitted"));
        drop(agent);
        let _agent = Agent::start(&folder, drop);
        let error = ask(&folder, request).unwrap_err();
        assert!(matches!(error, AskError::Reply(LineError::CutOff)), "{error:?}");
    }
}

#[test]
fn descriptors_in_an_answer_are_closed() {
    let folder = Folder::new("call-gift");
    let (reader, writer) = io::pipe().unwrap();
    let mut gift = Some(writer);
    let _agent = Agent::start(&folder, move |stream| {
        let _ = call::receive(&stream, LIMIT);
        if let Some(writer) = gift.take() {
            send(&stream, &Reply::Ready.line().unwrap(), &[writer.as_fd()]);
        }
    });
    assert_eq!(ask(&folder, &Request::Status).unwrap(), Reply::Ready);
    assert!(is_closed(reader));
}

/// Names the socket at which this program, started again as another user, listens.
const STRANGER: &str = "TENCRYPT_CNI_STRANGER";

#[test]
fn another_users_agent_is_told_nothing() {
    const NAME: &str = "call::another_users_agent_is_told_nothing";
    if let Some(socket) = env::var_os(STRANGER) {
        let (mut stream, _) = UnixListener::bind(socket).unwrap().accept().unwrap();
        // Who does not listen to it may have gone.
        let _ = stream.write_all(&Reply::Ready.line().unwrap());
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard, b"");
        return;
    }
    if !is_machines_root() {
        let reason = "only the machine's root can be another user";
        assert!(env::var_os("CI").is_none_or(|set| set != "true"), "{NAME} cannot run: {reason}");
        // Past the test harness, which keeps what a test prints that does not fail.
        let _ = io::stderr().write_all(format!("NOT RUN: {NAME}: {reason}\n").as_bytes());
        return;
    }
    let folder = Folder::new("call-stranger");
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let mut stranger = Command::new("/proc/self/exe");
    stranger.args([NAME, "--exact", "--nocapture"]).env(STRANGER, folder.socket()).uid(65_534);
    let mut stranger = stranger.stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let error = loop {
        match ask(&folder, &Request::Status) {
            Err(AskError::Absent) if begun.elapsed() < LIMIT => thread::sleep(MOMENT / 10),
            other => break other.unwrap_err(),
        }
    };
    assert!(matches!(error, AskError::Stranger), "{error:?}");
    assert!(stranger.wait().unwrap().success());
}

/// Tells if this process is of the machine's root, and not of one in a user namespace.
fn is_machines_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}
