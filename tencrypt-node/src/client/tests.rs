use std::{fs, os::unix::net::UnixListener, process, thread};

use super::*;

/// Runs `test` with a path for a socket in a folder of its own.
fn with_path(name: &str, test: impl FnOnce(&Path)) {
    let folder = std::env::temp_dir().join(format!("tencrypt-client-{}-{name}", process::id()));
    fs::create_dir(&folder).unwrap();
    test(&folder.join("agent.sock"));
    fs::remove_dir_all(&folder).unwrap();
}

/// Gets `/a` from a server that sends `answer`, whatever it is asked, and returns the question too.
fn answered(name: &str, answer: impl AsRef<[u8]> + Send + 'static) -> (Result<String, ClientError>, String) {
    let mut result = None;
    with_path(name, |path| {
        let listener = UnixListener::bind(path).unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 1024];
            let len = stream.read(&mut question).unwrap();
            // The client may have seen enough.
            let _ = stream.write_all(answer.as_ref());
            String::from_utf8(question[..len].to_vec()).unwrap()
        });
        let got = get(path, "/a");
        result = Some((got, serving.join().unwrap()));
    });
    result.unwrap()
}

fn failure(error: ClientError) -> (Exit, String) {
    let failure = Failure::from(error);
    assert!(!failure.to_string().contains('\n'), "{failure}");
    (failure.exit, failure.reason)
}

#[test]
fn a_page_is_asked_for_and_its_body_returned() {
    let (body, question) = answered("body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
    assert_eq!(body.unwrap(), "ok\n");
    assert_eq!(question, "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
}

#[test]
fn nobody_who_listens_is_an_exit_code_of_its_own() {
    with_path("absent", |path| {
        let said = (Exit::NotRunning, format!("no agent runs at {}", path.display()));
        assert_eq!(failure(get(path, "/a").unwrap_err()), said);
        drop(UnixListener::bind(path).unwrap());
        assert_eq!(failure(get(path, "/a").unwrap_err()), said);
    });
}

#[test]
fn a_lack_of_rights_is_an_exit_code_of_its_own() {
    let (answer, _) = answered("forbidden", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let (exit, reason) = failure(answer.unwrap_err());
    assert_eq!(exit, Exit::NotPermitted);
    assert!(reason.ends_with("/agent.sock: not permitted: ask as root, or as the agent's user"), "{reason}");
}

#[test]
fn a_refusal_is_told_in_the_agents_words_on_one_line() {
    let answer =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 22\r\n\r\nnot ready: a\u{1b}[2J\nb: c\n";
    let (answer, _) = answered("refused", answer);
    let said = "the agent answered 503: not ready: a\\u{1b}[2J\\nb: c";
    assert_eq!(failure(answer.unwrap_err()), (Exit::Runtime, said.to_owned()));
}

#[test]
fn answers_that_make_no_sense_are_named() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (at, (answer, fault)) in [
        (String::new(), "it is cut off"),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "it is no HTTP"),
        (head.to_owned(), "it is cut off"),
        (format!("{head}X: {}\r\n\r\n", "a".repeat(9000)), "it is cut off"),
        (format!("{head}\r\nok\n"), "it does not say how long it is"),
        (
            format!("{head}Content-Length: 3\r\nContent-Length: 3\r\n\r\nok\n"),
            "it does not say how long it is",
        ),
        (format!("{head}Content-Length: 4\r\n\r\nok\n"), "it is cut off"),
        (format!("{head}Content-Length: 2\r\n\r\nok\n"), "it is not as long as it says"),
        (format!("{head}Content-Length: -3\r\n\r\nok\n"), "it is not as long as it says"),
    ]
    .into_iter()
    .enumerate()
    {
        let (got, _) = answered(&format!("garbled-{at}"), answer.clone());
        let said = format!("the agent's answer makes no sense: {fault}");
        assert_eq!(failure(got.unwrap_err()), (Exit::Runtime, said), "{answer}");
    }
    let (got, _) =
        answered("garbled-bytes", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec());
    assert!(matches!(got, Err(ClientError::Garbled { reason: "it is no text" })), "{got:?}");
}

#[test]
fn an_answer_that_does_not_end_is_not_taken_for_ever() {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".to_vec();
    answer.resize(ANSWER_LIMIT + PIECE, b'a');
    let (got, _) = answered("long", answer);
    assert!(matches!(got, Err(ClientError::TooLong)));
}

#[test]
fn a_server_that_says_nothing_or_accepts_nobody_is_not_waited_for_beyond_the_limit() {
    let limit = Duration::from_millis(200);
    with_path("silent", |path| {
        let listener = UnixListener::bind(path).unwrap();
        let start = Instant::now();
        let error = get_within(path, "/a", limit).unwrap_err();
        assert!(matches!(error, ClientError::Timeout), "{error:?}");
        rustix::net::listen(&listener, 0).unwrap();
        let error = get_within(path, "/a", limit).unwrap_err();
        assert!(matches!(error, ClientError::Timeout), "{error:?}");
        let took = start.elapsed();
        assert!(took >= limit * 2 && took < Duration::from_secs(60), "{took:?}");
    });
}

#[test]
fn a_server_that_goes_on_in_bits_is_not_waited_for_beyond_the_limit() {
    with_path("bits", |path| {
        let listener = UnixListener::bind(path).unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = 0;
            while stream.write_all(b"H").is_ok() {
                sent += 1;
                thread::sleep(Duration::from_millis(20));
            }
            sent
        });
        let error = get_within(path, "/a", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ClientError::Timeout), "{error:?}");
        assert!(serving.join().unwrap() < 1000);
    });
}
