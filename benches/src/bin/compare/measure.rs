//! One pattern, from the first packet to its numbers.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use crate::{
    cpu::Spent,
    load::{Flow, latency, tcp, udp},
    network::Network,
    outcome::Outcome,
    pattern::{Metric, Pattern},
    samples::quantile,
    start::Running,
};

/// Load before the measured time, for TCP's window to open.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures one pattern for `duration`.
///
/// # Errors
///
/// A connection that was not made or that broke, or a tunnel that ended.
pub(crate) fn measure(
    pattern: Pattern,
    network: &Network,
    running: &Running,
    duration: Duration,
) -> Outcome<Vec<(Metric, f64)>> {
    let target = running.target;
    let tcp = |streams, way| tcp::start(network, target, streams, way);
    let udp = |length| udp::start(network, target, length);
    let window = |flow| Window::of(flow, running, duration);
    Ok(match pattern {
        Pattern::Tcp1 => {
            let window = window(tcp(1, tcp::Way::Up)?)?;
            let mut values = vec![(Metric::Tcp1, window.gbit_per_s())];
            let gigabytes = window.received as f64 / 1e9;
            if gigabytes > 0.0 {
                values.push((Metric::MachineCpu, window.spent.machine.as_secs_f64() / gigabytes));
                if running.processes().next().is_some() {
                    values.push((Metric::TunnelCpu, window.spent.processes.as_secs_f64() / gigabytes));
                }
            }
            values
        }
        Pattern::Tcp10 => vec![(Metric::Tcp10, window(tcp(10, tcp::Way::Up)?)?.gbit_per_s())],
        Pattern::Reverse => vec![(Metric::Reverse, window(tcp(1, tcp::Way::Down)?)?.gbit_per_s())],
        Pattern::Udp1200 => datagrams(&window(udp(1200)?)?, Metric::Udp1200, Metric::Udp1200Sent),
        Pattern::Udp64 => datagrams(&window(udp(64)?)?, Metric::Udp64, Metric::Udp64Sent),
        Pattern::Idle => {
            let latency = latency::measure(network, target, duration)?;
            quantiles(&latency, Metric::IdleMedian, Metric::IdleTail)?
        }
        Pattern::Loaded => {
            let load = tcp(1, tcp::Way::Up)?;
            thread::sleep(WARM_UP);
            let latency = latency::measure(network, target, duration)?;
            load.finish()?;
            let mut values = quantiles(&latency, Metric::LoadedMedian, Metric::LoadedTail)?;
            values.push((Metric::LoadedLost, latency.lost()));
            values
        }
    })
}

/// The measured time of a load.
struct Window {
    elapsed: Duration,
    sent: u64,
    received: u64,
    spent: Spent,
}

impl Window {
    fn of(flow: Flow, running: &Running, duration: Duration) -> io::Result<Self> {
        thread::sleep(WARM_UP);
        let spent = Spent::until_now(running.processes())?;
        let (start, sent, received) = (Instant::now(), flow.sent(), flow.received());
        thread::sleep(duration);
        let (elapsed, sent, received) = (start.elapsed(), flow.sent() - sent, flow.received() - received);
        let spent = Spent::until_now(running.processes())?.since(spent);
        flow.finish()?;
        Ok(Self { elapsed, sent, received, spent })
    }

    fn gbit_per_s(&self) -> f64 {
        self.received as f64 * 8e-9 / self.elapsed.as_secs_f64()
    }
}

fn datagrams(window: &Window, received: Metric, sent: Metric) -> Vec<(Metric, f64)> {
    let thousands = |count: u64| count as f64 / 1e3 / window.elapsed.as_secs_f64();
    vec![(received, thousands(window.received)), (sent, thousands(window.sent))]
}

fn quantiles(latency: &latency::Latency, median: Metric, tail: Metric) -> Outcome<Vec<(Metric, f64)>> {
    match (quantile(&latency.micros, 0.5), quantile(&latency.micros, 0.99)) {
        (Some(middle), Some(end)) => Ok(vec![(median, middle), (tail, end)]),
        _ => Err("no request was answered".into()),
    }
}
