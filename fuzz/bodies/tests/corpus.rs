//! Every input that fuzzing found worth keeping, and some thousand changes of them, under stable Rust.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

use tencrypt_fuzz_bodies::{TARGETS, Target};
use tencrypt_sim::Random;

/// Longest input made here, bytes.
const LONGEST: usize = 4_096;

#[test]
fn packet_holds_for_its_corpus_and_changes_of_it() {
    replay("packet", 4_000);
}

#[test]
fn record_holds_for_its_corpus_and_changes_of_it() {
    replay("record", 2_000);
}

#[test]
fn handshake_holds_for_its_corpus_and_changes_of_it() {
    replay("handshake", 1_000);
}

#[test]
fn dns_holds_for_its_corpus_and_changes_of_it() {
    replay("dns", 4_000);
}

#[test]
fn member_holds_for_its_corpus_and_changes_of_it() {
    replay("member", 400);
}

#[test]
fn trust_holds_for_its_corpus_and_changes_of_it() {
    replay("trust", 4_000);
}

#[test]
fn cni_holds_for_its_corpus_and_changes_of_it() {
    replay("cni", 20_000);
}

#[cfg(feature = "config")]
#[test]
fn control_holds_for_its_corpus_and_changes_of_it() {
    replay("control", 4_000);
}

#[cfg(feature = "config")]
#[test]
fn channel_holds_for_its_corpus_and_changes_of_it() {
    replay("channel", 4_000);
}

#[cfg(feature = "config")]
#[test]
fn config_holds_for_its_corpus_and_changes_of_it() {
    replay("config", 4_000);
}

#[test]
fn every_target_is_built_and_has_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest of the targets");
    for &target in TARGETS {
        let path = format!("fuzz_targets/{}.rs", target.name);
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path} is not built");
        let source = fs::read_to_string(fuzz.join(&path)).expect("the target");
        assert!(source.contains(&format!("tencrypt_fuzz_bodies::{}(data)", target.name)), "{path}");
        assert!(!corpus(target).is_empty());
    }
}

/// Runs the corpus of a target, then `changes` inputs made from it, the same ones every time.
fn replay(name: &str, changes: u64) {
    let target = TARGETS.iter().copied().find(|target| target.name == name).expect("a target of that name");
    let corpus = corpus(target);
    for (file, bytes) in &corpus {
        run(target, bytes, file);
    }
    for seed in 0..changes {
        let mut random = Random::new(seed);
        let mut bytes = pick(&corpus, &mut random).to_vec();
        for _ in 0..=random.below(4) {
            change(&mut bytes, pick(&corpus, &mut random), &mut random);
        }
        bytes.truncate(LONGEST);
        run(target, &bytes, &format!("seed {seed}"));
    }
}

fn run(target: Target, bytes: &[u8], origin: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.body)(bytes))) {
        eprintln!("{} fails for {origin}: {bytes:02x?}", target.name);
        resume_unwind(panic);
    }
}

/// The files of a corpus in the order of their names.
fn corpus(target: Target) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target.name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (path.display().to_string(), fs::read(&path).expect("a file"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files
}

fn pick<'a>(corpus: &'a [(String, Vec<u8>)], random: &mut Random) -> &'a [u8] {
    &corpus[random.below(corpus.len() as u64) as usize].1
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len() as u64) as usize;
    let value = random.bits() as u8;
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, value),
        2 if !bytes.is_empty() => drop(bytes.remove(at)),
        3 => {
            let from = random.below(other.len() as u64) as usize;
            let piece = &other[from..other.len().min(from + 1 + random.below(64) as usize)];
            bytes.splice(at..at, piece.iter().copied());
        }
        4 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = [0x00, 0x01, 0x7f, 0x80, 0xff][usize::from(value) % 5];
            }
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (value % 8);
            }
        }
    }
}
