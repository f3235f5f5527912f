use std::{fs, net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt as _, join, net::TcpSocket, runtime::Handle, select, task::yield_now};

use super::{super::*, server::*};

#[test]
fn what_is_asked_for_is_said_and_its_answer_returned() {
    with_world("get", async |world| {
        let serve = async {
            let mut peer = world.accept().await;
            assert_eq!(peer.0.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let request = peer.request().await;
            peer.answer("{}").await;
            request
        };
        let (answer, request) = join!(world.client.get("/api/v1/pods?limit=500", 2), serve);
        assert_eq!(text(answer), Ok("{}".into()));
        let mut lines = request.split("\r\n");
        assert_eq!(lines.next(), Some("GET /api/v1/pods?limit=500 HTTP/1.1"));
        let host = world.listener.local_addr().unwrap();
        let mut fields: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "accept: application/json",
                "authorization: Bearer first-token",
                &format!("host: {host}"),
                concat!("user-agent: tencrypt-node/", env!("CARGO_PKG_VERSION")),
            ]
        );
    });
}

#[test]
fn a_change_is_sent_as_a_merge_patch_on_the_one_connection() {
    with_world("merge", async |world| {
        let serve = async {
            let mut peer = world.accept().await;
            for _ in 0..2 {
                let request = peer.request().await;
                assert!(request.starts_with("PATCH /a HTTP/1.1\r\n"), "{request}");
                let media_type = "\r\ncontent-type: application/merge-patch+json\r\n";
                assert!(request.contains(media_type), "{request}");
                assert!(request.ends_with("\r\n\r\n{\"kind\":\"A\"}"), "{request}");
                peer.answer("done").await;
            }
        };
        let ask = async {
            for _ in 0..2 {
                assert_eq!(
                    text(world.client.change(Verb::Merge, "/a", br#"{"kind":"A"}"#).await),
                    Ok("done".into())
                );
            }
        };
        join!(ask, serve);
    });
}

#[test]
fn an_answer_may_have_its_limit_and_not_a_byte_more() {
    with_world("limit", async |world| {
        let too_long = Err(format!("{}: the answer is longer than 100 bytes", world.client.place.server));
        for (len, said) in [(100, Ok("a".repeat(100))), (101, too_long.clone()), (1 << 20, too_long)] {
            let body = "a".repeat(len);
            let sized =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}");
            assert_eq!(world.answered(&sized).await, said);
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
            let chunked =
                format!("{head}32\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", &body[..50], len - 50, &body[50..]);
            assert_eq!(world.answered(&chunked).await, said);
        }
    });
}

#[test]
fn a_status_is_an_error_with_its_words_and_the_connection_is_kept() {
    with_world("status", async |world| {
        let serve = async {
            let mut peer = world.accept().await;
            for (code, reason) in [(410, "Expired"), (403, "Forbidden"), (404, "NotFound")] {
                peer.request().await;
                let body =
                    format!(r#"{{"kind":"Status","message":"too old\n","reason":"{reason}","code":{code}}}"#);
                peer.send(format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
            }
            peer.request().await;
            peer.answer("ok").await;
        };
        let ask = async {
            let gone = world.client.get("/a", 9).await.unwrap_err();
            assert!(gone.is_gone(), "{gone}");
            let said = format!("{}: answered 410 Expired: too old\\n", world.client.place.server);
            assert_eq!(one_line(&gone), said);
            let forbidden = world.client.get("/a", 9).await.unwrap_err();
            assert!(matches!(forbidden, ClientError::Status { code: 403, .. }), "{forbidden}");
            assert!(world.client.change(Verb::Merge, "/a", b"{}").await.unwrap_err().is_absent());
            assert_eq!(text(world.client.get("/a", 9).await), Ok("ok".into()));
        };
        join!(ask, serve);
    });
}

#[test]
fn a_redirection_is_not_followed() {
    with_world("redirect", async |world| {
        let location = format!("https://{}/b", world.listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let said = format!("{}: answered 302 Found", world.client.place.server);
        assert_eq!(world.answered(&answer).await, Err(said));
    });
}

#[test]
fn what_is_no_http_or_ends_too_soon_is_an_error() {
    with_world("cut", async |world| {
        let server = world.client.place.server.clone();
        let no_http = world.answered("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        assert_eq!(no_http, Err(format!("{server}: the answer is no HTTP")));
        for cut in
            ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":1"]
        {
            let said = world.answered(cut).await.unwrap_err();
            assert!(said.starts_with(&format!("{server}: the answer was cut off: ")), "{cut:?}: {said}");
        }
        let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
        head.extend((0..90).map(|field| format!("X-{field}: {}\r\n", "a".repeat(1_000))));
        assert_eq!(
            world.answered(&head).await,
            Err(format!("{server}: the answer is no HTTP")),
            "a long head"
        );
    });
}

#[test]
fn the_token_is_read_again_for_each_request() {
    with_world("token", async |world| {
        let serve = async {
            let mut peer = world.accept().await;
            for token in ["first-token", "second-token"] {
                let request = peer.request().await;
                assert!(request.contains(&format!("\r\nauthorization: Bearer {token}\r\n")), "{request}");
                peer.answer("").await;
            }
        };
        let ask = async {
            world.client.get("/a", 9).await.unwrap();
            fs::write(world.folder.join("token"), "  second-token\r\n").unwrap();
            world.client.get("/a", 9).await.unwrap();
        };
        join!(ask, serve);
    });
}

#[test]
fn a_file_that_is_no_token_or_no_authority_is_named() {
    with_world("files", async |world| {
        let token = world.folder.join("token");
        for (content, reason) in [
            (Some(""), "it is empty"),
            (Some(" \n"), "it is empty"),
            (Some("a-token b"), "it is no token: it has other bytes than visible ASCII"),
            (Some("a-token\r\nX: y"), "it is no token: it has other bytes than visible ASCII"),
            (Some("ä"), "it is no token: it has other bytes than visible ASCII"),
            (Some(&"a".repeat(20_000)), "it is too large"),
            (None, "No such file or directory (os error 2)"),
        ] {
            match content {
                Some(content) => fs::write(&token, content).unwrap(),
                None => fs::remove_file(&token).unwrap(),
            }
            assert_eq!(text(world.client.get("/a", 9).await), Err(format!("{}: {reason}", token.display())));
        }
        fs::write(&token, "first-token").unwrap();
        let ca = world.folder.join("ca.crt");
        for (content, reason) in [
            (Some(""), "it has no certificate of an authority"),
            (
                Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                "it has no certificate of an authority",
            ),
            (Some("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"), "it is no PEM"),
            (None, "No such file or directory (os error 2)"),
        ] {
            match content {
                Some(content) => fs::write(&ca, content).unwrap(),
                None => fs::remove_file(&ca).unwrap(),
            }
            assert_eq!(text(world.client.get("/a", 9).await), Err(format!("{}: {reason}", ca.display())));
        }
        fs::create_dir(&ca).unwrap();
        let said = format!("{}: it is no regular file", ca.display());
        assert_eq!(text(world.client.get("/a", 9).await), Err(said));
    });
}

#[test]
fn a_server_of_another_authority_is_refused_until_its_own_is_there_too() {
    with_world("authority", async |world| {
        let ca = world.folder.join("ca.crt");
        let other = include_str!("../testdata/other-ca.pem");
        fs::write(&ca, other).unwrap();
        let (answer, ()) = join!(world.client.get("/a", 9), world.accept_in_vain());
        let said = format!("{}: invalid peer certificate: UnknownIssuer", world.client.place.server);
        assert_eq!(text(answer), Err(said));
        fs::write(&ca, format!("{other}{}", include_str!("../testdata/ca.pem"))).unwrap();
        let answer = world.answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(answer, Ok("ok".into()), "read again, the second of two");
    });
}

#[test]
fn a_server_of_another_address_is_refused() {
    with_world_at("address", "127.0.0.2", "127.0.0.2", async |world| {
        let (answer, ()) = join!(world.client.get("/a", 9), world.accept_in_vain());
        let said = text(answer).unwrap_err();
        let expected =
            format!("{}: invalid peer certificate: certificate not valid", world.client.place.server);
        assert!(said.starts_with(&expected), "{said}");
    });
}

#[test]
fn a_server_may_have_a_name() {
    with_world_at("name", "127.0.0.1", "localhost", async |world| {
        let answer = world.answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(answer, Ok("ok".into()));
    });
}

#[test]
fn a_get_is_asked_again_where_the_kept_connection_is_closed_before_its_answer() {
    with_world("retry", async |world| {
        let serve = async {
            let mut peer = world.accept_and_answer("1").await;
            // Closed with the request read: the client cannot know whether it was.
            peer.request().await;
            drop(peer);
            world.accept_and_answer("2").await
        };
        let ask = async {
            assert_eq!(text(world.client.get("/a", 9).await), Ok("1".into()));
            assert_eq!(text(world.client.get("/a", 9).await), Ok("2".into()));
        };
        let ((), mut peer) = join!(ask, serve);
        // A new connection gets no second chance, and neither does a change.
        let serve = async {
            peer.request().await;
            drop(peer);
            let mut peer = world.accept().await;
            peer.request().await;
            peer.close().await;
        };
        let (answer, ()) = join!(world.client.get("/a", 9), serve);
        assert!(matches!(answer, Err(ClientError::Cut { .. })), "{answer:?}");
        let serve = async {
            let mut peer = world.accept_and_answer("").await;
            peer.request().await;
            peer.close().await;
        };
        let ask = async {
            world.client.get("/a", 9).await.unwrap();
            world.client.change(Verb::Merge, "/a", b"{}").await
        };
        let (answer, ()) = join!(ask, serve);
        assert!(matches!(answer, Err(ClientError::Cut { .. })), "{answer:?}");
    });
}

#[test]
fn a_change_is_sent_on_a_new_connection_where_the_kept_one_is_closed_meanwhile() {
    with_world("stale", async |world| {
        let serve = async {
            let mut peer = world.accept_and_answer("1").await;
            peer.close().await;
            peer.closed().await;
        };
        let (answer, ()) = join!(world.client.get("/a", 9), serve);
        answer.unwrap();
        let serve = async {
            world.accept_and_answer("2").await;
        };
        let (answer, ()) = join!(world.client.change(Verb::Merge, "/a", b"{}"), serve);
        assert_eq!(text(answer), Ok("2".into()));
    });
}

#[test]
fn a_change_of_which_nothing_was_sent_is_sent_again() {
    with_world("unsent", async |world| {
        let serve = async { world.accept_and_answer("1").await };
        let (answer, mut peer) = join!(world.client.get("/a", 9), serve);
        answer.unwrap();
        peer.close().await;
        // The runtime hears of the end, and this test goes on before the task of the connection does.
        yield_now().await;
        let serve = async {
            world.accept_and_answer("2").await;
        };
        let (answer, ()) = join!(world.client.change(Verb::Merge, "/a", b"{}"), serve);
        assert_eq!(text(answer), Ok("2".into()));
    });
}

#[test]
fn requests_at_one_time_do_not_wait_for_each_other() {
    with_world("beside", async |world| {
        let serve = async {
            let (mut first, mut second) = (world.accept().await, world.accept().await);
            first.request().await;
            second.request().await;
            second.answer("2").await;
            first.answer("1").await;
            // One of the two is kept.
            let (mut one, mut other) = (Vec::new(), Vec::new());
            select! {
                _ = first.0.read_to_end(&mut one) => {}
                _ = second.0.read_to_end(&mut other) => {}
            }
            assert!(one.is_empty() && other.is_empty());
        };
        let client = &world.client;
        let (first, second, ()) = join!(client.get("/1", 9), client.get("/2", 9), serve);
        let mut answers = [text(first).unwrap(), text(second).unwrap()];
        answers.sort_unstable();
        assert_eq!(answers, ["1", "2"]);
    });
}

#[test]
fn a_server_that_nobody_is_at_is_unreachable() {
    with_world("nobody", async |world| {
        let place = world.client.place.clone();
        // A port of its own that nobody listens at: bound, and without `listen`.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let server = format!("https://{}", socket.local_addr().unwrap());
        let client = Client::new(Place { server: server.clone(), ..place.clone() });
        let said = format!("{server}: cannot connect: Connection refused (os error 111)");
        assert_eq!(text(client.get("/a", 9).await), Err(said.clone()));
        assert_eq!(client.watch("/a", TEST_LIMIT).await.map_err(|error| one_line(&error)).err(), Some(said));
        let client = Client::new(Place { server: "http://127.0.0.1:1".into(), ..place });
        assert!(matches!(client.get("/a", 9).await, Err(ClientError::Server { .. })));
    });
}

#[test]
fn a_path_that_cannot_be_sent_is_refused() {
    with_world("path", async |world| {
        for path in ["", "api", "/a b", "/a\r\nX: y", "/a#b", "https://other/a"] {
            let answer = world.client.get(path, 9).await;
            assert!(matches!(answer, Err(ClientError::Path { .. })), "{path:?}: {answer:?}");
            one_line(&answer.unwrap_err());
        }
    });
}

#[test]
fn waiting_for_a_connection_and_for_an_answer_has_an_end() {
    with_world("late", async |world| {
        let limits = Limits { connect: Duration::from_millis(300), answer: Duration::from_millis(1_500) };
        world.client.limits = limits;
        let server = world.client.place.server.clone();
        // The kernel accepts, and nobody speaks TLS.
        let said = format!("{server}: the connection took longer than 300ms");
        assert_eq!(text(world.client.get("/a", 9).await), Err(said));
        let (tcp, _) = world.listener.accept().await.unwrap();
        drop(tcp);
        world.client.limits.connect = TEST_LIMIT;
        for part in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"] {
            let serve = async {
                let mut peer = world.accept().await;
                peer.request().await;
                peer.send(part).await;
                peer.closed().await;
            };
            let (answer, ()) = join!(world.client.get("/a", 9), serve);
            assert_eq!(text(answer), Err(format!("{server}: the answer took longer than 1.5s")), "{part}");
        }
    });
}

#[test]
fn a_request_that_nobody_reads_leaves_no_task_behind() {
    with_world("unread", async |world| {
        // More than the sockets' buffers hold (`tcp_wmem`, `tcp_rmem`: 4 and 6 MiB).
        let body = vec![b' '; 32 << 20];
        let serve = async {
            let mut peer = world.accept().await;
            peer.request_head().await;
            peer
        };
        let peer = select! {
            answer = world.client.change(Verb::Merge, "/a", &body) => panic!("{answer:?}"),
            peer = serve => peer,
        };
        // The other end is open, and most of the body is not sent.
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        drop(peer);
    });
}

#[test]
fn the_token_is_not_in_what_is_printed() {
    with_world("debug", async |world| {
        let request = Question::get("/a").request(&world.client.place).unwrap();
        let value = request.headers().get("authorization").unwrap();
        assert_eq!(value.as_bytes(), b"Bearer first-token");
        assert!(value.is_sensitive());
        assert!(!format!("{request:?}").contains("first-token"), "{request:?}");
    });
}
