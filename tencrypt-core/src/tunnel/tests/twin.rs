//! A second process that does what the first does, to be searched.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

/// The process that is searched; killed when dropped.
pub(crate) struct Twin(Child, BufReader<ChildStdout>);

impl Twin {
    /// Starts the test `test` of the module `module`, by its `module_path!`, once more. The variable says to it that it is a
    /// twin.
    pub(crate) fn start(module: &str, test: &str, (variable, value): (&str, &str)) -> Self {
        let test = format!("{}::{test}", module.split_once("::").unwrap().1);
        let mut child = Command::new(env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(variable, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self(child, stdout)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it says so. libtest's own lines come before.
    pub(crate) fn is_at(&mut self, stage: &str) {
        let mut said = String::new();
        while !said.trim_end().ends_with(stage) {
            assert!(self.1.read_line(&mut said).unwrap() > 0, "the twin has ended: {said}");
        }
    }

    pub(crate) fn go_on(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for its end, and tells if it was a good one.
    pub(crate) fn ends_well(&mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        // It has ended already unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says in the twin how far it is, and waits until it may go on.
pub(crate) fn wait_at(stage: &str) {
    println!("{stage}");
    std::io::stdout().flush().unwrap();
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}
