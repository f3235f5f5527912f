//! Programs are killed, stopped and cut off at random moments of start, traffic, rekey, restoring and stop: nothing of the
//! tenant is on the wire in plain, and its traffic is back within a second of their restart.

mod support;

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::{CANARY, Cluster, Ending, LIMIT, Probe, Random, Running};
use tencrypt_lab::{IpNet, Pod, Signal, Snapshot, UdpEcho, test_within};

/// Events; `TENCRYPT_TEST_KILLS` says another number.
const EVENTS: usize = 20;
/// Port of the echoes, and port of what is to get past the tunnel.
const UDP: u16 = 9001;
const EVASION: u16 = 9002;
/// Between two turns of a caller, and its requests in each.
const PAUSE: Duration = Duration::from_millis(4);
const REQUESTS: usize = 4;
/// From the moment that program and link are there again to the first answer, at most.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Packets of the tunnel seen for each event, on average, at least; of 1,000 events there were 1,143,155.
const PACKETS: u64 = 300;
/// Epochs that are kept beside the one to come.
const HELD: u64 = 6;
const TABLE: u32 = 8362;
/// A rule that comes before the tunnel's.
const BEFORE: u32 = 100;

/// The moment at which a pod or its program is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Start,
    Traffic,
    Rekey,
    Restore(Change),
    Stop,
}

/// A change that the program puts back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Rules,
    RuleBefore,
    Routes,
    Chains,
    Device,
    RpFilter,
}

/// The event that strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    End(Signal),
    Pause,
    LinkDown,
    Cable,
    Address,
    Mtu,
    TunDown,
    TunGone,
}

const MOMENTS: [Moment; 4] = [Moment::Start, Moment::Traffic, Moment::Rekey, Moment::Stop];
const CHANGES: [Change; 6] =
    [Change::Rules, Change::RuleBefore, Change::Routes, Change::Chains, Change::Device, Change::RpFilter];
const SIGNALS: [Signal; 3] = [Signal::Kill, Signal::Term, Signal::Abort];
const LINK_EVENTS: [Blow; 6] =
    [Blow::LinkDown, Blow::Cable, Blow::Address, Blow::Mtu, Blow::TunDown, Blow::TunGone];

/// One event, as the seed makes it.
#[derive(Debug, Clone, Copy)]
struct Event {
    moment: Moment,
    /// From the moment's beginning.
    after: Duration,
    blow: Blow,
    /// Of what lasts: a pause, a link that is away.
    lasts: Duration,
    /// The pods that are struck.
    pods: [bool; 2],
}

impl Event {
    /// `start`: the time that the last start took.
    fn any(random: &mut Random, start: Duration) -> Self {
        let moment = match random.below(MOMENTS.len() + 1) {
            number if number < MOMENTS.len() => MOMENTS[number],
            _ => Moment::Restore(random.one_of(&CHANGES)),
        };
        let window = match moment {
            Moment::Start => start + start / 4,
            Moment::Traffic => Duration::from_millis(300),
            // Sessions are made anew within 4 s, and most of them soon.
            Moment::Rekey => Duration::from_secs(2),
            Moment::Restore(_) => Duration::from_millis(40),
            Moment::Stop => Duration::from_millis(30),
        };
        let blow = match random.below(5) {
            0..3 => Blow::End(random.one_of(&SIGNALS)),
            3 => Blow::Pause,
            _ => random.one_of(&LINK_EVENTS),
        };
        let pods = random.one_of(&[[true, false], [false, true], [true, false], [false, true], [true, true]]);
        let after = random.up_to(window);
        Self { moment, after, blow, lasts: random.up_to(Duration::from_millis(200)), pods }
    }

    /// The end of a program, and nothing besides. One that is ended in its start has come twice within a second, and is told so
    /// by its peer once in that time; of a link the kernel alone takes up to a second until it carries anything again
    /// (net/core/link_watch.c).
    fn is_single(&self) -> bool {
        self.moment != Moment::Start && matches!(self.blow, Blow::End(_) | Blow::TunGone)
    }
}

/// Requests from one pod to the other without end, and attempts to get past the tunnel.
struct Caller {
    to: SocketAddr,
    socket: UdpSocket,
    /// Bound to the interface.
    evading: Socket,
    /// Of late answers: the times of their requests, their own, and the turns in which they came.
    answers: Mutex<VecDeque<(Duration, Duration, u32)>>,
    turns: AtomicU32,
}

/// The state that all callers share.
struct Traffic {
    begun: Instant,
    over: AtomicBool,
    /// The chains stand, or ought to: without them a socket that is bound to the interface gets past.
    evade: AtomicBool,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            over: AtomicBool::new(false),
            evade: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

impl Caller {
    fn new(from: &Pod, source: IpAddr, to: IpAddr) -> Self {
        let to = SocketAddr::new(to, UDP);
        let open = || -> io::Result<(UdpSocket, Socket)> {
            let socket = UdpSocket::bind((source, 0))?;
            socket.connect(to)?;
            let evading = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
            evading.bind_device(Some(b"eth0"))?;
            Ok((socket, evading))
        };
        let (socket, evading) = from.netns().run(open).unwrap();
        socket.set_nonblocking(true).unwrap();
        evading.set_nonblocking(true).unwrap();
        Self { to, socket, evading, answers: Mutex::default(), turns: AtomicU32::new(0) }
    }

    fn run(&self, traffic: &Traffic) {
        let mut answer = [0; 64];
        while !traffic.over.load(Ordering::Relaxed) {
            for _ in 0..REQUESTS {
                let mut request = (traffic.begun.elapsed().as_nanos() as u64).to_be_bytes().to_vec();
                request.extend(CANARY.as_bytes());
                // While the program is away there is no route, and the socket says so.
                let _ = self.socket.send(&request);
            }
            traffic.requests.fetch_add(REQUESTS as u64, Ordering::Relaxed);
            if traffic.evade.load(Ordering::Relaxed) {
                traffic.refused.fetch_add(self.evade(), Ordering::Relaxed);
            }
            thread::sleep(PAUSE);
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            while let Ok(length) = self.socket.recv(&mut answer) {
                let asked = answer[..length].first_chunk().map(|asked| u64::from_be_bytes(*asked));
                let asked = Duration::from_nanos(asked.expect("the answer has the request's time"));
                let mut answers = self.answers();
                answers.push_back((asked, traffic.begun.elapsed(), turn));
                if answers.len() > 4_000 {
                    answers.pop_front();
                }
            }
        }
    }

    /// Sends to the other pod and to a group past the routes; the number of those that the kernel refuses.
    fn evade(&self) -> u64 {
        let group: IpAddr = match self.to {
            SocketAddr::V4(_) => Ipv4Addr::new(239, 1, 2, 3).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
        };
        let sends = [self.to.ip(), group].map(|to| {
            let to = SockAddr::from(SocketAddr::new(to, EVASION));
            self.evading.send_to(CANARY.as_bytes(), &to).is_err()
        });
        sends.into_iter().map(u64::from).sum()
    }

    fn answers(&self) -> MutexGuard<'_, VecDeque<(Duration, Duration, u32)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time and the turn of the first answer to a request made after `then`.
    fn answered_after(&self, then: Duration) -> Option<(Duration, u32)> {
        self.answers().iter().find(|(asked, ..)| *asked > then).map(|(_, came, turn)| (*came, *turn))
    }
}

/// Time until all callers had their answers again.
#[derive(Debug, Clone, Copy)]
struct Back {
    by_clock: Duration,
    /// In turns of the callers, which stand still while this process gets no processor.
    by_turns: Duration,
    /// A program was started for it.
    started: bool,
}

/// Both pods under load.
struct Scene<'a> {
    cluster: &'a Cluster,
    probe: &'a Probe,
    callers: &'a [Caller],
    traffic: &'a Traffic,
    running: [Option<Running>; 2],
    /// The time that the last start took.
    start: Duration,
    /// Programs that have ended without a signal.
    ended: usize,
    /// The epoch to come.
    epoch: u64,
}

impl<'a> Scene<'a> {
    /// Starts the program in both pods.
    fn new(cluster: &'a Cluster, probe: &'a Probe, callers: &'a [Caller], traffic: &'a Traffic) -> Self {
        let running = [None, None];
        let start = Duration::ZERO;
        let mut scene = Self { cluster, probe, callers, traffic, running, start, ended: 0, epoch: 2 };
        (0..2).for_each(|pod| scene.start(pod));
        scene.rotate("add");
        scene
    }

    /// Makes so many events; returns the times to the answers after one start of a program, and after all else.
    fn run(&mut self, events: usize, random: &mut Random) -> [Vec<Back>; 2] {
        let first = Event { pods: [true; 2], ..Event::any(random, self.start) };
        self.wait_back(&first, false);
        let (mut restarts, mut others) = (Vec::new(), Vec::new());
        for number in 0..events {
            let event = Event::any(random, self.start);
            print!("{number:4} {event:?}");
            let back = self.event(&event);
            println!(": {back:.1?}");
            let is_restart = back.started && event.is_single();
            if is_restart && back.by_turns >= BACK_WITHIN {
                println!("{}", self.told("late"));
            }
            if is_restart { &mut restarts } else { &mut others }.push(back);
        }
        [restarts, others]
    }

    fn pod(&self, number: usize) -> &Pod {
        [&self.cluster.a, &self.cluster.b][number]
    }

    fn program(&mut self, number: usize) -> &mut Running {
        self.running[number].as_mut().expect("it was started")
    }

    fn signal(&mut self, number: usize, signal: Signal) {
        self.program(number).program.signal(signal).unwrap();
    }

    /// Waits until the program has ended.
    fn wait_end(&mut self, number: usize) {
        let running = self.program(number);
        let ended = running.program.wait(LIMIT);
        ended.unwrap_or_else(|error| panic!("{error}\n{}", running.log()));
    }

    fn spawn(&mut self, number: usize) {
        self.running[number] = None;
        self.running[number] = Some(self.cluster.start(self.pod(number), ""));
    }

    /// The program of a pod is ready, now or after it was started; returns false if it has ended instead.
    fn is_ready(&mut self, number: usize) -> bool {
        self.program(number).program.wait_ready(LIMIT).is_ok()
    }

    fn start(&mut self, number: usize) {
        let begun = Instant::now();
        self.spawn(number);
        assert!(self.is_ready(number), "not ready:\n{}", self.program(number).log());
        self.start = begun.elapsed();
    }

    fn rotate(&self, step: &str) {
        let key = self.cluster.key_file.clone().into_os_string();
        let done = self.cluster.tencrypt(["rotate".into(), step.into(), key]);
        assert!(done.status.success(), "{step}: {done:?}");
    }

    fn change(&self, pod: usize, change: Change) {
        let pod = self.pod(pod);
        match change {
            Change::Rules => pod.delete_rules(TABLE).unwrap(),
            Change::RuleBefore => pod.add_rule(BEFORE).unwrap(),
            Change::Routes => pod.flush_routes(TABLE).unwrap(),
            Change::Chains => pod.flush_nftables().unwrap(),
            Change::Device => pod.set_device_up("tenc0", false).unwrap(),
            Change::RpFilter => pod.netns().set_sysctl("ipv4/conf/eth0/rp_filter", "1").unwrap(),
        }
    }

    /// Begins what the pods are struck in.
    fn begin(&mut self, event: &Event) {
        let struck = struck(event);
        match event.moment {
            Moment::Traffic => {}
            Moment::Rekey => self.rotate("activate"),
            Moment::Start => {
                struck.iter().for_each(|pod| self.signal(*pod, Signal::Kill));
                struck.iter().for_each(|pod| self.wait_end(*pod));
                struck.iter().for_each(|pod| self.spawn(*pod));
            }
            Moment::Stop => struck.iter().for_each(|pod| self.signal(*pod, Signal::Term)),
            Moment::Restore(change) => {
                if change == Change::Chains {
                    self.traffic.evade.store(false, Ordering::Relaxed);
                    thread::sleep(4 * PAUSE);
                }
                struck.iter().for_each(|pod| self.change(*pod, change));
            }
        }
    }

    /// Strikes, and takes back what a link was struck with.
    fn strike(&mut self, event: &Event) {
        for pod in struck(event) {
            match event.blow {
                Blow::End(signal) => self.signal(pod, signal),
                Blow::Pause => self.signal(pod, Signal::Stop),
                Blow::LinkDown => self.pod(pod).set_up(false).unwrap(),
                Blow::Cable => self.cluster.nodes[0].set_port_up(self.pod(pod), false).unwrap(),
                Blow::Address => self.addresses(pod, Pod::delete_address),
                Blow::Mtu => self.pod(pod).set_mtu(1400).unwrap(),
                // The device is not there before the start has come so far, and no more when the stop has.
                Blow::TunDown => drop(self.pod(pod).set_device_up("tenc0", false)),
                Blow::TunGone => drop(self.pod(pod).delete_device("tenc0")),
            }
        }
        thread::sleep(match event.blow {
            Blow::End(_) => Duration::ZERO,
            _ => event.lasts,
        });
        for pod in struck(event) {
            match event.blow {
                Blow::Pause => self.signal(pod, Signal::Continue),
                Blow::Cable => self.cluster.nodes[0].set_port_up(self.pod(pod), true).unwrap(),
                Blow::Address => self.addresses(pod, Pod::add_address),
                Blow::Mtu => self.pod(pod).set_mtu(self.cluster.mtu).unwrap(),
                // The kernel has taken the IPv6 address away.
                Blow::LinkDown => {
                    self.pod(pod).set_up(true).unwrap();
                    let v6 = IpNet::new_assert(self.pod(pod).v6(), 64);
                    self.pod(pod).add_address(v6).unwrap();
                }
                Blow::End(_) | Blow::TunDown | Blow::TunGone => {}
            }
        }
    }

    fn addresses(&self, pod: usize, act: fn(&Pod, IpNet) -> tencrypt_lab::Result<()>) {
        let pod = self.pod(pod);
        for (address, prefix) in pod.addresses().into_iter().zip([14, 64]) {
            act(pod, IpNet::new_assert(address, prefix)).unwrap();
        }
    }

    /// Starts what has ended, and takes back what was done besides. Returns true if a program was started.
    fn recover(&mut self, event: &Event) -> bool {
        let mut started = false;
        for pod in struck(event) {
            let ends = matches!(event.blow, Blow::End(_)) || event.moment == Moment::Stop;
            if ends {
                self.wait_end(pod);
            }
            // A start may have failed for want of an interface or of the device.
            if ends || (event.moment == Moment::Start && !self.is_ready(pod)) {
                self.start(pod);
            }
            started |= ends || event.moment == Moment::Start;
            if event.moment == Moment::Restore(Change::RuleBefore) {
                self.pod(pod).delete_rule(BEFORE).unwrap();
            }
        }
        started
    }

    /// Waits until all callers have their answers again.
    fn wait_back(&mut self, event: &Event, mut started: bool) -> Back {
        let turns = |callers: &[Caller]| -> Vec<u32> {
            callers.iter().map(|caller| caller.turns.load(Ordering::Relaxed)).collect()
        };
        let mut there = (self.traffic.begun.elapsed(), turns(self.callers));
        let limit = Instant::now() + LIMIT;
        loop {
            let came: Option<Vec<(Duration, u32)>> =
                self.callers.iter().map(|caller| caller.answered_after(there.0)).collect();
            if let Some(came) = came {
                let last = came.iter().map(|(came, _)| *came - there.0).max();
                let turns =
                    came.iter().zip(&there.1).map(|((_, turn), then)| turn.saturating_sub(*then)).max();
                let (by_clock, by_turns) = (last.unwrap_or_default(), turns.unwrap_or_default() * PAUSE);
                return Back { by_clock, by_turns, started };
            }
            for pod in struck(event) {
                if !self.program(pod).program.is_running() {
                    self.ended += 1;
                    self.start(pod);
                    there = (self.traffic.begun.elapsed(), turns(self.callers));
                    started = true;
                }
            }
            assert!(Instant::now() < limit, "{}", self.told(&format!("no answer any more after {event:?}")));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells all that is to be known when it fails.
    fn told(&self, what: &str) -> String {
        let ago = |caller: &Caller| {
            let last = caller.answers().back().map(|(_, came, _)| *came);
            (caller.to, last.map(|last| self.traffic.begun.elapsed() - last))
        };
        let callers: Vec<(SocketAddr, Option<Duration>)> = self.callers.iter().map(ago).collect();
        let of = |running: &Option<Running>| {
            running
                .as_ref()
                .map_or(String::new(), |running| format!("{}\n{}", running.status(), running.log()))
        };
        let [a, b] = [&self.running[0], &self.running[1]].map(of);
        format!("{what}\nlast answers of {callers:.1?} ago\n--- a\n{a}\n--- b\n{b}")
    }

    /// One event from its beginning until all is as before.
    fn event(&mut self, event: &Event) -> Back {
        self.begin(event);
        thread::sleep(event.after);
        self.strike(event);
        let started = self.recover(event);
        let back = self.wait_back(event, started);
        if event.moment == Moment::Rekey {
            self.rotate("add");
            self.epoch += 1;
            if self.epoch > HELD {
                self.rotate("retire");
            }
        }
        if event.moment == Moment::Restore(Change::Chains) {
            self.wait_chains(event);
            self.traffic.evade.store(true, Ordering::Relaxed);
        }
        let report = self.probe.so_far();
        assert!(report.is_clean(), "{}", self.told(&format!("{event:?}: {report}")));
        back
    }

    /// Waits until the kernel refuses again what is to get past the tunnel.
    fn wait_chains(&self, event: &Event) {
        for pod in struck(event) {
            let end = Instant::now() + LIMIT;
            let chains =
                |pod: &Pod| Snapshot::take(pod.netns()).unwrap().lines("nftables inet tencrypt ").count();
            while chains(self.pod(pod)) != 1 {
                assert!(Instant::now() < end, "{}", self.told("no chains"));
            }
        }
    }
}

/// The pods that are struck.
fn struck(event: &Event) -> Vec<usize> {
    (0..2).filter(|pod| event.pods[*pod]).collect()
}

/// The positive control of the callers: without the program, what they send is in plain, past the routes too.
fn control(probe: &Probe, callers: &[Caller]) {
    probe.reset();
    for caller in callers {
        assert_eq!(caller.evade(), 0, "{}", caller.to);
        let report = probe.report();
        assert!(report.canary >= 2 && report.leaks >= 2, "{}: the probe is blind: {report}", caller.to);
        probe.reset();
    }
}

/// Prints them; returns the longest in turns.
fn tell(name: &str, mut times: Vec<Back>) -> Duration {
    times.sort_by_key(|back| back.by_clock);
    let late = times.iter().filter(|back| back.by_clock >= BACK_WITHIN).count();
    let (Some(worst), count) = (times.last(), times.len()) else { return Duration::ZERO };
    let (median, worst) = (times[count / 2].by_clock, worst.by_clock);
    println!("{name}: {count} times, median {median:.1?}, worst {worst:.1?}, {late} of a second or more");
    times.iter().map(|back| back.by_turns).max().unwrap_or_default()
}

#[test]
fn programs_that_are_struck_at_random_moments_leak_nothing_and_are_back_within_a_second() {
    const NAME: &str = "programs_that_are_struck_at_random_moments_leak_nothing_and_are_back_within_a_second";
    let events = support::rounds("TENCRYPT_TEST_KILLS", EVENTS);
    test_within(NAME, Duration::from_secs(90 + 10 * events as u64), || {
        let mut random = Random::seeded();
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let _echoes = (UdpEcho::start(&cluster.a, UDP).unwrap(), UdpEcho::start(&cluster.b, UDP).unwrap());
        let ends = [(&cluster.a, &cluster.b), (&cluster.b, &cluster.a)];
        let calls = |(from, to): (&Pod, &Pod)| {
            from.addresses()
                .into_iter()
                .zip(to.addresses())
                .map(|(own, to)| Caller::new(from, own, to))
                .collect()
        };
        let callers: Vec<Caller> = ends.into_iter().flat_map::<Vec<Caller>, _>(calls).collect();
        control(&probe, &callers);
        let traffic = Traffic::new();
        let mut scene = Scene::new(&cluster, &probe, &callers, &traffic);
        probe.reset();
        let [restarts, others] = thread::scope(|scope| {
            let _ending = Ending(&traffic.over);
            callers.iter().for_each(|caller| drop(scope.spawn(|| caller.run(&traffic))));
            scene.run(events, &mut random)
        });
        let report = probe.report();
        println!("{events} events, {} unasked ends: {report}", scene.ended);
        println!(
            "{} requests; {} sends past the routes refused",
            traffic.requests.load(Ordering::Relaxed),
            traffic.refused.load(Ordering::Relaxed)
        );
        let worst = tell("from `ready` until all are answered", restarts);
        tell("from the end of a pause, a change or a second start", others);
        assert!(report.is_clean(), "{report}");
        assert!(report.tunnel >= PACKETS * events as u64, "too little was on the wire: {report}");
        assert!(traffic.refused.load(Ordering::Relaxed) > 0, "nothing was refused");
        assert!(worst < BACK_WITHIN, "{worst:?}");
    });
}
