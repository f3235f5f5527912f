//! The proxy on loopback, between clients and toy nameservers of the test's own.
#![cfg(feature = "proxy")]

#[path = "common/running.rs"]
mod running;
#[path = "common/wire.rs"]
#[expect(dead_code, reason = "shared with the unit tests, which use all of it")]
mod wire;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tencrypt::directory::Class;
use tencrypt_dns::{
    message::Query,
    proxy::{Listeners, PlainSockets, Proxy, ProxyError, UpstreamSockets},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use running::*;

const EXTERNAL: &str = "www.example.com";

/// An answer with everything that an encoder of our own would write otherwise: odd case, odd flags, an unknown EDNS
/// option, bytes behind the end.
fn odd_answer(query: &[u8]) -> Vec<u8> {
    let answers =
        [wire::alias(EXTERNAL, 60, "EDGE.example.NET"), wire::address("edge.EXAMPLE.net", 60, "192.0.2.7")];
    let mut reply =
        wire::reply_with(query, 0, &answers, &[], &[wire::opt(4096, &[0xfd, 0xe9, 0, 3, 1, 2, 3])]);
    reply[3] |= 0x60;
    reply.extend(b"behind the end");
    reply
}

#[tokio::test]
async fn udp_queries_and_replies_pass_byte_by_byte() {
    let query = {
        let mut query = wire::query(0xabcd, "wWw.example.com", wire::A);
        query[3] |= 0x30;
        query[11] = 1;
        query.extend(wire::opt(4096, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]));
        query
    };
    let question = wire::query(0xabcd, "wWw.example.com", wire::A);
    let answer = odd_answer(&question);
    let (seen, sent): (Arc<Mutex<Vec<Vec<u8>>>>, _) = (Arc::default(), answer.clone());
    let record = Arc::clone(&seen);
    let server = udp_server(move |query| {
        record.lock().unwrap().push(query.to_vec());
        Some(sent.clone())
    })
    .await;
    let proxy = start(&[server]);
    assert_eq!(exchange(proxy.udp, &query).await, answer);
    assert_eq!(*seen.lock().unwrap(), [query]);
    assert_eq!(proxy.sink.told(), [("192.0.2.7".to_owned(), Class::External)]);
}

#[tokio::test]
async fn d13_large_edns_replies_pass_by_udp() {
    let answer = |query: &[u8]| {
        let pods = (0..250).map(|n| wire::address(INTERNAL, 5, &format!("10.244.0.{n}")));
        wire::reply(query, &pods.collect::<Vec<_>>())
    };
    let server = udp_server(move |query| Some(answer(query))).await;
    let proxy = start(&[server]);
    let query = wire::query(3, INTERNAL, wire::A);
    let expected = answer(&query);
    assert!(expected.len() > 4_096);
    assert_eq!(exchange(proxy.udp, &query).await, expected);
    assert_eq!(proxy.sink.told().len(), 250);
}

#[tokio::test]
async fn d19_the_answer_is_released_only_after_its_facts_stand() {
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let proxy = start_with(config(&[server]), PlainSockets, Sink::with_permits(0));
    let socket = client(proxy.udp).await;
    let query = wire::query(1, INTERNAL, wire::A);
    socket.send(&query).await.unwrap();
    until(&proxy.handle, |stats| stats.facts == 1).await;
    // The reply is here and its facts were handed out; they do not stand yet.
    let mut buffer = [0; 512];
    assert!(
        timeout(Duration::from_millis(300), socket.recv(&mut buffer)).await.is_err(),
        "released too early"
    );
    // Replies without facts are not held up by it.
    let other = wire::query(2, INTERNAL, wire::TXT);
    assert_eq!(exchange(proxy.udp, &other).await, internal_answer(&other));
    assert_eq!(proxy.sink.told(), []);
    proxy.sink.permits.add_permits(1);
    assert_eq!(receive(&socket).await, internal_answer(&query));
    assert_eq!(proxy.sink.told(), [("10.96.7.7".to_owned(), Class::Internal)]);
}

#[tokio::test]
async fn d12_truncated_replies_are_passed_on_and_tcp_follows() {
    let truncate = |query: &[u8]| {
        let mut reply = wire::reply(query, &[]);
        reply[2] |= 0x02;
        reply
    };
    let by_udp = udp_server(move |query| Some(truncate(query))).await;
    let by_tcp = tcp_server(internal_answer).await;
    // One server has one port for both; here each port serves one of them, and the other is refused.
    let proxy = start(&[by_udp, by_tcp]);
    let query = wire::query(1, INTERNAL, wire::A);
    assert_eq!(exchange(proxy.udp, &query).await, truncate(&query));
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&framed(&query)).await.unwrap();
    assert_eq!(soon(read_message(&mut stream)).await.unwrap(), internal_answer(&query));
    assert_eq!(proxy.sink.told().len(), 1);
}

#[tokio::test]
async fn d06_an_own_name_with_a_foreign_address_is_withheld_by_udp_and_tcp() {
    let forged = |query: &[u8]| wire::reply(query, &[wire::address(INTERNAL, 60, "203.0.113.10")]);
    let by_udp = udp_server(move |query| Some(forged(query))).await;
    let by_tcp = tcp_server(forged).await;
    let query = wire::query(1, INTERNAL, wire::A);
    let servfail = Query::parse(&query).unwrap().servfail();
    let proxy = start(&[by_udp]);
    assert_eq!(exchange(proxy.udp, &query).await, servfail);
    until(&proxy.handle, |stats| stats.withheld == 1).await;
    assert_eq!(proxy.handle.foreign_address().unwrap().name.to_string(), INTERNAL);
    let proxy = start(&[by_tcp]);
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&framed(&query)).await.unwrap();
    assert_eq!(soon(read_message(&mut stream)).await.unwrap(), servfail);
    assert_eq!(proxy.sink.told(), []);
}

#[tokio::test]
async fn d12_tcp_queries_arrive_whole_however_they_are_split() {
    let server = tcp_server(internal_answer).await;
    let proxy = start(&[server]);
    let query = wire::query(1, INTERNAL, wire::A);
    let bytes = framed(&query);
    for split in 1..bytes.len() {
        let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&bytes[..split]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        stream.write_all(&bytes[split..]).await.unwrap();
        assert_eq!(
            soon(read_message(&mut stream)).await.unwrap(),
            internal_answer(&query),
            "split at {split}"
        );
    }
}

#[tokio::test]
async fn d12_tcp_queries_may_follow_one_another_without_waiting() {
    let server = tcp_server(internal_answer).await;
    let proxy = start(&[server]);
    let queries: Vec<_> = (0..50).map(|id| wire::query(id, INTERNAL, wire::A)).collect();
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&queries.iter().flat_map(|query| framed(query)).collect::<Vec<_>>()).await.unwrap();
    // The client is done, but still reads.
    stream.shutdown().await.unwrap();
    let mut answers = Vec::new();
    for _ in &queries {
        answers.push(soon(read_message(&mut stream)).await.unwrap());
    }
    answers.sort_unstable();
    let mut expected: Vec<_> = queries.iter().map(|query| internal_answer(query)).collect();
    expected.sort_unstable();
    assert_eq!(answers, expected);
    assert!(soon(read_message(&mut stream)).await.is_err(), "closed after the last");
}

#[tokio::test]
async fn d12_empty_and_oversized_messages_close_the_connection() {
    let server = tcp_server(internal_answer).await;
    let proxy = start(&[server]);
    for bad in [vec![0, 0], vec![0xff, 0xff], framed(&internal_answer(&wire::query(1, INTERNAL, wire::A)))] {
        let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
        stream.write_all(&bad).await.unwrap();
        assert!(soon(read_message(&mut stream)).await.is_err(), "{bad:?}");
    }
    assert_eq!(proxy.handle.stats().queries, 0);
}

#[tokio::test]
async fn d12_a_thousand_idle_connections_are_bounded_and_harm_nobody() {
    let server = tcp_server(internal_answer).await;
    let proxy = start(&[server]);
    let mut idle = Vec::new();
    for count in 0..1_000_usize {
        idle.push(TcpStream::connect(proxy.tcp).await.unwrap());
        // Not more files than a process may have: those the proxy has closed are dropped here too.
        if count >= config(&[]).max_connections {
            let mut oldest = idle.remove(0);
            assert_eq!(soon(oldest.read(&mut [0; 1])).await.unwrap_or(0), 0, "still open after {count} more");
        }
    }
    let query = wire::query(1, INTERNAL, wire::A);
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&framed(&query)).await.unwrap();
    assert_eq!(soon(read_message(&mut stream)).await.unwrap(), internal_answer(&query));
}

#[tokio::test]
async fn d12_an_idle_connection_is_closed_after_ten_seconds() {
    let proxy = start(&["127.0.0.1:9".parse().unwrap()]);
    let begun = Instant::now();
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    // One byte now and then does not keep it alive.
    for byte in [0, 40, 1] {
        stream.write_all(&[byte]).await.unwrap();
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap(), 0);
    let lasted = begun.elapsed();
    assert!((9..15).contains(&lasted.as_secs()), "{lasted:?}");
}

#[tokio::test]
async fn d14_a_refused_port_leads_to_the_next_server() {
    let refused = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let mut config = config(&[refused, server]);
    // Only the refusal can lead there in time.
    config.fallback_after = LONG * 2;
    config.give_up_after = LONG * 4;
    let proxy = start_with(config, PlainSockets, Sink::with_permits(10));
    let query = wire::query(1, INTERNAL, wire::A);
    assert_eq!(exchange(proxy.udp, &query).await, internal_answer(&query));
    assert_eq!(proxy.handle.stats().fallbacks, 1);
}

#[tokio::test]
async fn d14_a_silent_server_leads_to_the_next_server() {
    let silent = udp_server(|_| None).await;
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let mut config = config(&[silent, server]);
    config.fallback_after = Duration::from_millis(100);
    let proxy = start_with(config, PlainSockets, Sink::with_permits(10));
    let query = wire::query(1, INTERNAL, wire::A);
    assert_eq!(exchange(proxy.udp, &query).await, internal_answer(&query));
}

#[tokio::test]
async fn d14_silence_everywhere_ends_in_servfail() {
    let silent = udp_server(|_| None).await;
    let mut config = config(&[silent]);
    config.give_up_after = Duration::from_millis(200);
    let proxy = start_with(config, PlainSockets, Sink::with_permits(10));
    let query = wire::query(0x77, INTERNAL, wire::A);
    let answer = exchange(proxy.udp, &query).await;
    assert_eq!((&answer[..4], &answer[12..]), (&[0, 0x77, 0x81, 2][..], &query[12..]));
    assert_eq!(proxy.sink.told(), []);
}

/// Opens no sockets, as when a process has no files left.
struct NoSockets(Arc<AtomicUsize>);

impl UpstreamSockets for NoSockets {
    fn udp(&self, _: SocketAddr) -> io::Result<std::net::UdpSocket> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::QuotaExceeded.into())
    }

    fn tcp(&self, _: SocketAddr) -> io::Result<OwnedFd> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::QuotaExceeded.into())
    }
}

#[tokio::test]
async fn d14_no_sockets_left_ends_in_servfail_and_never_fails_open() {
    let tried = Arc::<AtomicUsize>::default();
    let upstreams = ["127.0.0.1:9".parse().unwrap(), "127.0.0.2:9".parse().unwrap()];
    let proxy = start_with(config(&upstreams), NoSockets(Arc::clone(&tried)), Sink::with_permits(10));
    let query = wire::query(1, INTERNAL, wire::A);
    assert_eq!(exchange(proxy.udp, &query).await[3] & 0x0f, 2);
    assert_eq!(tried.load(Ordering::Relaxed), 2);
}

/// A nameserver's socket of the test's own, and the ports that `count` queries come from.
async fn ports_of(server: &UdpSocket, count: usize, answer: bool) -> std::collections::HashSet<u16> {
    let mut ports = std::collections::HashSet::new();
    let mut buffer = [0; 512];
    for _ in 0..count {
        let (length, from) = soon(server.recv_from(&mut buffer)).await.unwrap();
        ports.insert(from.port());
        if answer {
            server.send_to(&internal_answer(&buffer[..length]), from).await.unwrap();
        }
    }
    ports
}

#[tokio::test]
async fn d05_queries_of_one_id_never_share_a_port() {
    const COUNT: usize = 60;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let proxy = start(&[server.local_addr().unwrap()]);
    let query = wire::query(7, INTERNAL, wire::A);
    let socket = client(proxy.udp).await;
    for _ in 0..COUNT {
        socket.send(&query).await.unwrap();
    }
    assert_eq!(ports_of(&server, COUNT, true).await.len(), COUNT);
    for _ in 0..COUNT {
        assert_eq!(receive(&socket).await, internal_answer(&query));
    }
}

#[tokio::test]
async fn d05_no_port_serves_more_than_256_queries() {
    // More than 16 ports serve together, and below the rate limit's burst.
    const COUNT: u16 = 4_600;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let proxy = start(&[server.local_addr().unwrap()]);
    let socket = client(proxy.udp).await;
    let mut uses = std::collections::HashMap::<u16, u32>::new();
    for id in 0..COUNT {
        let query = wire::query(id, INTERNAL, wire::A);
        socket.send(&query).await.unwrap();
        for port in ports_of(&server, 1, true).await {
            *uses.entry(port).or_default() += 1;
        }
        assert_eq!(receive(&socket).await, internal_answer(&query));
    }
    assert!(uses.values().all(|uses| *uses <= 256), "{uses:?}");
    assert!(uses.len() > 16, "{uses:?}");
}

#[tokio::test]
async fn d05_a_late_reply_is_dropped_and_counted() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let proxy = start(&[server.local_addr().unwrap()]);
    let query = wire::query(7, INTERNAL, wire::A);
    let socket = client(proxy.udp).await;
    socket.send(&query).await.unwrap();
    let mut buffer = [0; 512];
    let (_, from) = soon(server.recv_from(&mut buffer)).await.unwrap();
    server.send_to(&internal_answer(&query), from).await.unwrap();
    assert_eq!(receive(&socket).await, internal_answer(&query));
    server.send_to(&internal_answer(&query), from).await.unwrap();
    until(&proxy.handle, |stats| stats.forged == 1).await;
    assert!(timeout(Duration::from_millis(100), socket.recv(&mut buffer)).await.is_err(), "answered twice");
}

#[tokio::test]
async fn d05_forged_replies_are_ignored_in_any_number() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let proxy = start(&[server.local_addr().unwrap()]);
    let socket = client(proxy.udp).await;
    let query = wire::query(0x1c2b, INTERNAL, wire::A);
    socket.send(&query).await.unwrap();
    let mut buffer = [0; 512];
    let (_, port) = soon(server.recv_from(&mut buffer)).await.unwrap();
    let forged = wire::reply(&query, &[wire::address(INTERNAL, 60, "192.0.2.66")]);

    // From elsewhere, with every id: the kernel drops it, since the socket is connected.
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for id in 0..=u16::MAX {
        let mut guess = forged.clone();
        guess[..2].copy_from_slice(&id.to_be_bytes());
        elsewhere.send_to(&guess, port).await.unwrap();
    }
    // From the server's address and port, with every id but the right one, another type, another name.
    for id in (0..=u16::MAX).filter(|id| *id != 0x1c2b) {
        let mut guess = forged.clone();
        guess[..2].copy_from_slice(&id.to_be_bytes());
        server.send_to(&guess, port).await.unwrap();
        if id % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let other_type = wire::query(0x1c2b, INTERNAL, wire::AAAA);
    let other = wire::query(0x1c2b, "db.shop.svc.cluster.local", wire::A);
    for question in [other_type, other] {
        let reply = wire::reply(&question, &[wire::address(INTERNAL, 60, "192.0.2.66")]);
        server.send_to(&reply, port).await.unwrap();
    }
    until(&proxy.handle, |stats| stats.forged > 0).await;
    let right = internal_answer(&query);
    // The flood may have filled the socket: the right one is repeated until it is taken.
    while proxy.handle.stats().answered == 0 {
        server.send_to(&right, port).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(receive(&socket).await, right);
    assert_eq!(proxy.sink.told(), [("10.96.7.7".to_owned(), Class::Internal)]);
    // Once answered, the port is closed or nobody's.
    server.send_to(&forged, port).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(proxy.sink.told().len(), 1);
}

#[tokio::test]
async fn d05_a_port_is_drawn_for_each_query() {
    let ports: Arc<Mutex<Vec<u16>>> = Arc::default();
    let server = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let (seen, socket) = (Arc::clone(&ports), Arc::clone(&server));
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
            seen.lock().unwrap().push(from.port());
        }
    });
    let proxy = start(&[server.local_addr().unwrap()]);
    let socket = client(proxy.udp).await;
    for id in 0..200 {
        socket.send(&wire::query(id, INTERNAL, wire::A)).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    until(&proxy.handle, |stats| stats.queries == 200).await;
    let end = Instant::now() + LONG;
    while ports.lock().unwrap().len() < 200 && Instant::now() < end {
        sleep(Duration::from_millis(5)).await;
    }
    let mut ports = ports.lock().unwrap().clone();
    let in_turn = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 2).count();
    // One in 16 is the same again.
    assert!(in_turn < 40, "ports repeat or follow one another: {ports:?}");
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() >= 16, "{ports:?}");
}

#[tokio::test]
async fn d04_responses_from_clients_get_no_answer() {
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let proxy = start(&[server]);
    let socket = client(proxy.udp).await;
    let query = wire::query(1, INTERNAL, wire::A);
    for _ in 0..50 {
        socket.send(&internal_answer(&query)).await.unwrap();
    }
    until(&proxy.handle, |stats| stats.refused == 50).await;
    let mut buffer = [0; 512];
    assert!(timeout(Duration::from_millis(100), socket.recv(&mut buffer)).await.is_err());
    assert_eq!(exchange(proxy.udp, &query).await, internal_answer(&query));
}

#[tokio::test]
async fn queries_of_strangers_are_dropped_and_a_new_configuration_is_heard() {
    let server = udp_server(|query| Some(internal_answer(query))).await;
    let mut strange = config(&[server]);
    strange.nameservers = vec!["10.96.0.10".parse().unwrap()];
    let proxy = start_with(strange, PlainSockets, Sink::with_permits(10));
    let query = wire::query(1, INTERNAL, wire::A);
    let socket = client(proxy.udp).await;
    socket.send(&query).await.unwrap();
    until(&proxy.handle, |stats| stats.refused == 1).await;
    proxy.handle.set_config(config(&[server])).await.unwrap();
    socket.send(&query).await.unwrap();
    assert_eq!(receive(&socket).await, internal_answer(&query));
}

#[tokio::test]
async fn d18_a_proxy_never_asks_itself() {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = udp.local_addr().unwrap();
    let listeners = Listeners { udp: vec![udp], tcp: vec![] };
    let proxy = Proxy::new(config(&[own]), listeners, PlainSockets, Sink::with_permits(0));
    assert!(matches!(proxy, Err(ProxyError::Loop(server)) if server == own));
    let running = start(&[]);
    assert!(matches!(running.handle.set_config(config(&[running.udp])).await, Err(ProxyError::Loop(_))));
    assert!(matches!(running.handle.set_config(config(&[running.tcp])).await, Err(ProxyError::Loop(_))));
}

#[tokio::test]
async fn ipv6_clients_and_servers_are_served() {
    let server = UdpSocket::bind("[::1]:0").await.unwrap();
    let upstream = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).await.unwrap();
        server.send_to(&internal_answer(&buffer[..length]), from).await.unwrap();
    });
    let mut config = config(&[upstream]);
    config.nameservers = vec!["::1".parse().unwrap()];
    let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
    let address = udp.local_addr().unwrap();
    let listeners = Listeners { udp: vec![udp], tcp: vec![] };
    let proxy = Proxy::new(config, listeners, PlainSockets, Sink::with_permits(10)).unwrap();
    let task = tokio::spawn(proxy.run());
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let query = wire::query(1, INTERNAL, wire::A);
    socket.send(&query).await.unwrap();
    assert_eq!(receive(&socket).await, internal_answer(&query));
    task.abort();
}

#[tokio::test]
async fn nothing_is_left_behind_when_the_proxy_is_dropped() {
    let silent = udp_server(|_| None).await;
    let proxy = start(&[silent]);
    let (udp, tcp) = (proxy.udp, proxy.tcp);
    let socket = client(udp).await;
    socket.send(&wire::query(1, INTERNAL, wire::A)).await.unwrap();
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    until(&proxy.handle, |stats| stats.queries == 1).await;
    drop(proxy);
    assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap_or(0), 0);
    let end = Instant::now() + LONG;
    while std::net::UdpSocket::bind(udp).is_err() || std::net::TcpListener::bind(tcp).is_err() {
        assert!(Instant::now() < end, "a listener is still bound");
        sleep(Duration::from_millis(5)).await;
    }
}
