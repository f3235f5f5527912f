//! The tunnel embedded without the program: capture, transport and core in two pods of a laboratory network, and what
//! the wire between them shows.
//!
//! `cargo run -p tencrypt-example-veth --bin veth_pair`
//!
//! It starts itself again in namespaces of its own, so it needs no root where everybody may open `/dev/net/tun`. Each
//! pod's lane is one thread in the pod's namespace.
#![forbid(unsafe_code)]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tencrypt::{
    Event, Outbound, Output, PacketSink, SinkFull, TunPacket, Tunnel, TunnelConfig,
    offload::{Opened, VnetHdr},
};
use tencrypt_example_veth::{Failure, demonstration_keys, pod};
use tencrypt_lab::{self as lab, Entered, Node, PLAIN_MTU, Ping, Pod, Sniffer, Watch};
use tencrypt_tun::{Capture, CapturePlan, Received, TunDevice, mark_socket};
use tencrypt_udp::{AsyncUdpTransport, UdpTransport};
use tokio::io::unix::AsyncFd;

const LIMIT: Duration = Duration::from_secs(20);
/// The time between two looks of a lane whether it should end.
const TICK: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let outcome = match lab::enter(2 * LIMIT) {
        Ok(Entered::Over(code)) => return ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Ok(Entered::Inside) => show(),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = outcome {
        eprintln!("veth_pair: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn show() -> Result<(), Failure> {
    let node = Node::new("10.128.0.1/16".parse()?, "fd00:128::1/64".parse()?)?;
    let first = node.pod("10.128.0.21".parse()?, "fd00:128::21".parse()?, PLAIN_MTU)?;
    let second = node.pod("10.128.0.22".parse()?, "fd00:128::22".parse()?, PLAIN_MTU)?;
    let sniffer = Sniffer::start(node.netns(), Watch::new([&first, &second], b""))?;

    ping(&first, &second)?;
    let plain = seen(&sniffer)?;
    println!("without the tunnel: {plain}");
    if plain.leaks == 0 {
        return Err("the sniffer does not see plain pings".into());
    }

    let stop = AtomicBool::new(false);
    let encrypted = thread::scope(|scope| {
        let (ready, lanes) = channel();
        for pod in [&first, &second] {
            let (ready, stop) = (ready.clone(), &stop);
            scope.spawn(move || pod.netns().run(|| start_lane(pod, &ready, stop)));
        }
        drop(ready);
        let outcome = lanes.iter().take(2).collect::<Result<Vec<()>, Failure>>().and_then(|up| {
            if up.len() < 2 {
                return Err("a lane ended".into());
            }
            sniffer.reset();
            ping(&first, &second)?;
            seen(&sniffer)
        });
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    println!("with the tunnel:    {encrypted}");
    if !encrypted.is_clean() || encrypted.tunnel == 0 {
        return Err("that is not what an encrypted wire looks like".into());
    }
    Ok(())
}

fn ping(from: &Pod, to: &Pod) -> Result<(), Failure> {
    for address in to.addresses() {
        let report = Ping::new(address).run(from.netns())?;
        println!("{} of {} pings to {address} answered", report.replies, report.sent);
        if !report.is_complete() {
            return Err("pings were lost".into());
        }
    }
    Ok(())
}

fn seen(sniffer: &Sniffer) -> Result<lab::Report, Failure> {
    if !sniffer.settle(Duration::from_millis(100), LIMIT) {
        return Err("the wire does not become quiet".into());
    }
    Ok(sniffer.report())
}

/// Says whether the lane could start, then runs it. In the pod's namespace.
fn start_lane(pod: &Pod, ready: &Sender<Result<(), Failure>>, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            let mut lane = Lane::new(pod)?;
            // The receiver waits for both lanes; if it has gone, it has seen the other one fail.
            let _ = ready.send(Ok(()));
            let outcome = lane.run(stop).await;
            lane.capture.remove()?;
            outcome
        })
    });
    if let Err(error) = outcome {
        eprintln!("lane: {error}");
        let _ = ready.send(Err(error));
    }
}

struct Lane {
    capture: Capture,
    device: AsyncFd<Arc<TunDevice>>,
    transport: AsyncUdpTransport,
    tunnel: Tunnel,
}

impl Lane {
    /// The sockets first: when the capture stands, traffic meets a tunnel that can send.
    fn new(example: &Pod) -> Result<Self, Failure> {
        let transport = AsyncUdpTransport::new(UdpTransport::bind(TunnelConfig::DEFAULT_PORT, mark_socket)?)?;
        let protected = vec!["10.128.0.0/16".parse()?, "fd00:128::/64".parse()?];
        let plan = CapturePlan::new("eth0".parse()?, "tenc0".parse()?, TunnelConfig::DEFAULT_PORT, protected);
        let capture = Capture::install(plan)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the device keeps its descriptor while the Arc lives"
        )]
        let device = AsyncFd::new(Arc::clone(capture.device()))?;
        let tunnel = pod(&demonstration_keys()?, &example.addresses(), Instant::now())?;
        Ok(Self { capture, device, transport, tunnel })
    }

    /// Whatever comes first: a packet from the device, a datagram, a timer. After each of them everything the tunnel
    /// has to say is taken.
    async fn run(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let (mut packet, mut datagram) = (vec![0; 65_535 + VnetHdr::LEN], vec![0; 65_535]);
        while !stop.load(Ordering::Relaxed) {
            let tick = Instant::now() + TICK;
            let due = self.tunnel.next_timeout().map_or(tick, |due| due.min(tick));
            tokio::select! {
                readable = self.device.readable() => {
                    let mut readable = readable?;
                    match readable.get_inner().read(&mut packet)? {
                        Received::Packet { vnet, len } => {
                            self.outbound(vnet, &mut packet[VnetHdr::LEN..VnetHdr::LEN + len])?;
                        }
                        Received::Gone => return Err("the device is gone".into()),
                        _ => readable.clear_ready(),
                    }
                }
                received = self.transport.recv(&mut datagram) => {
                    if let Some((meta, len)) = received? {
                        let mut sink = Device(self.device.get_ref());
                        self.tunnel.handle_datagrams(&meta, &mut datagram[..len], Instant::now(), &mut sink);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
            self.drain()?;
            let now = Instant::now();
            if self.tunnel.next_timeout().is_some_and(|due| due <= now) {
                self.tunnel.handle_timeout(now);
                self.drain()?;
            }
        }
        Ok(())
    }

    fn outbound(&mut self, vnet: VnetHdr, bytes: &mut [u8]) -> Result<(), Failure> {
        let mut packet = TunPacket::new(vnet, bytes);
        match self.tunnel.handle_packet(&mut packet, Instant::now(), self.transport.transport()) {
            Outbound::Hairpin => drop(self.device.get_ref().write(packet.vnet(), packet.bytes())?),
            Outbound::Bypass => return Err("nothing here may leave in plain".into()),
            Outbound::Sent { .. } | Outbound::Held | Outbound::Dropped(_) => {}
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 65_535];
        let transport = self.transport.transport();
        loop {
            match self.tunnel.poll_output(&mut buffer, Instant::now()) {
                Output::Transmit(transmit) => {
                    transport.send(transmit.to, &buffer[..transmit.len], transmit.ecn);
                }
                Output::Event(Event::PeerUp { peer, endpoint, .. }) => {
                    println!("a session with {peer} at {endpoint}");
                }
                Output::Event(_) => {}
                Output::Opened(mut held) => {
                    let packet = held.as_packet();
                    self.device.get_ref().write(packet.vnet(), packet.bytes())?;
                }
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Timeout(_) => break,
            }
        }
        transport.flush();
        // What is said of paths (nobody listens yet, too long) is for the policy that lets packets leave in plain.
        while transport.poll_path_error().is_some() {}
        Ok(())
    }
}

/// The device as a sink: each opened packet is written at once.
struct Device<'d>(&'d TunDevice);

impl<'b> PacketSink<'b> for Device<'_> {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        // The device's queue is full or it is down: the packet is dropped, as on any link.
        self.0.write(packet.vnet(), packet.bytes()).map(drop).map_err(|_| SinkFull)
    }
}
