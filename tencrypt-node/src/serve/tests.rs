use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::PathBuf,
    process,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::*;
use crate::{
    client,
    metrics::Totals,
    report::{Counts, PodState},
};

/// A folder of a test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tencrypt-serve-{}-{name}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn node(ready: bool) -> NodeReport {
    NodeReport {
        version: "0.1.0".into(),
        pid: 7,
        uptime_s: 1,
        ready,
        program: "/opt/tencrypt".into(),
        program_id: "00ff".into(),
        problems: vec!["shop.toml: line 3\n".into()],
        clone_signs: vec![],
        tenants: vec![],
        pods: [("protected".to_owned(), 1)].into(),
        unprotected: vec![],
        outside: vec![],
        plugin: None,
        counts: Counts::default(),
    }
}

fn pod() -> PodReport {
    PodReport {
        id: "4-1".into(),
        name: "shop/web-0".into(),
        tenant: "shop".into(),
        source: "plugin".into(),
        state: PodState::Protected,
        pid: Some(9),
        program: Some("0.1.0".into()),
        current: true,
        public_key: None,
        restarts: 0,
        problem: None,
        peers: 2,
        addresses: vec![],
        status: None,
    }
}

/// Answers questions as an agent does.
async fn agent(mut questions: mpsc::Receiver<Question>, ready: bool) {
    while let Some(question) = questions.recv().await {
        match question {
            Question::Node(reply) => drop(reply.send(node(ready))),
            Question::Pods(reply) => drop(reply.send(vec![pod()])),
            Question::Everything(reply) => {
                drop(reply.send(Snapshot { node: node(ready), pods: vec![pod()], ended: Totals::default() }));
            }
        }
    }
}

/// Gets a page over the Unix socket, on a thread of its own.
async fn get(socket: &Path, path: &'static str) -> Result<String, String> {
    let socket = socket.to_owned();
    let getting = tokio::task::spawn_blocking(move || client::get(&socket, path));
    getting.await.unwrap().map_err(|error| error.to_string())
}

/// Serves while `test` runs, with an agent that answers.
async fn with_agent(server: &Server, ready: bool, test: impl Future<Output = ()>) {
    let (questions, asked) = mpsc::channel(4);
    tokio::select! {
        () = server.serve(questions) => unreachable!("it serves until it is cancelled"),
        () = agent(asked, ready) => unreachable!("the server has the other end"),
        () = test => {}
    }
}

/// Sends a GET over TCP and returns the answer.
async fn get_tcp(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn every_page_is_served_over_the_socket() {
    let folder = Folder::new("pages");
    let server = Server::bind(&folder.socket(), None).await.unwrap();
    let mode = fs::metadata(folder.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    with_agent(&server, true, async {
        let socket = folder.socket();
        assert_eq!(get(&socket, "/healthz").await.unwrap(), "ok\n");
        assert_eq!(get(&socket, "/readyz").await.unwrap(), "ok\n");
        let status = get(&socket, "/status").await.unwrap();
        assert_eq!(output::document::read_status(&status).unwrap(), node(true));
        let pods = get(&socket, "/pods").await.unwrap();
        assert_eq!(output::document::read_pods(&pods).unwrap(), [pod()]);
        assert!(get(&socket, "/metrics").await.unwrap().contains("\ntencrypt_sessions{tenant=\"shop\"} 2\n"));
        let absent = get(&socket, "/keys").await.unwrap_err();
        assert_eq!(absent, "the agent answered 404: there is no such page");
    })
    .await;
    drop(server);
    assert!(!folder.socket().exists());
}

#[tokio::test]
async fn only_pages_without_pods_are_served_over_tcp() {
    let folder = Folder::new("tcp");
    let server = Server::bind(&folder.socket(), Some(([127, 0, 0, 1], 0).into())).await.unwrap();
    let address = server.address().unwrap();
    with_agent(&server, true, async {
        assert!(get_tcp(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
        assert!(get_tcp(address, "/readyz").await.starts_with("HTTP/1.1 200 OK\r\n"));
        let metrics = get_tcp(address, "/metrics").await;
        assert!(metrics.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(!metrics.contains("web-0"), "{metrics}");
        for path in ["/status", "/pods"] {
            assert!(get_tcp(address, path).await.starts_with("HTTP/1.1 404 "), "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_not_ready_says_why_and_is_healthy() {
    let folder = Folder::new("unready");
    let server = Server::bind(&folder.socket(), None).await.unwrap();
    with_agent(&server, false, async {
        let socket = folder.socket();
        assert_eq!(get(&socket, "/healthz").await.unwrap(), "ok\n");
        let reason = "the agent answered 503: not ready: not everything that ran is adopted, or not every source is \
                      read; shop.toml: line 3\\n";
        assert_eq!(get(&socket, "/readyz").await.unwrap_err(), reason);
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_not_healthy() {
    let folder = Folder::new("silent");
    let mut server = Server::bind(&folder.socket(), None).await.unwrap();
    server.patience = Duration::from_millis(100);
    let silent = "the agent answered 503: the agent does not answer";
    // It takes questions and keeps them; it takes none, and the channel is full; it has gone.
    for taken in [4, 0, usize::MAX] {
        let (questions, mut asked) = mpsc::channel(1);
        let mut kept = Vec::new();
        let agent = async {
            if taken == usize::MAX {
                asked.close();
            }
            while kept.len() < taken
                && let Some(question) = asked.recv().await
            {
                kept.push(question);
            }
            std::future::pending().await
        };
        let asking = async {
            for path in ["/healthz", "/readyz", "/metrics", "/status"] {
                assert_eq!(get(&folder.socket(), path).await.unwrap_err(), silent, "{taken} {path}");
            }
        };
        tokio::select! {
            () = server.serve(questions) => unreachable!("it serves until it is cancelled"),
            () = agent => unreachable!("it waits for ever"),
            () = asking => {}
        }
    }
}

#[tokio::test]
async fn a_left_over_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new("left-over");
    drop(StdListener::bind(folder.socket()).unwrap());
    assert!(folder.socket().exists());
    let server = Server::bind(&folder.socket(), None).await.unwrap();
    let error = Server::bind(&folder.socket(), None).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}: another agent runs", folder.socket().display()));
    with_agent(&server, true, async {
        assert_eq!(get(&folder.socket(), "/healthz").await.unwrap(), "ok\n");
    })
    .await;
}

#[tokio::test]
async fn a_socket_at_which_as_many_wait_as_there_is_room_for_is_live() {
    let folder = Folder::new("full");
    let listener = StdListener::bind(folder.socket()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = StdStream::connect(folder.socket()).unwrap();
    assert!(matches!(Server::bind(&folder.socket(), None).await, Err(BindError::Held { .. })));
}

#[tokio::test]
async fn two_agents_that_start_at_once_do_not_both_replace_a_socket() {
    let folder = Folder::new("at-once");
    drop(StdListener::bind(folder.socket()).unwrap());
    let other = fs::File::open(&folder.0).unwrap();
    other.lock().unwrap();
    assert!(matches!(Server::bind(&folder.socket(), None).await, Err(BindError::Held { .. })));
    assert!(folder.socket().exists());
    drop(other);
    Server::bind(&folder.socket(), None).await.unwrap();
}

#[tokio::test]
async fn what_is_no_socket_stays_and_is_named() {
    let folder = Folder::new("foreign");
    fs::write(folder.socket(), "x").unwrap();
    let error = Server::bind(&folder.socket(), None).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}: is no socket, and is in the way of one", folder.socket().display()));
    assert_eq!(fs::read_to_string(folder.socket()).unwrap(), "x");
    let absent = folder.0.join("absent/agent.sock");
    let error = Server::bind(&absent, None).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: No such file", folder.0.join("absent").display())), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_named_and_leaves_no_socket() {
    let folder = Folder::new("in-use");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::bind(&folder.socket(), Some(address)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{address}: Address already in use")), "{error}");
    assert!(!folder.socket().exists());
}

#[tokio::test]
async fn the_socket_of_another_agent_stays_when_an_agent_ends() {
    let folder = Folder::new("other");
    let server = Server::bind(&folder.socket(), None).await.unwrap();
    fs::remove_file(folder.socket()).unwrap();
    let other = Server::bind(&folder.socket(), None).await.unwrap();
    drop(server);
    assert!(folder.socket().exists());
    drop(other);
    assert!(!folder.socket().exists());
}

#[tokio::test]
async fn idle_clients_fill_the_places_and_make_room_when_their_time_is_over() {
    let folder = Folder::new("idle");
    let mut server = Server::bind(&folder.socket(), None).await.unwrap();
    server.limit = Duration::from_millis(500);
    with_agent(&server, true, async {
        let start = std::time::Instant::now();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(UnixStream::connect(folder.socket()).await.unwrap());
        }
        assert_eq!(get(&folder.socket(), "/healthz").await.unwrap(), "ok\n");
        assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
        for mut stream in idle {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
    })
    .await;
}

/// Connects as the user 65534, which only this thread becomes, asks, and returns the answer; `None`: the kernel does not let it.
fn asked_as_another_user(socket: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let other = rustix::process::Uid::from_raw(65_534);
    rustix::thread::set_thread_res_uid(other, other, other).ok()?;
    let mut stream = StdStream::connect(socket).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer)
}

#[tokio::test]
async fn another_user_is_refused_even_where_the_file_lets_him_in() {
    const NAME: &str = "serve::tests::another_user_is_refused_even_where_the_file_lets_him_in";
    let folder = Folder::new("stranger");
    let server = Server::bind(&folder.socket(), None).await.unwrap();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    with_agent(&server, true, async {
        let socket = folder.socket();
        let asking = std::thread::spawn(move || asked_as_another_user(&socket));
        while !asking.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match asking.join().unwrap() {
            Some(answer) => assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}"),
            None => {
                let reason = "only the machine's root can be another user";
                assert!(
                    std::env::var_os("CI").is_none_or(|set| set != "true"),
                    "{NAME} cannot run: {reason}"
                );
                // Past the test harness, which keeps what a test prints that does not fail.
                let _ = std::io::stderr().write_all(format!("NOT RUN: {NAME}: {reason}\n").as_bytes());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_more_than_is_read_gets_the_whole_answer() {
    let folder = Folder::new("more");
    let server = Server::bind(&folder.socket(), None).await.unwrap();
    with_agent(&server, true, async {
        let mut stream = UnixStream::connect(folder.socket()).await.unwrap();
        let body = "a".repeat(48 << 10);
        let request =
            format!("POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.ends_with("\r\n\r\nonly GET and HEAD\n"),
            "{answer}"
        );
    })
    .await;
}
