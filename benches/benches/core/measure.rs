//! One way to measure for all: throughput in packets and bytes, and allocations, counted before any time is taken.

use std::time::{Duration, Instant};

use criterion::{
    Bencher, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, measurement::WallTime,
};
use tencrypt_benches::{
    TRAIN,
    alloc::Allocated,
    packets::{SEGMENT, TCP_HEADERS},
};

/// Iterations over which allocations are counted.
const COUNTED: usize = 100;
/// Packets prepared at a time where each can be used once: few enough for the second-level cache, enough for the
/// clock's own 50 ns to vanish.
pub(crate) const BATCH: usize = 32;

/// The packets that one iteration moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    name: &'static str,
    /// Packets.
    pub(crate) packets: usize,
    /// Bytes of one of them.
    pub(crate) len: usize,
}

impl Load {
    /// The loads of every stage: single packets, and a train.
    pub(crate) const ALL: [Self; 5] = [
        Self::new("64", 1, 64),
        Self::new("576", 1, 576),
        Self::new("1400", 1, 1_400),
        Self::new("8900", 1, 8_900),
        Self::TRAIN,
    ];
    /// Loads of offload: as many packets as make one super-packet.
    pub(crate) const SUPER: [Self; 5] = [
        Self::new("44 of 64", TRAIN, 64),
        Self::new("44 of 576", TRAIN, 576),
        Self::new("44 of 1400", TRAIN, 1_400),
        Self::new("7 of 8900", 7, 8_900),
        Self::TRAIN,
    ];
    /// A train of full packets.
    const TRAIN: Self = Self::new("train of 44", TRAIN, SEGMENT + TCP_HEADERS);
    /// One packet to look up.
    pub(crate) const LOOKUP: Self = Self::new("1 packet", 1, 64);
    /// One handshake, for one packet.
    pub(crate) const HANDSHAKE: Self = Self::new("64", 1, 64);

    const fn new(name: &'static str, packets: usize, len: usize) -> Self {
        Self { name, packets, len }
    }

    /// Tells if it is more than one packet.
    pub(crate) fn is_train(self) -> bool {
        self.packets > 1
    }
}

/// One group of benchmarks: a stage of the data path, its floors and its peers.
pub(crate) struct Stage<'c> {
    name: &'static str,
    group: BenchmarkGroup<'c, WallTime>,
}

impl<'c> Stage<'c> {
    pub(crate) fn new(criterion: &'c mut Criterion, name: &'static str) -> Self {
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        Self { name, group }
    }

    /// Measures `work`, which can be repeated as it is.
    pub(crate) fn repeat<R>(&mut self, what: &str, load: Load, mut work: impl FnMut() -> R) {
        self.run(what, load, |bencher, count| {
            if let Some(count) = count {
                // What is made once and kept is not a cost of an iteration.
                work();
                let counted = Allocated::by(|| {
                    for _ in 0..COUNTED {
                        work();
                    }
                });
                count(counted.1.times);
            }
            bencher.iter(&mut work);
        });
    }

    /// Measures `work` on what `prepare` made, [`BATCH`] at a time, told the number within the batch. Only `work` is
    /// timed.
    pub(crate) fn batched<S>(
        &mut self,
        what: &str,
        load: Load,
        mut state: S,
        prepare: impl Fn(&mut S, usize),
        work: impl Fn(&mut S, usize),
    ) {
        let batch = if load.is_train() { 1 } else { BATCH };
        self.run(what, load, |bencher, count| {
            if let Some(count) = count {
                let mut counted = 0;
                for at in 0..=COUNTED {
                    prepare(&mut state, 0);
                    let (_, cost) = Allocated::by(|| work(&mut state, 0));
                    counted += if at == 0 { 0 } else { cost.times };
                }
                count(counted);
            }
            bencher.iter_custom(|iterations| {
                let mut left = usize::try_from(iterations).unwrap_or(usize::MAX);
                let mut taken = Duration::ZERO;
                while left > 0 {
                    let now = left.min(batch);
                    (0..now).for_each(|at| prepare(&mut state, at));
                    let start = Instant::now();
                    (0..now).for_each(|at| work(&mut state, at));
                    taken += start.elapsed();
                    left -= now;
                }
                taken
            });
        });
    }

    /// Measures what `work` measures of itself, by [`clocked`]: where what it works on cannot be kept between calls.
    pub(crate) fn timed(&mut self, what: &str, load: Load, mut work: impl FnMut() -> (Duration, u64)) {
        self.run(what, load, |bencher, count| {
            if let Some(count) = count {
                work();
                count((0..COUNTED).map(|_| work().1).sum());
            }
            bencher.iter_custom(|iterations| (0..iterations).map(|_| work().0).sum());
        });
    }

    /// Runs one benchmark. The first time round `bench` is given what to tell the allocations of [`COUNTED`] iterations.
    fn run(
        &mut self,
        what: &str,
        load: Load,
        mut bench: impl FnMut(&mut Bencher<'_, WallTime>, Option<&dyn Fn(u64)>),
    ) {
        self.group.throughput(Throughput::ElementsAndBytes {
            elements: load.packets as u64,
            bytes: (load.packets * load.len) as u64,
        });
        let count = |counted: u64| {
            let each = counted as f64 / COUNTED as f64;
            println!("{}/{what}/{}: {each} allocations", self.name, load.name);
        };
        let mut first = true;
        self.group.bench_function(BenchmarkId::new(what, load.name), |bencher| {
            let first = std::mem::replace(&mut first, false);
            bench(bencher, first.then_some(&count));
        });
    }
}

/// Measures the time that `work` takes, and counts its allocations.
pub(crate) fn clocked(work: impl FnOnce()) -> (Duration, u64) {
    let start = Instant::now();
    let ((), cost) = Allocated::by(work);
    (start.elapsed(), cost.times)
}
