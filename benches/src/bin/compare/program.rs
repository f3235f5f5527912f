//! The programs: tencrypt is built, the others are looked for.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use tencrypt_lab::{Program, run_program};

use crate::{
    contender::{Contender, LIMIT},
    outcome::Outcome,
};

/// Compiles the core without encryption.
const NULL_CIPHER: &str = "--cfg tencrypt_null_cipher";

/// The programs that are installed.
pub(crate) struct Programs {
    paths: BTreeMap<Contender, PathBuf>,
}

impl Programs {
    /// Looks for tencrypt in the directory of this program's build, for the others in PATH and `$PEERS/bin`; `against` is the
    /// program of [`Contender::Against`].
    ///
    /// # Errors
    ///
    /// This program's own path is not known.
    pub(crate) fn find(against: Option<&Path>) -> Outcome<Self> {
        let target = target_directory()?;
        let tencrypt = target.join("release/tencrypt");
        let mut paths: BTreeMap<Contender, PathBuf> =
            [(Contender::NullCipher, null_cipher(&target).join("release/tencrypt"))].into();
        paths.insert(Contender::Against, against.unwrap_or(Path::new("")).to_owned());
        for contender in Contender::ALL.into_iter().filter(|contender| contender.is_tencrypt()) {
            paths.entry(contender).or_insert_with(|| tencrypt.clone());
        }
        let directories = search_path();
        for (contender, name) in PEERS {
            if let Some(found) = find(name, &directories) {
                paths.insert(contender, found);
            }
        }
        paths.retain(|_, path| path.is_file());
        Ok(Self { paths })
    }

    /// The program of a contender; `None`: not installed, or it has none.
    pub(crate) fn of(&self, contender: Contender) -> Option<&Path> {
        self.paths.get(&contender).map(PathBuf::as_path)
    }

    /// The version of a contender, in one line, as its program says it.
    pub(crate) fn version(&self, contender: Contender) -> Option<String> {
        let said = run_program(self.of(contender)?, ["--version"], None, LIMIT).ok()?;
        said.stdout.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    }
}

const PEERS: [(Contender, &str); 3] = [
    (Contender::WireguardGo, "wireguard-go"),
    (Contender::BoringTun, "boringtun-cli"),
    (Contender::GotaTun, "gotatun"),
];

/// Builds tencrypt for speed, into the directory this program was built into, and without encryption into one of
/// its own. Does nothing to what is up to date.
///
/// # Errors
///
/// It does not build; or there is no cargo here, and no program that was built before.
pub(crate) fn build(with_null_cipher: bool) -> Outcome<()> {
    let target = target_directory()?;
    let mut builds = vec![(target.clone(), None)];
    if with_null_cipher {
        let flags = env::var("RUSTFLAGS").unwrap_or_default();
        builds.push((null_cipher(&target), Some(format!("{flags} {NULL_CIPHER}"))));
    }
    for (directory, flags) in builds {
        let program = directory.join("release/tencrypt");
        // Set by `cargo run`; else the one in PATH.
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--release", "-p", "tencrypt-agent", "--bin", "tencrypt"]);
        command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        command.arg("--target-dir").arg(&directory);
        if let Some(flags) = flags {
            command.env("RUSTFLAGS", flags);
        }
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("cargo could not build {}: {status}", program.display()).into()),
            Err(_) if program.is_file() => eprintln!("no cargo here: {} is as it was", program.display()),
            Err(error) => {
                let hint = "build it with `cargo build --release`";
                return Err(format!("{} is missing ({hint}), and cargo: {error}", program.display()).into());
            }
        }
    }
    Ok(())
}

/// Two above this program: `target/release/compare`.
fn target_directory() -> Outcome<PathBuf> {
    let program = env::current_exe()?;
    let directory =
        program.parent().and_then(Path::parent).ok_or("this program is in no target directory")?;
    Ok(directory.to_owned())
}

fn null_cipher(target: &Path) -> PathBuf {
    target.join("null-cipher")
}

/// The directories of PATH, and `$PEERS/bin`.
fn search_path() -> Vec<PathBuf> {
    let peers = env::var_os("PEERS")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".peers")));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(peers.map(|peers| peers.join("bin"))).collect()
}

fn find(name: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The last line that a program printed.
pub(crate) fn last_words(program: &Program) -> String {
    let (errors, output) = (program.stderr(), program.stdout());
    let last = errors.lines().last().or_else(|| output.lines().last());
    last.unwrap_or("nothing").to_owned()
}
