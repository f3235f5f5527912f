//! Loads on a network, and the numbers that are taken of them.

use clap::ValueEnum;

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Pattern {
    /// One TCP stream, and what it costs
    Tcp1,
    /// Ten TCP streams
    Tcp10,
    /// One TCP stream from the server to the client
    Reverse,
    /// UDP datagrams of 1200 bytes at full rate
    Udp1200,
    /// UDP datagrams of 64 bytes at full rate
    Udp64,
    /// A request every 2 ms on an idle network
    Idle,
    /// A request every 2 ms beside one TCP stream
    Loaded,
}

impl Pattern {
    /// All of them, in the order they are run.
    pub(crate) const ALL: [Self; 7] =
        [Self::Tcp1, Self::Tcp10, Self::Reverse, Self::Udp1200, Self::Udp64, Self::Idle, Self::Loaded];

    /// The numbers that it gives.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Tcp1 => &[Metric::Tcp1, Metric::TunnelCpu, Metric::MachineCpu],
            Self::Tcp10 => &[Metric::Tcp10],
            Self::Reverse => &[Metric::Reverse],
            Self::Udp1200 => &[Metric::Udp1200, Metric::Udp1200Sent],
            Self::Udp64 => &[Metric::Udp64, Metric::Udp64Sent],
            Self::Idle => &[Metric::IdleMedian, Metric::IdleTail],
            Self::Loaded => &[Metric::LoadedMedian, Metric::LoadedTail, Metric::LoadedLost],
        }
    }
}

/// One number of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Gbit/s of content.
    Tcp1,
    /// Gbit/s of content, all streams together.
    Tcp10,
    /// Gbit/s of content.
    Reverse,
    /// Thousand datagrams a second that the receiver's socket gave.
    Udp1200,
    /// Thousand datagrams a second that the sender's socket took.
    Udp1200Sent,
    /// Thousand datagrams a second that the receiver's socket gave.
    Udp64,
    /// Thousand datagrams a second that the sender's socket took.
    Udp64Sent,
    /// CPU-seconds of the tunnel's processes at both ends per GB of content, one TCP stream.
    TunnelCpu,
    /// CPU-seconds of the whole machine per GB of content, one TCP stream.
    MachineCpu,
    /// Microseconds there and back, median.
    IdleMedian,
    /// Microseconds there and back, 99th percentile.
    IdleTail,
    /// Microseconds there and back beside a TCP stream, median.
    LoadedMedian,
    /// Microseconds there and back beside a TCP stream, 99th percentile.
    LoadedTail,
    /// Requests beside a TCP stream that were not answered, percent.
    LoadedLost,
}

impl Metric {
    /// The heading of its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP, 1 stream",
            Self::Tcp10 => "TCP, 10 streams",
            Self::Reverse => "TCP, reverse",
            Self::Udp1200 => "UDP 1200 B",
            Self::Udp1200Sent => "offered, 1200 B",
            Self::Udp64 => "UDP 64 B",
            Self::Udp64Sent => "offered, 64 B",
            Self::TunnelCpu => "CPU of the tunnel, both ends",
            Self::MachineCpu => "CPU of the machine",
            Self::IdleMedian => "idle, p50",
            Self::IdleTail => "idle, p99",
            Self::LoadedMedian => "under load, p50",
            Self::LoadedTail => "under load, p99",
            Self::LoadedLost => "under load, lost",
        }
    }

    /// The unit of its numbers.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp10 | Self::Reverse => "Gbit/s",
            Self::Udp1200 | Self::Udp1200Sent | Self::Udp64 | Self::Udp64Sent => "thousand/s",
            Self::TunnelCpu | Self::MachineCpu => "s/GB",
            Self::IdleMedian | Self::IdleTail | Self::LoadedMedian | Self::LoadedTail => "µs",
            Self::LoadedLost => "%",
        }
    }

    /// Tells if more is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Tcp1
                | Self::Tcp10
                | Self::Reverse
                | Self::Udp1200
                | Self::Udp1200Sent
                | Self::Udp64
                | Self::Udp64Sent
        )
    }
}
