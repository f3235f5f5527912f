//! A folder outside of this workspace, with the packages in it and programs that depend on them.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{cargo, copy, made::Package, readme::Program};

/// Removed with all that is in it when dropped.
pub(crate) struct Outside {
    folder: PathBuf,
    packages: Vec<(String, String)>,
}

impl Outside {
    /// Copies the packages, and has cargo take them wherever the registry's of their names are asked for.
    pub(crate) fn new(packages: &[Package]) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("tencrypt-packages-{}-{number}", process::id()));
        let mut patches = String::from("[patch.crates-io]\n");
        for package in packages {
            let copied = folder.join("packages").join(&package.name);
            copy(&package.folder, &copied);
            let _ = writeln!(patches, "{} = {{ path = {:?} }}", package.name, copied);
        }
        fs::create_dir_all(folder.join(".cargo")).expect("a folder");
        fs::write(folder.join(".cargo/config.toml"), patches).expect("cargo's configuration");
        let packages =
            packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect();
        Self { folder, packages }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a package of the program in the README of `name`, compiles it, and runs it unless it says otherwise.
    pub(crate) fn run_program(&self, name: &str, program: &Program) {
        let folder = self.folder.join("programs").join(name);
        fs::create_dir_all(folder.join("src")).expect("a folder");
        let mut manifest = format!(
            "[package]\nname = \"readme-of-{name}\"\nedition = \"2024\"\npublish = false\n\n[workspace]\n\n[dependencies]\n"
        );
        for (package, version) in &self.packages {
            let path = format!("{}::", package.replace('-', "_"));
            if program.source.contains(&path) || package == name {
                let features = if package == name { &program.features[..] } else { &[] };
                let _ =
                    writeln!(manifest, "{package} = {{ version = \"={version}\", features = {features:?} }}");
            }
        }
        fs::write(folder.join("Cargo.toml"), manifest).expect("the manifest");
        fs::write(folder.join("src/main.rs"), &program.source).expect("the program");
        // The versions that this workspace is tested with; cargo takes out what is not needed.
        fs::copy(cargo::root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the lock file");
        cargo::run(&folder, &[if program.no_run { "build" } else { "run" }]);
    }

    /// Builds a program of a package.
    pub(crate) fn build_bin(&self, package: &Package, bin: &str) -> PathBuf {
        cargo::run(&self.folder.join("packages").join(&package.name), &["build", "--bin", bin]);
        cargo::target().join("debug").join(bin)
    }

    /// Runs a program and returns its standard output.
    ///
    /// # Panics
    /// If it fails.
    pub(crate) fn output(&self, program: &Path, arguments: &[&str]) -> String {
        let output =
            Command::new(program).args(arguments).current_dir(&self.folder).output().expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // A folder that cannot be removed fails no test.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
