//! A pod's program is killed under load and started again: how long nothing passes.

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use support::{CANARY, Cluster, LIMIT};
use tencrypt_lab::{Direction, Pod, Signal, TcpServer, UdpEcho, test_within, transfer};

const TCP: u16 = 9000;
const UDP: u16 = 9001;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(5);
/// Restarts of the side that is called, and as many of the one that calls; `TENCRYPT_TEST_RESTARTS` says another number.
const ROUNDS: usize = 3;
/// From `ready` to the first answer, at most.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Requests and their answers from a socket of its own, while it is to call.
struct Caller {
    socket: UdpSocket,
    calls: AtomicBool,
    /// The times at which answers came, and at which their requests had left.
    answers: Mutex<Vec<(Instant, Instant)>>,
}

impl Caller {
    fn new(from: &Pod, to: SocketAddr) -> Self {
        let socket = from.netns().run(|| {
            let socket = UdpSocket::bind((from.v4(), 0)).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        socket.set_nonblocking(true).unwrap();
        Self { socket, calls: AtomicBool::new(false), answers: Mutex::default() }
    }

    fn run(&self, over: &AtomicBool) {
        let mut asked = Vec::new();
        while !over.load(Ordering::Relaxed) {
            if !self.calls.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
                continue;
            }
            let mut request = (asked.len() as u64).to_be_bytes().to_vec();
            request.extend(CANARY.as_bytes());
            asked.push(Instant::now());
            // While the program is away there is no route, and the socket says so.
            let _ = self.socket.send(&request);
            thread::sleep(PAUSE);
            let mut answer = [0; 64];
            while let Ok(length) = self.socket.recv(&mut answer) {
                let number = answer[..length].first_chunk().map(|number| u64::from_be_bytes(*number));
                let number = number.expect("the answer has the request's number") as usize;
                let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.push((asked[number], Instant::now()));
            }
        }
    }

    /// Waits for the answer to a request made after `then`; when it came.
    fn answered_after(&self, then: Instant) -> Instant {
        let end = Instant::now() + LIMIT;
        loop {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, came)) = answers.iter().rev().take_while(|(asked, _)| *asked > then).last() {
                return *came;
            }
            drop(answers);
            assert!(Instant::now() < end, "no answer any more");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn call(&self, calls: bool) {
        self.calls.store(calls, Ordering::Relaxed);
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn median_and_worst(name: &str, times: &mut [Duration]) {
    times.sort();
    println!("  {name}: median {:.1?}, worst {:.1?}", times[times.len() / 2], times[times.len() - 1]);
}

#[test]
fn a_pod_that_is_killed_under_load_is_back_within_a_second() {
    let rounds = std::env::var("TENCRYPT_TEST_RESTARTS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(ROUNDS);
    let limit = Duration::from_secs(90 + 12 * rounds as u64);
    test_within("a_pod_that_is_killed_under_load_is_back_within_a_second", limit, || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        let to = cluster.b.v4();
        cluster.control(&probe, [to]);
        let (a, mut b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        probe.reset();
        let _echoes = (UdpEcho::start(&cluster.a, UDP).unwrap(), UdpEcho::start(&cluster.b, UDP).unwrap());
        let _server = TcpServer::start(&cluster.b, TCP).unwrap();
        let (over, uploads) = (AtomicBool::new(false), AtomicBool::new(true));
        // Whoever sends first after the restart is the one who notices: in the first case only a has something to send,
        // and learns by RESET; in the second only b, which asks anew.
        let cases = [
            ("called", true, Caller::new(&cluster.a, SocketAddr::new(to, UDP))),
            ("calling", false, Caller::new(&cluster.b, SocketAddr::new(cluster.a.v4(), UDP))),
        ];
        let runs = AtomicBool::new(false);
        let (transfers, measured) = thread::scope(|scope| {
            cases.iter().for_each(|(_, _, caller)| drop(scope.spawn(|| caller.run(&over))));
            // Connections outlast what happens to the program.
            let transfers = scope.spawn(|| {
                let mut intact = 0;
                while !over.load(Ordering::Relaxed) {
                    let upload = uploads.load(Ordering::Relaxed);
                    runs.store(upload, Ordering::Relaxed);
                    let direction = if upload { Direction::Upload } else { Direction::Download };
                    let to = SocketAddr::new(to, TCP);
                    let moved = transfer(cluster.a.netns(), to, direction, 32 << 20, intact, LIMIT).unwrap();
                    assert!(moved.is_intact(), "{moved:?}");
                    intact += 1;
                }
                intact
            });
            let mut measured = Vec::new();
            for (name, upload, caller) in &cases {
                uploads.store(*upload, Ordering::Relaxed);
                caller.call(true);
                let (mut back, mut from_start, mut from_kill) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..rounds {
                    // TCP sends again after 0.2 s, and after twice that (TCP_RTO_MIN, include/net/tcp.h): it is moving.
                    thread::sleep(Duration::from_millis(500));
                    caller.answered_after(Instant::now());
                    let end = Instant::now() + LIMIT;
                    while runs.load(Ordering::Relaxed) != *upload {
                        assert!(Instant::now() < end, "the transfer before does not end");
                        thread::sleep(Duration::from_millis(1));
                    }
                    let killed = Instant::now();
                    b.program.signal(Signal::Kill).unwrap();
                    b.program.wait(LIMIT).unwrap();
                    let started = Instant::now();
                    b = cluster.up(&cluster.b, "");
                    let ready = Instant::now();
                    // A request that was under way when the program was ready may be the first to pass.
                    let first = caller.answered_after(started);
                    back.push(first.saturating_duration_since(ready));
                    from_start.push(first - started);
                    from_kill.push(first - killed);
                }
                caller.call(false);
                measured.push((name, back, from_start, from_kill));
            }
            over.store(true, Ordering::Relaxed);
            (transfers.join().unwrap(), measured)
        });
        println!("{rounds} restarts each, {transfers} transfers of 32 MiB across them");
        for (name, mut back, mut from_start, mut from_kill) in measured {
            median_and_worst(&format!("restarted side {name}: ready to first answer"), &mut back);
            median_and_worst(&format!("restarted side {name}: start to first answer"), &mut from_start);
            median_and_worst(&format!("restarted side {name}: kill to first answer"), &mut from_kill);
            let worst = back.last().expect("a round");
            assert!(*worst < BACK_WITHIN, "{name}: {worst:?}: {}", a.status());
        }
        assert!(transfers > 0);
        cluster.say_canary(to);
        probe.assert_only_encrypted();
    });
}
