use std::{
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::Path,
    time::{Instant, SystemTime},
};

use super::*;

/// A folder with a script that stands in for the launcher.
struct Script {
    folder: PathBuf,
}

impl Script {
    fn new(name: &str, body: &str) -> Self {
        let number = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let folder = std::env::temp_dir().join(format!("tencrypt-node-{name}-{number}"));
        fs::create_dir(&folder).unwrap();
        let script = Self { folder };
        // By another process: one that is started meanwhile by another test would have a file open that is written here, and it could not be
        // executed then (ETXTBSY).
        let mut writer = Command::new("/bin/sh");
        writer
            .args(["-c", "cat > \"$0\" && chmod 700 \"$0\""])
            .arg(script.path("launcher"))
            .stdin(Stdio::piped());
        let mut writer = writer.spawn().unwrap();
        writer
            .stdin
            .take()
            .unwrap()
            .write_all(format!("#!/bin/sh\ncd \"${{0%/*}}\"\n{body}").as_bytes())
            .unwrap();
        assert!(writer.wait().unwrap().success());
        script
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    async fn launch(&self, launch: &Launch) -> (Result<(), LaunchError>, UnixStream) {
        let (own, other) = UnixStream::pair().unwrap();
        (Launcher::other(self.path("launcher"), true).launch(launch, other.into()).await, own)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn plain() -> Launch {
    Launch {
        program: "/usr/bin/tencrypt".into(),
        arguments: ["up", "--supervised", "3"].map(OsString::from).to_vec(),
        run_dir: None,
        log: None,
        group: None,
        limits: Limits::default(),
        stderr: None,
    }
}

#[tokio::test]
async fn the_launcher_is_told_everything_and_nothing_else_gets_to_it() {
    let body = "printf '%s\\n' \"$@\" > words; env > env; readlink /proc/self/fd/0 > input; echo said >&2; echo out\n";
    let script = Script::new("told", body);
    let launch = Launch {
        run_dir: Some("/run/tencrypt".into()),
        log: Some("debug".into()),
        group: Some(Group::new("tencrypt", "4-17").unwrap()),
        limits: Limits { memory: Some(64 << 20), cpu: Some(500), pids: Some(32) },
        stderr: Some(fs::File::create(script.path("errors")).unwrap().into()),
        ..plain()
    };
    let (launched, _channel) = script.launch(&launch).await;
    launched.unwrap();
    let expected = "launch start --here --group=tencrypt/4-17 --memory=67108864 --cpu=500 --pids=32 -- \
                    /usr/bin/tencrypt up --supervised 3";
    assert_eq!(script.read("words").lines().collect::<Vec<_>>().join(" "), expected);
    let environment = script.read("env");
    // The shell adds the last ones.
    let added = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
    let is_added = |line: &&str| added.iter().any(|name| line.starts_with(name));
    let mut variables: Vec<&str> = environment.lines().filter(|line| !is_added(line)).collect();
    variables.sort_unstable();
    assert_eq!(variables, [&format!("PATH={PATH}"), "TENCRYPT_LOG=debug", "TENCRYPT_RUN_DIR=/run/tencrypt"]);
    assert!(script.read("input").starts_with("socket:"), "{}", script.read("input"));
    assert_eq!(script.read("errors"), "out\n");
}

#[tokio::test]
async fn what_is_not_given_is_not_passed_on_and_no_copy_of_the_channel_stays() {
    let script = Script::new("none", "printf '%s\\n' \"$@\" > words; env > env\n");
    let (launched, mut channel) = script.launch(&plain()).await;
    launched.unwrap();
    assert_eq!(
        script.read("words").lines().collect::<Vec<_>>(),
        ["launch", "start", "--here", "--", "/usr/bin/tencrypt", "up", "--supervised", "3"]
    );
    assert!(!script.read("env").contains("TENCRYPT"), "{}", script.read("env"));
    channel.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(channel.read(&mut [0]).unwrap(), 0, "somebody has the other end");
}

#[tokio::test]
async fn a_refusal_is_the_first_line_that_the_launcher_has_written() {
    let script = Script::new("refusal", "printf '\\nerror: no room\\n\\nmore\\n' >&2; exit 1\n");
    let refused = script.launch(&plain()).await.0.unwrap_err();
    assert!(matches!(&refused, LaunchError::Refused(line) if line == "no room"), "{refused:?}");
    let launcher = Launcher::other(script.path("launcher"), false);
    let refused = launcher.forget(&Group::new("tencrypt", "a").unwrap()).await.unwrap_err();
    assert_eq!(refused.to_string(), "no room");
}

#[tokio::test]
async fn a_launcher_that_says_nothing_or_is_not_there_is_told_apart() {
    let script = Script::new("silent", "exit 3\n");
    let silent = script.launch(&plain()).await.0.unwrap_err();
    assert_eq!(silent.to_string(), "the launcher ended early: exit status: 3");
    let (_own, other) = UnixStream::pair().unwrap();
    let missing = Launcher::other(script.path("missing"), true).launch(&plain(), other.into()).await;
    assert!(matches!(&missing, Err(LaunchError::Run(_))), "{missing:?}");
}

#[tokio::test]
async fn a_launcher_that_does_not_end_is_killed_and_not_left_over() {
    let script = Script::new("late", "echo $$ > pid.new; mv pid.new pid; exec sleep 600\n");
    let mut command = Command::new(script.path("launcher"));
    command.stderr(Stdio::piped());
    let begun = Instant::now();
    let late = finish(command, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(late.to_string(), "the launcher has not ended within 1 seconds");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let pid: u32 = script.read("pid").trim().parse().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn words_end_with_the_launcher_even_if_another_process_has_the_pipe() {
    let script = Script::new("pipe", "sleep 600 & echo $! > pid; echo said >&2\n");
    let mut command = Command::new(script.path("launcher"));
    command.stderr(Stdio::piped());
    let words = tokio::time::timeout(Duration::from_secs(10), finish(command, LIMIT)).await;
    let sleeper = Process::open(script.read("pid").trim().parse().unwrap()).unwrap();
    sleeper.kill(rustix::process::Signal::KILL).unwrap();
    assert_eq!(words.unwrap().unwrap(), "said");
}
