use std::time::Instant;

use tokio::io::{DuplexStream, duplex};

use super::*;

/// Long enough for every answer of a test on a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

/// Converses with a server that has the pages `/a` and `/b`, whose answers are their names.
fn served(stream: DuplexStream, limit: Duration) -> tokio::task::JoinHandle<()> {
    tokio::spawn(converse(stream, limit, &[("/a", 'a'), ("/b", 'b')], |page| async move {
        Response::line(Status::Ok, &page.to_string())
    }))
}

/// Sends `bytes`, closes for writing, and returns all that comes back.
async fn exchanged(bytes: &[u8]) -> String {
    let (mut client, server) = duplex(1 << 20);
    let serving = served(server, PATIENT);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    serving.await.unwrap();
    answer
}

/// The status of an answer whose head and body agree; 0: there is none.
fn status(answer: &str) -> u16 {
    if answer.is_empty() {
        return 0;
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{answer}");
    assert!(head.ends_with("\r\nConnection: close"), "{answer}");
    assert_eq!(body.lines().count(), 1, "{answer}");
    head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap()
}

#[tokio::test]
async fn a_page_is_answered_with_its_length_and_the_connection_ends() {
    let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\
                    Cache-Control: no-store\r\nConnection: close\r\n\r\na\n";
    assert_eq!(exchanged(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await, expected);
    assert_eq!(exchanged(b"GET /a HTTP/1.0\r\n\r\n").await, expected);
    assert!(exchanged(b"GET /b?x HTTP/1.1\r\nHost: x\r\n\r\n").await.ends_with("\r\n\r\nb\n"));
}

#[tokio::test]
async fn head_has_the_head_of_get_and_no_body() {
    let get = exchanged(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(exchanged(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n").await, get.strip_suffix("a\n").unwrap());
    let absent = exchanged(b"HEAD /c HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(absent.starts_with("HTTP/1.1 404 ") && absent.ends_with("\r\n\r\n"), "{absent}");
}

#[tokio::test]
async fn another_method_is_told_the_allowed_ones() {
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "BREW"] {
        let answer = exchanged(format!("{method} /a HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(status(&answer), 405, "{method}");
        assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");
    }
    assert!(!exchanged(b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n").await.contains("Allow"));
}

#[tokio::test]
async fn malformed_cut_and_huge_requests_are_refused() {
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000));
    let long_field = format!("GET /a HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(9000));
    let many_fields = format!("GET /a HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(64));
    let with = |fields: &str| format!("GET /a HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n").into_bytes();
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (b"".to_vec(), 0),
        (b"\r\n".to_vec(), 400),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 200),
        (b"G".to_vec(), 400),
        (b"GET /a".to_vec(), 400),
        (b"GET /a\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\nHost: x\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r".to_vec(), 400),
        (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nHOST: y\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/2.0\r\n\r\n".to_vec(), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\nHost x\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\n Host: x\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n".to_vec(), 400),
        (b"GET /a HTTP/1.1\r\nHost: \0\r\n\r\n".to_vec(), 400),
        (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 400),
        // The first bytes of a TLS client.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        (vec![0xff; 100_000], 400),
        (vec![b'\n'; 100_000], 431),
        (vec![b'A'; 100_000], 414),
        (long_line.into_bytes(), 414),
        (long_field.into_bytes(), 431),
        (many_fields.into_bytes(), 431),
        (with("Content-Length: 0"), 200),
        (with("Content-Length: 4").into_iter().chain(*b"body").collect(), 413),
        (with("Content-Length: 0\r\nContent-Length: 5"), 413),
        (with("Content-Length: 5\r\nContent-Length: 0"), 413),
        (with("Content-Length: 99999999999999999999999"), 413),
        (with("content-length: -1"), 400),
        (with("Content-Length:"), 400),
        (with("Content-Length: 0x0"), 400),
        (with("Transfer-Encoding: chunked"), 400),
        (b"GET /a/ HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 404),
        (b"GET /%61 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 404),
        (b"GET /b/../a HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 404),
        (b"GET a HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 404),
        (b"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 200),
        // Another request behind the first has no answer.
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 200),
    ];
    for (bytes, expected) in cases {
        let answer = exchanged(&bytes).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert_eq!(status(&answer), expected, "{shown:?}: {answer}");
    }
}

#[tokio::test]
async fn a_request_that_comes_in_bits_is_answered() {
    let (mut client, server) = duplex(16);
    let serving = served(server, PATIENT);
    for byte in b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200);
    drop(client);
    serving.await.unwrap();
}

#[tokio::test]
async fn every_beginning_of_a_request_ends_in_a_refusal_and_no_panic() {
    let request = b"GET http://x/a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    for end in 1..request.len() {
        assert_eq!(status(&exchanged(&request[..end]).await), 400, "{end}");
    }
}

#[tokio::test]
async fn a_client_that_dawdles_is_left_without_an_answer_in_time() {
    let limit = Duration::from_millis(300);
    let start = Instant::now();
    for sent in [&b""[..], b"GET /a HTTP/1.1\r\nHost: x\r\n"] {
        let (mut client, server) = duplex(1024);
        let serving = served(server, limit);
        client.write_all(sent).await.unwrap();
        serving.await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "");
    }
    // It does not read, either: the pipe holds less than the answer has.
    let (mut client, server) = duplex(40);
    let serving = served(server, limit);
    client.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    serving.await.unwrap();
    let took = start.elapsed();
    assert!(took >= limit * 3 && took < PATIENT, "{took:?}");
}

#[tokio::test]
async fn a_client_that_sends_on_and_on_does_not_keep_the_connection() {
    let (client, server) = duplex(4096);
    let serving = served(server, PATIENT);
    let (mut read, mut write) = tokio::io::split(client);
    let writing = tokio::spawn(async move {
        let mut sent = 0_usize;
        while write.write_all(&[b'A'; 4096]).await.is_ok() {
            sent += 4096;
        }
        sent
    });
    let mut answer = String::new();
    read.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 414);
    serving.await.unwrap();
    drop(read);
    let sent = writing.await.unwrap();
    assert!(sent <= LINGER_BYTES + (32 << 10), "{sent}");
}
