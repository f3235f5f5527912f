//! The program from outside: exit codes, one line on standard error, nothing left behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const GOOD: &str = "[tenant]\nkey_file = \"tenant.key\"\n[network]\nprotected = [\"10.0.0.0/8\"]\n";

/// A directory of the test's own, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tencrypt-cli-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn tencrypt(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tencrypt"));
        command.args(arguments).current_dir(&self.0).env_remove("TENCRYPT_LOG");
        command.env("TENCRYPT_RUN_DIR", self.path("run")).stdin(Stdio::null());
        command
    }

    fn listing(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Runs `up` with the configuration `c.toml`, which must be refused with `code` and leave nothing.
    fn assert_up_refused(&self, code: i32, reason: &str) {
        let before = self.listing();
        let output = self.tencrypt(&["up", "--netns", "/proc/self/ns/net", "--config", "c.toml"]);
        assert_refused(&output, code, reason);
        assert_eq!(self.listing(), before);
    }

    fn with_good_key(name: &str) -> Self {
        let place = Self::new(name);
        assert!(place.tencrypt(&["genkey", "tenant.key"]).status.success());
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn assert_refused(output: &Output, code: i32, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("tencrypt: ") && said.ends_with('\n'), "{said:?}");
    assert_eq!(said.lines().count(), 1, "{said:?}");
    assert!(said.contains(reason), "{said:?} lacks {reason:?}");
    assert!(output.stdout.is_empty());
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_key_file_is_made_whole_private_and_never_overwritten() {
    let place = Place::new("genkey");
    assert_eq!(text(&place.tencrypt(&["genkey", "tenant.key", "--epoch", "3"])), "");
    let content = fs::read_to_string(place.path("tenant.key")).unwrap();
    let mode = fs::metadata(place.path("tenant.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert!(content.starts_with("tencrypt-key-v1\ntenant ") && content.contains("\nepoch 3 "), "{content}");
    assert_eq!(place.listing(), ["tenant.key"], "no temporary file stays");

    assert_refused(&place.tencrypt(&["genkey", "tenant.key"]), 2, "exists already");
    assert_eq!(fs::read_to_string(place.path("tenant.key")).unwrap(), content);
    assert_eq!(place.listing(), ["tenant.key"]);

    assert!(place.tencrypt(&["genkey", "other.key"]).status.success());
    assert_ne!(fs::read_to_string(place.path("other.key")).unwrap(), content, "keys differ");
}

#[test]
fn a_key_file_where_something_else_is_or_nothing_can_be_is_refused() {
    let place = Place::new("genkey-bad");
    fs::create_dir(place.path("directory")).unwrap();
    symlink("nowhere", place.path("dangling")).unwrap();
    assert_refused(&place.tencrypt(&["genkey", "directory"]), 2, "exists already");
    assert_refused(&place.tencrypt(&["genkey", "dangling"]), 2, "exists already");
    assert_refused(&place.tencrypt(&["genkey", "absent/tenant.key"]), 1, "cannot make absent/tenant.key");
    assert_refused(&place.tencrypt(&["genkey", ".."]), 1, "cannot make ..");
    assert_refused(&place.tencrypt(&["genkey", "k", "--epoch", "256"]), 2, "--epoch");
    assert_eq!(place.listing(), ["dangling", "directory"]);
}

#[test]
fn a_bad_key_file_is_refused_before_anything_is_touched() {
    let place = Place::with_good_key("keys");
    place.write("c.toml", GOOD, 0o644);
    let good = fs::read_to_string(place.path("tenant.key")).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let rows: [(&str, String, u32, &str); 9] = [
        ("empty", String::new(), 0o600, "line 1: expected `tencrypt-key-v1`"),
        ("short", good[..good.len() - 2].to_owned(), 0o600, "line 3: the root key has the wrong length"),
        ("cut", lines[..2].join("\n"), 0o600, "no `epoch` line"),
        ("long", format!("{}00\n", good.trim_end()), 0o600, "line 3: the root key has the wrong length"),
        ("twice", format!("{good}{}\n", lines[2]), 0o600, "line 4: this epoch was given before"),
        ("huge", "x".repeat(65_537), 0o600, "longer than 65536 bytes"),
        ("world-readable", good.clone(), 0o604, "mode 0604"),
        ("group-readable", good.clone(), 0o640, "mode 0640"),
        ("world-writable", good.clone(), 0o602, "mode 0602"),
    ];
    for (name, content, mode, reason) in rows {
        place.write("tenant.key", content, mode);
        place.assert_up_refused(2, reason);
        eprintln!("{name}: refused");
    }
    place.write("tenant.key", [0xff, 0xfe], 0o600);
    place.assert_up_refused(2, "is not text");
    fs::remove_file(place.path("tenant.key")).unwrap();
    place.assert_up_refused(2, "tenant.key: does not exist");
    fs::create_dir(place.path("tenant.key")).unwrap();
    place.assert_up_refused(2, "tenant.key: is not a regular file");
}

#[test]
fn a_key_that_is_a_pipe_or_a_device_is_refused_without_waiting() {
    let place = Place::new("key-pipe");
    for special in ["/dev/stdin", "/dev/null"] {
        place.write("c.toml", GOOD.replace("tenant.key", special), 0o644);
        let mut child = place.command(&["up", "--netns", "/proc/self/ns/net", "--config", "c.toml"]);
        let child =
            child.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The pipe stays open and empty meanwhile: wait_with_output would close it.
        let mut child = child;
        let _pipe = child.stdin.take();
        assert_refused(&child.wait_with_output().unwrap(), 2, "is not a regular file");
    }
}

#[test]
fn the_key_file_lies_beside_the_configuration_and_may_be_a_link() {
    let place = Place::with_good_key("beside");
    fs::create_dir(place.path("..data")).unwrap();
    fs::rename(place.path("tenant.key"), place.path("..data/tenant.key")).unwrap();
    symlink("..data/tenant.key", place.path("tenant.key")).unwrap();
    place.write("c.toml", GOOD, 0o644);
    let path = place.path("c.toml");
    let elsewhere = Place::new("elsewhere");
    // The key is good: what is refused next is the namespace, our own.
    let output =
        elsewhere.tencrypt(&["up", "--netns", "/proc/self/ns/net", "--config", path.to_str().unwrap()]);
    assert_refused(&output, 2, "host's own network namespace");
    assert!(elsewhere.listing().is_empty() && !place.path("run").exists());
}

#[test]
fn every_row_of_bad_configuration_is_one_line_with_file_line_and_field() {
    let place = Place::with_good_key("rows");
    let after = |lines: &str| format!("{GOOD}{lines}");
    let rows: Vec<(String, &str)> = vec![
        (String::new(), "c.toml:1: network.protected: missing"),
        (GOOD.replace("key_file", "keyfile"), "c.toml:2: tenant.keyfile: unknown key"),
        (GOOD.replace("key_file = \"tenant.key\"\n", ""), "c.toml:1: tenant.key_file: missing"),
        (after("[policy]\nunkown = 1\n"), "c.toml:6: policy.unkown: unknown key"),
        (after("protected = []\n"), "c.toml:5: protected: duplicate key"),
        (after("port = \"8362\"\n"), "c.toml:5: network.port: expected a port"),
        (after("port = 0\n"), "c.toml:5: network.port: expected a port from 1 to 65535, found 0"),
        (after("lanes = 17\n"), "c.toml:5: network.lanes: expected 1 to 16, found 17"),
        (after("tun = \"a-very-long-name\"\n"), "c.toml:5: network.tun: \"a-very-long-name\" is longer"),
        (after("tun = \"eth0\"\n"), "c.toml:5: network.tun: \"eth0\" is the name of both"),
        (
            GOOD.replace("10.0.0.0/8", "10.0.0.1/8"),
            "c.toml:4: network.protected[1]: 10.0.0.1/8 has host bits",
        ),
        (GOOD.replace("10.0.0.0/8", "10.0.0.0/40"), "c.toml:4: network.protected[1]: expected an address"),
        (
            GOOD.replace("\"10.0.0.0/8\"", "\"10.0.0.0/8\", \"10.1.0.0/16\""),
            "c.toml:4: network.protected[2]: 10.1.0.0/16 overlaps 10.0.0.0/8",
        ),
        (GOOD.replace("\"10.0.0.0/8\"", ""), "c.toml:4: network.protected: is empty"),
        (
            after("[policy]\nunknown = \"allow\"\n"),
            "c.toml:6: policy.unknown: expected \"drop\" or \"plain\"",
        ),
        (after("[policy]\nexternal = \"all\"\n"), "c.toml:6: policy.external: expected \"dns\""),
        (after("[[fact]]\nprefix = \"10.0.0\"\n"), "c.toml:6: fact[1].prefix: expected an address"),
        (after("[tenant\n"), "c.toml:5: "),
        (GOOD.replace("tenant.key", "\\u001b[2J"), "\\u{1b}[2J: does not exist"),
    ];
    for (content, reason) in rows {
        place.write("c.toml", content, 0o644);
        place.assert_up_refused(2, reason);
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let place = Place::new("files");
    place.assert_up_refused(2, "c.toml: does not exist");
    fs::create_dir(place.path("c.toml")).unwrap();
    place.assert_up_refused(2, "c.toml: is not a regular file");
    fs::remove_dir(place.path("c.toml")).unwrap();
    place.write("c.toml", b"# one\n# two \xff\n", 0o644);
    place.assert_up_refused(2, "c.toml:2: is not UTF-8");
    place.write("c.toml", b"\xef\xbb\xbf", 0o644);
    place.assert_up_refused(2, "c.toml:1: network.protected: missing");
    fs::File::create(place.path("c.toml")).unwrap().set_len(100 << 20).unwrap();
    place.assert_up_refused(2, "c.toml: is longer than 1048576 bytes");
    let refused = place.tencrypt(&["up", "--netns", "x", "--config", "/dev/zero"]);
    assert_refused(&refused, 2, "/dev/zero: is not a regular file");
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    let place = Place::with_good_key("netns");
    place.write("c.toml", GOOD, 0o644);
    for (name, reason) in [
        ("tencrypt-no-such-namespace", "no network namespace `tencrypt-no-such-namespace`"),
        ("/no/such", "no network namespace `/no/such`"),
        ("/proc/self/ns/mnt", "`/proc/self/ns/mnt` is not a network namespace"),
        ("/dev/null", "`/dev/null` is not a network namespace"),
    ] {
        let before = place.listing();
        for arguments in [
            &["up", "--netns", name, "--config", "c.toml"][..],
            &["down", "--netns", name],
            &["status", "--netns", name],
            &["explain", "--netns", name, "10.0.0.1"],
        ] {
            assert_refused(&place.tencrypt(arguments), 1, reason);
        }
        assert_eq!(place.listing(), before);
    }
}

#[test]
fn where_nothing_runs_questions_exit_with_3() {
    let place = Place::new("nothing");
    let own = "/proc/self/ns/net";
    for arguments in [
        &["status", "--netns", own][..],
        &["status", "--netns", own, "--json"],
        &["peers", "--netns", own],
        &["explain", "--netns", own, "10.0.0.1"],
    ] {
        assert_refused(&place.tencrypt(arguments), 3, "nothing runs in namespace");
        assert!(place.listing().is_empty(), "a question makes nothing");
    }
    assert_refused(&place.tencrypt(&["down", "--netns", own]), 2, "the host's own network namespace");
    assert!(place.listing().is_empty(), "a refusal makes nothing");
}

#[test]
fn a_run_directory_open_to_others_is_not_believed() {
    let place = Place::new("rundir");
    fs::create_dir(place.path("run")).unwrap();
    fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o777)).unwrap();
    let output = place.tencrypt(&["status", "--netns", "/proc/self/ns/net"]);
    assert_refused(&output, 1, "others than its owner may enter it");
}

/// Answers `requests` connections at the control socket of this process's namespace with `reply`.
fn with_reply(place: &Place, reply: &'static str, requests: usize) -> std::thread::JoinHandle<Vec<String>> {
    let namespace = fs::metadata("/proc/self/ns/net").unwrap();
    fs::create_dir_all(place.path("run")).unwrap();
    fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
    let socket = place.path(&format!("run/{}-{}.sock", namespace.dev(), namespace.ino()));
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            asked.push(line);
            let _ = writeln!(stream, "{reply}");
        }
        fs::remove_file(socket).unwrap();
        asked
    })
}

#[test]
fn an_answer_is_printed_for_people_and_for_programs() {
    let place = Place::new("answer");
    let explanation = r#"{"explanation":{"source":"10.0.0.1","destination":"10.0.0.2","verdict":"bypass",
        "reason":null,"peer":null,"standing":"external","fact":null,"seen_internal":false,"protected":false,
        "own_source":true,"because":["dns evil\u001b[2J.example"]}}"#;
    let explanation: &'static str = explanation.replace('\n', "").leak();
    let server = with_reply(&place, explanation, 2);
    let own = "/proc/self/ns/net";
    let people = text(&place.tencrypt(&["explain", "--netns", own, "10.0.0.1", "10.0.0.2"]));
    assert_eq!(people, "10.0.0.1 -> 10.0.0.2: bypass\n  dns evil\\u{1b}[2J.example\n");
    let programs = text(&place.tencrypt(&["explain", "--netns", own, "10.0.0.2", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&programs).unwrap();
    assert_eq!(value["verdict"], "bypass");
    assert_eq!(
        server.join().unwrap(),
        [
            "{\"request\":\"explain\",\"source\":\"10.0.0.1\",\"destination\":\"10.0.0.2\"}\n",
            "{\"request\":\"explain\",\"destination\":\"10.0.0.2\"}\n",
        ]
    );
}

#[test]
fn a_list_without_tunnels_says_so_in_words_and_as_an_empty_array() {
    let place = Place::new("list");
    let listed = text(&place.tencrypt(&["list", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert!(value["version"] == 1 && value["tunnels"].is_array() && value["unseen"].is_u64(), "{listed}");
    assert!(place.listing().is_empty(), "a question makes nothing");
}

#[test]
fn an_answer_that_makes_no_sense_is_a_failure() {
    let place = Place::new("nonsense");
    let status = ["status", "--netns", "/proc/self/ns/net"];
    for (reply, reason) in [
        ("{\"refused\":\"the data path\\nhas ended\"}", "tencrypt: the data path\\nhas ended"),
        ("{\"status\":{}}", "another version?"),
        ("{\"peers\":[]}", "another version?"),
        ("", "another version?"),
    ] {
        let server = with_reply(&place, reply, 1);
        assert_refused(&place.tencrypt(&status), 1, reason);
        server.join().unwrap();
    }
}

#[test]
fn usage_errors_are_one_line_and_exit_with_2() {
    let place = Place::new("usage");
    for (arguments, reason) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["staus"], "; did you mean `status`? See `tencrypt --help`"),
        (&["status", "--netns", "x", "--josn"], "; did you mean `--json`?"),
        (&["up"], "--netns"),
        (&["up", "--netns", "x"], "--config"),
        (&["status", "--netns", "x", "--jsno"], "--jsno"),
        (&["explain", "--netns", "x", "example.org"], "example.org"),
        (&["completions", "tcsh"], "expected bash, zsh or fish"),
        (&["frob\u{1b}[2J"], "frob\\u{1b}[2J"),
    ] {
        assert_refused(&place.tencrypt(arguments), 2, reason);
    }
    let output = place.command(&["genkey", "k"]).env("TENCRYPT_LOG", "loud").output().unwrap();
    assert_refused(&output, 2, "TENCRYPT_LOG");
    assert!(place.listing().is_empty());
}

#[test]
fn a_command_that_is_left_out_is_answered_by_help_on_standard_error() {
    let place = Place::new("bare");
    for (arguments, line) in [(&[][..], "Usage: tencrypt [OPTIONS] <COMMAND>"), (&["ca"], "  issue")] {
        let output = place.tencrypt(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(line) && said.contains("Examples:\n  tencrypt "), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let place = Place::new("help");
    let help = text(&place.tencrypt(&["--help"]));
    assert!(help.contains("Exit codes:") && help.contains("TENCRYPT_RUN_DIR"), "{help}");
    assert!(text(&place.tencrypt(&["--version"])).starts_with("tencrypt "));
    for command in [
        "genkey",
        "inspect",
        "check",
        "up",
        "down",
        "list",
        "status",
        "peers",
        "explain",
        "demo",
        "man",
        "completions",
        "ca",
    ] {
        assert!(help.contains(command), "{command}");
        let own = text(&place.tencrypt(&[command, "--help"]));
        assert!(own.contains(&format!("Examples:\n  tencrypt {command}")), "{own}");
    }
}

#[test]
fn inspect_shows_what_a_file_holds_and_no_secret_of_it() {
    let place = Place::with_good_key("inspect");
    assert!(place.tencrypt(&["rotate", "add", "tenant.key"]).status.success());
    assert!(place.tencrypt(&["ca", "init", "shop.ca"]).status.success());
    place.write("shop.revoked", "tencrypt-revoked-v1\nmin-generation 3\ndeny-pod web-0\n", 0o644);
    let show = |file: &str| text(&place.tencrypt(&["inspect", file]));
    let json = |file: &str| -> serde_json::Value {
        serde_json::from_str(&text(&place.tencrypt(&["inspect", file, "--json"]))).unwrap()
    };
    let key_text = fs::read_to_string(place.path("tenant.key")).unwrap();
    let keys = json("tenant.key");
    assert_eq!((&keys["version"], &keys["kind"], &keys["send"]), (&1.into(), &"keys".into(), &1.into()));
    let fingerprint = |epoch: &str| keys["fingerprints"][epoch].as_str().unwrap().to_owned();
    assert!(fingerprint("1") != fingerprint("2") && fingerprint("1").len() == 8);
    let shown = show("tenant.key");
    assert!(
        shown.contains(&format!("accept  1 ({}), 2 ({})\n", fingerprint("1"), fingerprint("2"))),
        "{shown}"
    );
    for root in key_text.lines().filter_map(|line| line.strip_prefix("epoch ")?.split(' ').nth(1)) {
        assert!(!shown.contains(&root[..8]) && !keys.to_string().contains(&root[..8]), "a secret is shown");
    }
    let secret = fs::read_to_string(place.path("shop.ca")).unwrap();
    let secret = secret.lines().nth(1).and_then(|line| line.strip_prefix("secret ")).unwrap().to_owned();
    let public = json("shop.ca.pub")["public_key"].clone();
    assert_eq!((&json("shop.ca")["public_key"], &json("shop.ca")["kind"]), (&public, &"authority".into()));
    assert!(!show("shop.ca").contains(&secret[..8]) && show("shop.ca").contains(public.as_str().unwrap()));
    let revoked = json("shop.revoked");
    assert_eq!((&revoked["minimum_generation"], &revoked["denied"]), (&3.into(), &1.into()));

    // Two nodes that each added an epoch 2 of their own are told apart.
    place.write(
        "other.key",
        key_text.lines().filter(|line| !line.starts_with("epoch 2")).collect::<Vec<_>>().join("\n") + "\n",
        0o600,
    );
    assert!(place.tencrypt(&["rotate", "add", "other.key"]).status.success());
    let other = json("other.key");
    assert_eq!(other["fingerprints"]["1"], keys["fingerprints"]["1"]);
    assert_ne!(other["fingerprints"]["2"], keys["fingerprints"]["2"]);

    fs::set_permissions(place.path("tenant.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_refused(&place.tencrypt(&["inspect", "tenant.key"]), 2, "mode 0640");
    place.write("c.toml", GOOD, 0o644);
    assert_refused(&place.tencrypt(&["inspect", "c.toml"]), 2, "c.toml: is not a certificate file, nor");
    assert_refused(
        &place.tencrypt(&["inspect", "shop.ca.pub", "--ca", "shop.ca.pub"]),
        2,
        "only a certificate",
    );
    assert_refused(&place.tencrypt(&["inspect", "/dev/zero"]), 2, "is not a regular file");
}

#[test]
fn check_reads_every_file_that_up_would_and_ends_as_it_would() {
    let place = Place::with_good_key("check");
    place.write("c.toml", GOOD, 0o644);
    let before = place.listing();
    let shown = text(&place.tencrypt(&["check", "--config", "c.toml"]));
    assert!(
        shown.contains("ok  keys           ") && shown.contains("tenant.key: send epoch 1, accept 1 ("),
        "{shown}"
    );
    let checked = place.tencrypt(&["check", "--config", "c.toml", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&text(&checked)).unwrap();
    assert_eq!((&value["version"], &value["would_start"]), (&1.into(), &true.into()));
    // What `up` refuses it refuses by the same words, and names what else there is to say.
    place.write("bad.toml", GOOD.replace("tenant.key", "absent.key") + "[policy]\nenforce = false\n", 0o644);
    let refused = place.tencrypt(&["check", "--config", "bad.toml"]);
    let (said, shown) = (String::from_utf8_lossy(&refused.stderr), String::from_utf8_lossy(&refused.stdout));
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.starts_with("tencrypt: ") && said.contains("absent.key: does not exist"), "{said}");
    assert!(shown.contains("REFUSED  keys") && shown.contains("note     policy"), "{shown}");
    let refused = place.tencrypt(&["check", "--config", "c.toml", "--netns", "/proc/self/ns/net"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("REFUSED  namespace"), "{refused:?}");
    fs::remove_file(place.path("bad.toml")).unwrap();
    assert_eq!(place.listing(), before, "nothing is made");
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let place = Place::new("man");
    assert_eq!(text(&place.tencrypt(&["man", "."])), "");
    let pages = place.listing();
    for page in ["tencrypt.1", "tencrypt-up.1", "tencrypt-rotate-add.1", "tencrypt-check.1"] {
        assert!(pages.iter().any(|name| name == page), "{pages:?} lacks {page}");
    }
    let page = fs::read_to_string(place.path("tencrypt-up.1")).unwrap();
    assert!(page.contains(".TH tencrypt-up 1") && page.contains("NOTIFY_SOCKET"), "{page}");
    assert_refused(&place.tencrypt(&["man", "absent"]), 1, "cannot make absent/tencrypt.1");
}

#[test]
fn the_systemd_unit_is_accepted_and_its_commands_are_understood() {
    let place = Place::new("unit");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd/tencrypt@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let program = env!("CARGO_BIN_EXE_tencrypt");
    let commands = unit.lines().filter_map(|line| line.split_once("=/usr/local/bin/tencrypt "));
    let mut names = Vec::new();
    for (name, arguments) in commands {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        // What is wrong is the file, which is not there, and not the command line.
        let output = place.tencrypt(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("/etc/tencrypt/%i.toml: does not exist"), "{said}");
        names.push(name);
    }
    assert_eq!(names, ["ExecStartPre", "ExecStart"]);
    assert!(unit.contains("\nType=notify\n"));
    if Path::new("/usr/bin/systemd-analyze").exists() {
        place.write("tencrypt@shop.service", unit.replace("/usr/local/bin/tencrypt", program), 0o644);
        let mut verify = Command::new("/usr/bin/systemd-analyze");
        let output =
            verify.args(["verify", "--man=no", "./tencrypt@shop.service"]).current_dir(&place.0).output();
        let output = output.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn completion_scripts_are_accepted_by_their_shells() {
    let place = Place::new("completions");
    for (shell, mark) in
        [("bash", "complete -F _tencrypt"), ("zsh", "#compdef tencrypt"), ("fish", "complete -c tencrypt")]
    {
        let script = text(&place.tencrypt(&["completions", shell]));
        assert!(script.contains(mark) && script.contains("genkey") && script.contains("netns"), "{shell}");
        if Path::new("/bin").join(shell).exists() || Path::new("/usr/bin").join(shell).exists() {
            let mut check = Command::new(shell).arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            check.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(check.wait().unwrap().success(), "{shell}");
        }
    }
}

/// Names that the completion script for `shell` offers after `--netns`, or paths, for a word that begins with `start`.
/// The script is read with `names` in the place of /run/netns.
fn offered(place: &Place, shell: &str, names: &Path, start: &str) -> Vec<String> {
    let script =
        text(&place.tencrypt(&["completions", shell])).replace("/run/netns", names.to_str().unwrap());
    fs::write(place.path("script"), script).unwrap();
    let ask = match shell {
        "bash" => format!(
            "source ./script; COMP_WORDS=(tencrypt status --netns '{start}'); COMP_CWORD=3\n\
             _tencrypt tencrypt '{start}' --netns; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        ),
        _ => format!("source ./script; complete -C 'tencrypt status --netns {start}'"),
    };
    let mut command = Command::new(shell);
    let output = command.args(["-c", &ask]).current_dir(&place.0).env("HOME", &place.0).output().unwrap();
    let lines = text(&output);
    let mut words: Vec<String> =
        lines.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn namespaces_are_offered_where_one_is_asked_for() {
    let place = Place::new("offered");
    let names = place.path("names");
    fs::create_dir(&names).unwrap();
    for name in ["shop-1", "shop-2", "other"] {
        fs::write(names.join(name), "").unwrap();
    }
    for shell in ["bash", "fish"] {
        if !Path::new("/usr/bin").join(shell).exists() {
            continue;
        }
        assert_eq!(offered(&place, shell, &names, "shop"), ["shop-1", "shop-2"], "{shell}");
        assert_eq!(offered(&place, shell, &names, "").len(), 3, "{shell}");
        let path = offered(&place, shell, &names, "./nam");
        assert!(matches!(&path[..], [path] if path.trim_end_matches('/') == "./names"), "{shell}: {path:?}");
        assert!(!offered(&place, shell, &place.path("absent"), "sh").contains(&"shop-1".to_owned()));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new("pipe");
    let mut child = place.command(&["completions", "bash"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
