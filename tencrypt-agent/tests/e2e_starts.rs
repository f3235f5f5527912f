//! Pods are protected beside an application that sends from its first instruction, by all ways that need no privilege: none
//! of it is on the wire in plain from `ready` on, and none at all where the namespaces were closed before.

mod support;

use std::{
    cell::Cell,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant, SystemTime},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::{CANARY, Cluster, Ending, LIMIT, Probe, Random, Running};
use tencrypt_lab::{IpNet, Pod, Signal, test_within};

/// Starts of the program with namespaces open, and as many with them closed; `TENCRYPT_TEST_STARTS` says another number.
const STARTS: usize = 20;
/// Port of the datagrams, at which nobody listens but whoever has waited for them.
const UDP: u16 = 7001;
/// Port of the connections, which the kernel takes and nobody reads.
const TCP: u16 = 7002;
/// Between two rounds of an application.
const PAUSE: Duration = Duration::from_micros(500);

/// Destinations of the application of a pod: the other pod, and addresses that nobody has yet, in both families.
struct Destinations {
    other: [IpAddr; 2],
    absent: [IpAddr; 2],
}

/// Sends all the time, from its first instruction on, until `over`; then what it has kept back. Returns the number of calls
/// that the kernel has taken.
fn application(pod: &Pod, to: &Destinations, over: &AtomicBool) -> u64 {
    pod.netns().run(|| {
        let taken = Cell::new(0);
        let say = |socket: &Socket, to: SocketAddr, flags: i32| {
            let sent = socket.send_to_with_flags(CANARY.as_bytes(), &SockAddr::from(to), flags);
            taken.set(taken.get() + u64::from(sent.is_ok()));
        };
        let all = || to.other.into_iter().chain(to.absent).map(|address| SocketAddr::new(address, UDP));
        let mut sockets = Vec::new();
        let mut kept_back = Vec::new();
        for to in all() {
            for device in [None, Some(&b"eth0"[..])] {
                let socket = datagrams(to, device);
                say(&socket, to, 0);
                sockets.push((socket, to));
                // Begun now, with the route of now, and sent when it is ended.
                let corked = datagrams(to, device);
                say(&corked, to, libc::MSG_MORE);
                kept_back.push((corked, to));
            }
        }
        let mut streams: Vec<TcpStream> = to.other.into_iter().filter_map(connected).collect();
        while !over.load(Ordering::Relaxed) {
            sockets.iter().for_each(|(socket, to)| say(socket, *to, 0));
            for stream in &mut streams {
                let written = stream.write(CANARY.as_bytes());
                taken.set(taken.get() + u64::from(written.is_ok()));
            }
            thread::sleep(PAUSE);
        }
        kept_back.iter().for_each(|(socket, to)| say(socket, *to, 0));
        taken.get()
    })
}

fn datagrams(to: SocketAddr, device: Option<&[u8]>) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.bind_device(device).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// A connection that is there at once or is made later, if there is a way.
fn connected(to: IpAddr) -> Option<TcpStream> {
    let to = SocketAddr::new(to, TCP);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => None,
        _ => Some(socket.into()),
    }
}

/// Both pods, and a third that has addresses late.
struct Scene {
    cluster: Cluster,
    probe: Probe,
    late: Pod,
    /// Number of addresses that were had late.
    numbered: u16,
    _listeners: Vec<TcpListener>,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let late = cluster.pod(90);
        let mut listeners = Vec::new();
        for pod in [&cluster.a, &cluster.b] {
            for address in pod.addresses() {
                listeners.push(pod.netns().run(|| TcpListener::bind((address, TCP))).unwrap());
            }
        }
        Self { cluster, probe, late, numbered: 0, _listeners: listeners }
    }

    fn pods(&self) -> [&Pod; 2] {
        [&self.cluster.a, &self.cluster.b]
    }

    /// Addresses that nobody has had yet.
    fn next_absent(&mut self) -> [IpAddr; 2] {
        self.numbered += 1;
        let [high, low] = (self.numbered + 0x1000).to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 9, self.numbered);
        [Ipv4Addr::new(10, 129, high, low).into(), v6.into()]
    }

    /// Lets the third pod have these addresses, and speak from there to both pods: so what waits for them is sent, at once.
    /// Returns the number of datagrams that come, which are too many to be counted where nothing stops them.
    fn appear(&self, absent: [IpAddr; 2]) -> usize {
        let mut heard = 0;
        for (to, (address, prefix)) in absent.into_iter().zip([14, 64]).enumerate() {
            let net = IpNet::new_assert(address, prefix);
            self.late.add_address(net).unwrap();
            let socket = self.late.netns().run(|| UdpSocket::bind((address, UDP))).unwrap();
            for pod in self.pods() {
                socket.send_to(b"here", (pod.addresses()[to], UDP)).unwrap();
            }
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let end = Instant::now() + Duration::from_millis(60);
            while Instant::now() < end {
                heard += usize::from(socket.recv(&mut [0; 64]).is_ok());
            }
            self.late.delete_address(net).unwrap();
        }
        heard
    }

    /// Applications in both pods, and what happens beside them. Ends when all has been seen that they sent.
    fn beside<T>(&mut self, act: impl FnOnce(&Self, [IpAddr; 2]) -> T) -> (T, u64) {
        let absent = self.next_absent();
        let over = AtomicBool::new(false);
        let scene = &*self;
        thread::scope(|scope| {
            let ending = Ending(&over);
            let [a, b] = scene.pods();
            let applications: Vec<ScopedJoinHandle<'_, u64>> = [(a, b), (b, a)]
                .map(|(pod, other)| {
                    let to = Destinations { other: other.addresses(), absent };
                    let over = &over;
                    scope.spawn(move || application(pod, &to, over))
                })
                .into();
            let done = act(scene, absent);
            drop(ending);
            (done, applications.into_iter().map(|application| application.join().unwrap()).sum())
        })
    }

    /// Starts the program in both pods, while the applications send; each with the time at which it was seen to be ready.
    fn start(&self, random: &mut Random) -> [(Running, SystemTime); 2] {
        thread::sleep(random.up_to(Duration::from_millis(30)));
        let running = self.pods().map(|pod| self.cluster.start(pod, ""));
        let ready = |running: &Running| {
            running.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", running.log()));
            SystemTime::now()
        };
        let times = thread::scope(|scope| {
            let [a, b] = [&running[0], &running[1]].map(|running| scope.spawn(move || ready(running)));
            [a.join().unwrap(), b.join().unwrap()]
        });
        let [a, b] = running;
        [(a, times[0]), (b, times[1])]
    }

    /// Panics if one of the pods has sent something in plain since it was `ready`; returns the shortest time between the
    /// last of it and that.
    fn assert_silent_since(&self, ready: [SystemTime; 2], what: &str) -> Option<Duration> {
        let report = self.probe.report();
        assert_eq!(report.lost, 0, "{report}");
        let gaps = self.pods().into_iter().zip(ready).filter_map(|(pod, ready)| {
            let last = report.last_plain.get(&pod.mac())?;
            let gap = ready.duration_since(*last);
            Some(gap.unwrap_or_else(|after| panic!("{what}: plain {:?} after: {report}", after.duration())))
        });
        gaps.min()
    }
}

/// The positive control: without the program all of it is in plain, also what has waited for a neighbour.
fn control(scene: &mut Scene) {
    let (heard, taken) = scene.beside(|scene, absent| {
        thread::sleep(Duration::from_millis(50));
        scene.appear(absent)
    });
    let report = scene.probe.report();
    assert!(heard > 20 && taken > 100, "{heard} heard, {taken} taken");
    assert!(report.leaks > 100 && report.canary > 100, "the probe is blind: {report}");
    for pod in scene.pods() {
        assert!(report.last_plain.contains_key(&pod.mac()), "blind for one pod");
    }
}

#[test]
fn an_application_that_sends_from_its_first_instruction_leaks_nothing_from_ready_on() {
    const NAME: &str = "an_application_that_sends_from_its_first_instruction_leaks_nothing_from_ready_on";
    let rounds = support::rounds("TENCRYPT_TEST_STARTS", STARTS).div_ceil(2);
    test_within(NAME, Duration::from_secs(60 + 8 * rounds as u64), || {
        let mut random = Random::seeded();
        let mut scene = Scene::new();
        control(&mut scene);
        let (mut plain, mut gap, mut frames, mut calls) = (0, Duration::MAX, 0, 0);
        for round in 0..rounds {
            scene.probe.reset();
            let ((running, heard), taken) = scene.beside(|scene, absent| {
                let running = scene.start(&mut random);
                thread::sleep(random.up_to(Duration::from_millis(50)));
                (running, scene.appear(absent))
            });
            let report = scene.probe.report();
            assert!(report.leaks > 0, "round {round}: nothing was sent before the program stood");
            assert_eq!(heard, 0, "round {round}: what waited for a neighbour came: {report}");
            let [(a, ready_a), (b, ready_b)] = running;
            let shortest = scene.assert_silent_since([ready_a, ready_b], &format!("round {round}, open"));
            gap = gap.min(shortest.unwrap_or(Duration::MAX));
            (plain, frames, calls) = (plain + report.leaks, frames + report.frames, calls + taken);

            end(a, &mut random);
            end(b, &mut random);
            scene.probe.reset();
            let (_running, taken) = scene.beside(|scene, absent| {
                let running = scene.start(&mut random);
                thread::sleep(random.up_to(Duration::from_millis(50)));
                assert_eq!(scene.appear(absent), 0, "round {round}, closed");
                running
            });
            scene.cluster.say_canary(scene.cluster.b.addresses()[round % 2]);
            let report = scene.probe.report();
            assert!(report.is_clean() && report.tunnel > 0, "round {round}, closed: {report}");
            (frames, calls) = (frames + report.frames, calls + taken);
            for pod in scene.pods() {
                assert!(scene.cluster.down(pod).status.success());
            }
        }
        println!(
            "{0} starts of open and {0} of closed namespaces, {calls} sends, {frames} frames; in plain before ready: {plain}, \
             the last {gap:.1?} before it; since: 0; of closed namespaces: 0",
            2 * rounds,
        );
    });
}

/// Leaves the namespace closed, in one way or the other.
fn end(mut running: Running, random: &mut Random) {
    running.program.signal(random.one_of(&[Signal::Term, Signal::Kill])).unwrap();
    running.program.wait(LIMIT).unwrap();
}
