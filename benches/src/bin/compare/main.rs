//! Measures tencrypt beside the plain network and other userspace tunnels, and writes docs/performance.md and
//! docs/performance.svg: `cargo run --release -p tencrypt-benches --bin compare -- --help`.
//!
//! It starts itself again in namespaces of its own. All processes die with the one that started them, and the
//! namespaces with the last process, however the program ends.

mod against;
mod chart;
mod contender;
mod cpu;
mod load;
mod machine;
mod measure;
mod network;
mod options;
mod outcome;
mod pattern;
mod program;
mod report;
mod results;
mod samples;
mod start;
mod wireguard;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser as _;
use tencrypt_lab::{Entered, enter, inside};

use crate::{
    contender::Contender, cpu::Spent, load::latency, measure::measure, network::Scene, options::Options,
    outcome::Outcome, program::Programs, report::Setting, results::Results,
};

const DOCUMENT: &str = "performance.md";
const CHART: &str = "performance.svg";
/// Part of the machine's processors that other processes may use: more than this shows in the numbers.
const QUIET: f64 = 0.05;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<ExitCode> {
    if !inside() {
        prepare(options)?;
    }
    match enter(limit(options))? {
        Entered::Inside => {
            wireguard::prepare()?;
            let programs = Programs::find(options.against.as_deref())?;
            let busy = cpu::busy(Duration::from_secs(2))?;
            if busy > QUIET {
                println!("the machine is not quiet: {:.0} % of it is busy already", 100.0 * busy);
            }
            let results = measure_all(options, &programs)?;
            write(options, &programs, &results, busy)?;
            Ok(if results.failures().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Entered::Over(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
    }
}

/// Does the work that has to be outside of the namespaces: building may need the network.
fn prepare(options: &Options) -> Outcome<()> {
    let device = Path::new("/dev/net/tun");
    if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
        let hint = "a tunnel needs it; run as root, or have it open to all (mode 0666, as udev makes it)";
        return Err(format!("{}: {error}: {hint}", device.display()).into());
    }
    if let Some(path) = options.against.as_ref().filter(|path| !path.is_file()) {
        return Err(format!("--against {}: no such program", path.display()).into());
    }
    if options.writes() {
        // Before the time is spent.
        fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
        replaced(options, "")?;
    }
    if cfg!(debug_assertions) {
        eprintln!("compare was built without --release: the load it makes is slower than it could be");
    }
    let wanted = |contender: Contender| {
        options.scenes().iter().any(|scene| options.contenders(*scene).contains(&contender))
    };
    if Contender::ALL.into_iter().any(|contender| contender.is_tencrypt() && wanted(contender)) {
        println!("building tencrypt");
        program::build(options.null_cipher)?;
    }
    Ok(())
}

/// The time after which a run that hangs is killed: every wait is bounded, so this is for what nobody thought of.
fn limit(options: &Options) -> Duration {
    let contenders = options.scenes().iter().map(|scene| options.contenders(*scene).len()).sum();
    options.estimate(contenders) * 3 + Duration::from_secs(300)
}

fn measure_all(options: &Options, programs: &Programs) -> Outcome<Results> {
    let mut results = Results::default();
    let mut turns: Vec<(Scene, Vec<Contender>)> = Vec::new();
    for scene in options.scenes() {
        let (here, missing): (Vec<_>, Vec<_>) = options
            .contenders(scene)
            .into_iter()
            .partition(|contender| *contender == Contender::Plain || programs.of(*contender).is_some());
        for contender in missing {
            println!("{}: not installed", contender.name());
        }
        turns.push((scene, here));
    }
    let count: usize = turns.iter().map(|(_, contenders)| contenders.len()).sum();
    let minutes = options.estimate(count).as_secs_f64() / 60.0;
    println!("{} rounds of {count} contenders, about {minutes:.1} minutes", options.rounds);
    for round in 0..options.rounds {
        results.begin_round();
        for (scene, contenders) in &mut turns {
            // Another first one in every round: whoever comes first meets the coolest machine.
            for &contender in contenders.iter() {
                print!("round {} {}: ", round + 1, line_head(*scene, contender));
                io::stdout().flush()?;
                turn(options, programs, *scene, contender, &mut results);
            }
            if !contenders.is_empty() {
                contenders.rotate_left(1);
            }
        }
    }
    Ok(results)
}

/// One contender's turn in one round, in a network of its own.
fn turn(options: &Options, programs: &Programs, scene: Scene, contender: Contender, results: &mut Results) {
    let mut all = || -> Outcome<()> {
        let network = scene.build()?;
        let mut running = start::start(contender, programs, scene, &network)?;
        latency::wait_for_answer(&network, running.target, contender::LIMIT)
            .map_err(|error| format!("{error}; the tunnel printed: {}", running.last_words()))?;
        for pattern in options.patterns() {
            let own = || running.processes().chain([std::process::id()]);
            let (start, before) = (Instant::now(), Spent::until_now(own())?);
            let measured = measure(pattern, &network, &running, options.duration());
            let others = Spent::until_now(own()).map(|spent| spent.since(before).of_others(start.elapsed()));
            if !running.is_whole() {
                return Err(format!("ended during {pattern:?}: {}", running.last_words()).into());
            }
            results.count(others? > QUIET);
            match measured {
                Ok(values) => {
                    for (metric, value) in values {
                        print!("{} {} {}, ", metric.title(), samples::digits(value), metric.unit());
                        results.add(scene, contender, metric, value);
                    }
                    io::stdout().flush()?;
                }
                Err(error) => {
                    print!("{pattern:?} failed, ");
                    results.fail(scene, contender, format!("{pattern:?}: {error}"));
                }
            }
        }
        Ok(())
    };
    match all() {
        Ok(()) => println!("done"),
        Err(error) => {
            println!("{error}");
            results.fail(scene, contender, error.to_string());
        }
    }
}

fn line_head(scene: Scene, contender: Contender) -> String {
    match scene {
        Scene::Cable => contender.name().to_owned(),
        Scene::Vxlan => format!("{}, over VXLAN", contender.name()),
        Scene::External => format!("{}, to an external", contender.name()),
    }
}

fn write(options: &Options, programs: &Programs, results: &Results, busy: f64) -> Outcome<()> {
    let shown: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|contender| !contender.is_variant() && results.has(Scene::Cable, *contender))
        .collect();
    let chart = chart::chart(results);
    let setting = Setting {
        machine: machine::describe(),
        has_chart: chart.is_some(),
        busy,
        versions: shown
            .into_iter()
            .filter_map(|contender| programs.version(contender).map(|version| (contender, version)))
            .collect(),
        command: command(),
        rounds: options.rounds,
        seconds: options.seconds,
    };
    let (disturbed, patterns) = results.disturbed();
    if disturbed > 0 {
        println!(
            "other processes disturbed {disturbed} of {patterns} measurements: repeat this on a quiet machine"
        );
    }
    let measured = report::measured(results, &options.scenes(), &setting);
    println!("\n{measured}");
    if options.against.is_some() {
        println!("{}", against::report(results, &options.scenes(), &options.patterns()));
    }
    if !options.writes() {
        return Ok(());
    }
    let path = options.out.join(DOCUMENT);
    fs::write(&path, replaced(options, &measured)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    if let Some(chart) = chart {
        let path = options.out.join(CHART);
        fs::write(&path, chart).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The document with `measured` in it.
fn replaced(options: &Options, measured: &str) -> Outcome<String> {
    let path = options.out.join(DOCUMENT);
    match fs::read_to_string(&path) {
        Ok(old) => report::replace(&old, measured).ok_or_else(|| {
            format!("{}: the lines {} and {} are missing", path.display(), report::BEGIN, report::END).into()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(report::new_document(measured)),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// The command that repeats this run.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let separator = if arguments.is_empty() { "" } else { " -- " };
    format!("cargo run --release -p tencrypt-benches --bin compare{separator}{}", arguments.join(" "))
}
