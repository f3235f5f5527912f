use std::{thread, time::Duration};

use tokio::{
    join,
    time::{sleep, timeout},
};

use super::{super::*, server::*};

/// A silence that no test waits for.
const SILENCE: Duration = Duration::from_secs(50);

/// Returns the next line of a watch as text.
async fn line(watch: &mut Watch) -> Result<Option<String>, String> {
    let line = watch.next().await.map_err(|error| one_line(&error))?;
    Ok(line.map(|line| String::from_utf8(line.to_vec()).unwrap()))
}

/// Opens a watch of `/w` that may be silent for `silence`, with the server's end of it.
async fn watching(world: &World, silence: Duration) -> (Watch, Peer) {
    let serve = async {
        let mut peer = world.accept().await;
        assert!(peer.request().await.starts_with("GET /w?watch=1 HTTP/1.1\r\n"));
        peer.begin_chunks().await;
        peer
    };
    let (watch, peer) = join!(world.client.watch("/w?watch=1", silence), serve);
    (watch.unwrap(), peer)
}

#[test]
fn a_watch_returns_lines_however_they_are_cut_and_then_its_end() {
    with_world("watch", async |world| {
        let (mut watch, mut peer) = watching(world, SILENCE).await;
        let serve = async {
            for chunk in ["{\"type\":\"AD", "DED\"}\n{\"type\":\"BOOKMARK\"}\n{", "}", "\n"] {
                peer.chunk(chunk).await;
                sleep(Duration::from_millis(20)).await;
            }
            // The chunks of HTTP need not be the pieces that arrive.
            for piece in [&b"5\r"[..], b"\n\"\xc3", b"\xa4\"\n", b"\r", b"\n0\r\n\r\n"] {
                peer.send(piece).await;
                sleep(Duration::from_millis(20)).await;
            }
        };
        let read = async {
            let mut lines = Vec::new();
            while let Some(next) = line(&mut watch).await.unwrap() {
                lines.push(next);
            }
            lines
        };
        let (lines, ()) = join!(read, serve);
        assert_eq!(lines, ["{\"type\":\"ADDED\"}", "{\"type\":\"BOOKMARK\"}", "{}", "\"ä\""]);
        assert_eq!(line(&mut watch).await, Ok(None), "and again");
    });
}

#[test]
fn a_watch_that_is_cut_in_mid_line_is_an_error() {
    with_world("midline", async |world| {
        let server = world.client.place.server.clone();
        let said = format!("{server}: the answer was cut off: unexpected end of file");
        for end in ["0\r\n\r\n", ""] {
            let (mut watch, mut peer) = watching(world, SILENCE).await;
            peer.chunk("{}\n{\"type\":").await;
            peer.send(end).await;
            peer.close().await;
            assert_eq!(line(&mut watch).await, Ok(Some("{}".into())));
            assert_eq!(line(&mut watch).await, Err(said.clone()), "{end:?}");
            assert_eq!(line(&mut watch).await, Ok(None));
        }
        let (mut watch, mut peer) = watching(world, SILENCE).await;
        peer.chunk("{}\n").await;
        drop(peer);
        assert_eq!(line(&mut watch).await, Ok(Some("{}".into())));
        let cut = line(&mut watch).await.unwrap_err();
        assert!(cut.starts_with(&format!("{server}: the answer was cut off: ")), "no last chunk: {cut}");
    });
}

#[test]
fn a_watch_that_is_silent_for_too_long_is_an_error() {
    with_world("silence", async |world| {
        let (mut watch, mut peer) = watching(world, Duration::from_secs(1)).await;
        let serve = async {
            for _ in 0..4 {
                sleep(Duration::from_millis(300)).await;
                peer.chunk("{}\n").await;
            }
            peer.closed().await;
        };
        let read = async {
            for _ in 0..4 {
                assert_eq!(line(&mut watch).await, Ok(Some("{}".into())));
            }
            // Short waits, given up, count together.
            let mut waits = 0;
            let said = loop {
                match timeout(Duration::from_millis(50), line(&mut watch)).await {
                    Ok(said) => break said,
                    Err(_) => waits += 1,
                }
            };
            assert!(waits > 0);
            let server = &world.client.place.server;
            assert_eq!(said, Err(format!("{server}: the next line of the watch took longer than 1s")));
            drop(watch);
        };
        join!(read, serve);
    });
}

#[test]
fn what_came_while_nobody_read_is_not_lost_to_the_silence_limit() {
    with_world("busy", async |world| {
        let (mut watch, mut peer) = watching(world, Duration::from_millis(100)).await;
        peer.chunk("{}\n").await;
        thread::sleep(Duration::from_millis(300));
        assert_eq!(line(&mut watch).await, Ok(Some("{}".into())));
    });
}

#[test]
fn a_watch_that_is_refused_says_so() {
    with_world("refused", async |world| {
        let serve = async {
            let mut peer = world.accept().await;
            peer.request().await;
            peer.send("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n").await;
            peer.closed().await;
        };
        let (watch, ()) = join!(world.client.watch("/w", SILENCE), serve);
        assert!(watch.unwrap_err().is_gone());
    });
}

#[test]
fn a_line_that_has_no_end_is_given_up() {
    with_world("endless", async |world| {
        let (mut watch, mut peer) = watching(world, SILENCE).await;
        let serve = async {
            let piece = "a".repeat(1 << 20);
            for _ in 0..17 {
                peer.chunk(&piece).await;
            }
            peer.closed().await;
        };
        let read = async {
            let said = line(&mut watch).await;
            drop(watch);
            said
        };
        let (said, ()) = join!(read, serve);
        let server = &world.client.place.server;
        assert_eq!(said, Err(format!("{server}: a line of the watch is longer than 16777216 bytes")));
    });
}

#[test]
fn who_is_dropped_closes_its_connection() {
    with_world("dropped", async |world| {
        let (watch, peer) = watching(world, SILENCE).await;
        drop(watch);
        peer.closed().await;
        let (mut watch, peer) = watching(world, SILENCE).await;
        assert!(timeout(Duration::from_millis(50), watch.next()).await.is_err());
        drop(watch);
        peer.closed().await;
        // A request that is given up while it waits.
        let serve = async {
            let mut peer = world.accept().await;
            peer.request().await;
            peer
        };
        let (given_up, peer) = join!(timeout(Duration::from_millis(300), world.client.get("/a", 9)), serve);
        assert!(given_up.is_err());
        peer.closed().await;
        // The connection that a client has kept.
        let serve = async {
            let mut peer = world.accept().await;
            peer.request().await;
            peer.answer("").await;
            peer
        };
        let (answer, peer) = join!(world.client.get("/a", 9), serve);
        answer.unwrap();
        let place = world.client.place.clone();
        world.client = Client::new(place);
        peer.closed().await;
    });
}
