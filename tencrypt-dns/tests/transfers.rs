//! Zone transfers, listeners that come and go, and limits of the proxy on loopback.
#![cfg(feature = "proxy")]

#[path = "common/running.rs"]
#[expect(dead_code, reason = "each test binary uses a part")]
mod running;
#[path = "common/wire.rs"]
#[expect(dead_code, reason = "shared with the unit tests, which use all of it")]
mod wire;

use std::{net::SocketAddr, time::Duration};

use tencrypt_dns::proxy::{Listeners, PlainSockets, ProxyError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::sleep,
};

use running::*;

/// A nameserver for zone transfers: it says these messages to each query and closes the stream, or keeps it open.
async fn zone_server(
    parts: impl Fn(&[u8]) -> Vec<Vec<u8>> + Clone + Send + 'static,
    close: bool,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let parts = parts.clone();
            tokio::spawn(async move {
                while let Ok(query) = read_message(&mut stream).await {
                    for part in parts(&query) {
                        // The other end may have had enough.
                        if stream.write_all(&framed(&part)).await.is_err() {
                            return;
                        }
                    }
                    if close {
                        return;
                    }
                }
            });
        }
    });
    address
}

const ZONE: &str = "shop.svc.cluster.local";
const AXFR: u16 = 252;

/// `count` messages of 50 kB, the first with the question.
fn zone_of(query: &[u8], count: usize) -> Vec<Vec<u8>> {
    let filling = vec![wire::record("a.shop.svc.cluster.local", wire::TXT, 60, &[0; 10_000]); 5];
    let part = |number: usize| {
        let mut part = wire::reply(query, &filling);
        if number > 0 {
            part.drain(12..query.len());
            part[5] = 0;
        }
        part
    };
    (0..count).map(part).collect()
}

#[tokio::test]
async fn a_zone_transfer_of_many_messages_passes_whole_to_a_client_that_reads_slowly() {
    const MESSAGES: usize = 200;
    let server = zone_server(|query| zone_of(query, MESSAGES), true).await;
    let proxy = start(&[server]);
    let query = wire::query(7, ZONE, AXFR);
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&framed(&query)).await.unwrap();
    let expected = zone_of(&query, MESSAGES);
    // 10 MB, of which the proxy keeps 256 KiB while nobody reads.
    sleep(Duration::from_millis(500)).await;
    for (number, part) in expected.iter().enumerate() {
        assert!(soon(read_message(&mut stream)).await.unwrap() == *part, "message {number}");
    }
    // The server has closed its stream, and so the proxy does.
    assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn queries_beside_a_zone_transfer_are_answered_and_a_client_that_goes_ends_it() {
    let zone = |query: &[u8]| match query[query.len() - 3] {
        252 => zone_of(query, 3),
        _ => vec![internal_answer(query)],
    };
    let server = zone_server(zone, false).await;
    let proxy = start(&[server]);
    let (transfer, plain) = (wire::query(7, ZONE, AXFR), wire::query(8, INTERNAL, wire::A));
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&[framed(&transfer), framed(&plain)].concat()).await.unwrap();
    let mut found = Vec::new();
    for _ in 0..4 {
        found.push(soon(read_message(&mut stream)).await.unwrap());
    }
    let mut expected = zone_of(&transfer, 3);
    expected.push(internal_answer(&plain));
    found.sort();
    expected.sort();
    assert!(found == expected);
    // As a resolver does that has seen the last record.
    drop(stream);
    let mut again = TcpStream::connect(proxy.tcp).await.unwrap();
    again.write_all(&framed(&plain)).await.unwrap();
    assert_eq!(soon(read_message(&mut again)).await.unwrap(), internal_answer(&plain));
}

#[tokio::test]
async fn listeners_come_and_go_and_those_that_stay_miss_nothing() {
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let mut config = config(&[server]);
    config.nameservers = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let proxy = start_with(config, PlainSockets, Sink::with_permits(1_000_000));
    let (staying, query) = (client(proxy.udp).await, wire::query(1, INTERNAL, wire::A));
    for _ in 0..20 {
        let (udp, tcp) =
            (std::net::UdpSocket::bind("[::1]:0").unwrap(), std::net::TcpListener::bind("[::1]:0").unwrap());
        let (added, stream) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let own = self::config(&[added]);
        staying.send(&query).await.unwrap();
        proxy.handle.add_listeners(Listeners { udp: vec![udp], tcp: vec![tcp] }).await.unwrap();
        assert!(matches!(proxy.handle.set_config(own).await, Err(ProxyError::Loop(_))), "it listens there");
        let socket = UdpSocket::bind("[::1]:0").await.unwrap();
        socket.connect(added).await.unwrap();
        socket.send(&query).await.unwrap();
        assert_eq!(receive(&socket).await, internal_answer(&query));
        proxy.handle.remove_listeners(vec!["::1".parse().unwrap()]).await.unwrap();
        // Free at once, so that an address that comes back can be listened at.
        drop(std::net::UdpSocket::bind(added).unwrap());
        drop(std::net::TcpListener::bind(stream).unwrap());
        assert_eq!(receive(&staying).await, internal_answer(&query));
    }
    let own = Listeners { udp: vec![std::net::UdpSocket::bind("127.0.0.1:0").unwrap()], tcp: vec![] };
    let asked = self::config(&[own.udp[0].local_addr().unwrap()]);
    proxy.handle.set_config(asked).await.unwrap();
    assert!(matches!(proxy.handle.add_listeners(own).await, Err(ProxyError::Loop(_))), "it is asked there");
}

#[tokio::test]
async fn connections_are_as_many_as_the_configuration_allows() {
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let mut few = config(&[server]);
    few.limit_files(20);
    let most = few.max_connections;
    let proxy = start_with(few, PlainSockets, Sink::with_permits(1_000_000));
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(TcpStream::connect(proxy.tcp).await.unwrap());
    }
    for stream in &mut open[..50 - most] {
        assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap_or(0), 0);
    }
    // Sockets to nameservers are closed early where they are few: more servers than sockets.
    for id in 0..200 {
        let query = wire::query(id, INTERNAL, wire::A);
        assert_eq!(exchange(proxy.udp, &query).await, internal_answer(&query));
    }
}
