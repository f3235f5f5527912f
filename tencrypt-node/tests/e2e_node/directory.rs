//! `tencrypt-node run`: pods of a directory of files are protected, kept, replaced and ended.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{AGENT, Agent, CANARY, LIMIT, Site, is_echoed, program, replace, settings};
use tencrypt_lab::{HttpServer, Pod, Signal, Sniffer, UdpEcho, http_get, test};

const PORT: u16 = 9001;
const HTTP: u16 = 8080;

/// Two pods of the tenant `shop`, the second of which answers; both are in the directory.
struct Shop {
    site: Site,
    a: Pod,
    b: Pod,
    _echo: UdpEcho,
    _http: HttpServer,
}

impl Shop {
    fn new() -> Self {
        let site = Site::new();
        site.tenant("shop");
        let (a, b) = (site.pod(21), site.pod(22));
        let echo = UdpEcho::start(&b, PORT).unwrap();
        let http = HttpServer::start(&b, HTTP, format!("Set-Cookie: {CANARY}")).unwrap();
        Self { site, a, b, _echo: echo, _http: http }
    }

    fn protect(&self, agent: &Agent<'_>) -> [u32; 2] {
        self.site.name("web-0", "shop", &self.a);
        self.site.name("web-1", "shop", &self.b);
        [agent.protected("web-0"), agent.protected("web-1")]
    }

    /// Sends the canary and waits for its answer.
    fn say_canary(&self) {
        for to in self.b.addresses() {
            let to = SocketAddr::new(to, HTTP);
            let body = http_get(self.a.netns(), to, "shop", CANARY, LIMIT).unwrap();
            assert!(String::from_utf8_lossy(&body).contains(CANARY), "{to}");
        }
    }

    /// Waits until a datagram is answered.
    fn reach(&self, agent: &Agent<'_>) {
        agent.eventually("an answer", || is_echoed(&self.a, self.b.v4(), PORT));
    }

    /// Looks at the bridge from now on; it was seen to notice plaintext.
    fn sniff(&self) -> Sniffer {
        let sniffer = self.site.sniff([&self.a, &self.b]);
        self.say_canary();
        sniffer.settle(Duration::from_millis(100), LIMIT);
        assert!(sniffer.report().leaks > 0, "the sniffer is blind: {}", sniffer.report());
        sniffer.reset();
        sniffer
    }
}

fn assert_only_encrypted(sniffer: &Sniffer) {
    sniffer.settle(Duration::from_millis(100), LIMIT);
    let report = sniffer.report();
    assert!(report.is_clean() && report.tunnel > 0, "{report}");
}

#[test]
fn pods_of_the_directory_are_protected_until_their_files_go() {
    test("directory::pods_of_the_directory_are_protected_until_their_files_go", || {
        let shop = Shop::new();
        let sniffer = shop.sniff();
        let agent = shop.site.start("");
        let [one, other] = shop.protect(&agent);
        shop.say_canary();
        assert_only_encrypted(&sniffer);
        let pod = agent.pod("web-0").unwrap();
        assert_eq!(
            (&pod["tenant"], &pod["source"], &pod["current"]),
            (&"shop".into(), &"directory".into(), &true.into())
        );
        assert_eq!(pod["addresses"].as_array().unwrap().len(), 2);
        assert!(
            pod["peers"].as_u64() == Some(1) && pod["status"]["packets"]["encrypted"].as_u64() > Some(0),
            "{pod}"
        );
        // Neither is a child of the agent's, nor does it belong to its session.
        for process in [one, other] {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            let fields: Vec<&str> = fields.split(' ').collect();
            assert_ne!(fields[1], agent.program.id().to_string(), "its parent: {stat}");
        }
        fs::remove_file(shop.site.pod_file("web-0")).unwrap();
        agent.eventually("web-0 is gone", || agent.pod("web-0").is_none());
        assert!(!Path::new(&format!("/proc/{one}")).exists() || is_zombie(one));
        assert!(agent.pod("web-1").is_some());
        // It is closed, not open: nobody has said that it may speak in plain.
        sniffer.reset();
        assert!(!is_echoed(&shop.a, shop.b.v4(), PORT));
        sniffer.settle(Duration::from_millis(100), LIMIT);
        assert!(sniffer.report().is_clean(), "{}", sniffer.report());
        let left: Vec<_> = fs::read_dir(shop.site.directory.join("run/pods")).unwrap().collect();
        assert_eq!(left.len(), 1, "the files of the pods that are left: {left:?}");
    });
}

fn kill(process: u32) {
    let process = rustix::process::Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

/// Tells if a process has ended and nobody has asked for its exit code.
fn is_zombie(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn the_agent_goes_and_comes_and_its_data_paths_stay() {
    test("directory::the_agent_goes_and_comes_and_its_data_paths_stay", || {
        let shop = Shop::new();
        let sniffer = shop.sniff();
        let first = shop.site.start("");
        let before = shop.protect(&first);
        shop.reach(&first);
        let log = first.stop(Signal::Kill);
        shop.say_canary();
        let second = shop.site.start("");
        assert_eq!([second.protected("web-0"), second.protected("web-1")], before, "{log}");
        assert_eq!((second.count("adopted"), second.count("started")), (2, 0));
        // Another one is told that there is one.
        let third = shop.site.begin("");
        let mut third = third.program;
        let finished = third.wait(LIMIT).unwrap();
        assert_eq!(finished.status.code(), Some(5), "{finished:?}");
        assert!(finished.stderr.contains("another agent runs"), "{finished:?}");
        second.stop(Signal::Term);
        // They have said so on a standard error that nobody reads any more, the first agent's.
        std::thread::sleep(Duration::from_millis(300));
        assert!(
            before
                .iter()
                .all(|process| Path::new(&format!("/proc/{process}")).exists() && !is_zombie(*process))
        );
        shop.say_canary();
        // A pod whose file went while no agent was there, and one whose data path died.
        shop.site.name("web-1", "shop", &shop.b);
        fs::remove_file(shop.site.pod_file("web-0")).unwrap();
        kill(before[1]);
        let fourth = shop.site.start("");
        let now = fourth.protected("web-1");
        assert_ne!(now, before[1]);
        fourth.eventually("web-0 is gone", || fourth.pod("web-0").is_none());
        sniffer.settle(Duration::from_millis(100), LIMIT);
        assert!(sniffer.report().is_clean(), "{}", sniffer.report());
    });
}

#[test]
fn a_data_path_that_dies_is_started_again_at_once_and_nothing_leaves_in_plain_meanwhile() {
    test(
        "directory::a_data_path_that_dies_is_started_again_at_once_and_nothing_leaves_in_plain_meanwhile",
        || {
            const ROUNDS: usize = 5;
            let shop = Shop::new();
            let sniffer = shop.sniff();
            let agent = shop.site.start("");
            let [mut process, other] = shop.protect(&agent);
            let mut silences = Vec::new();
            for _ in 0..ROUNDS {
                shop.reach(&agent);
                let begin = Instant::now();
                kill(process);
                // What is sent meanwhile is refused or lost.
                shop.reach(&agent);
                silences.push(begin.elapsed());
                agent.eventually("another process", || agent.protected("web-0") != process);
                process = agent.protected("web-0");
            }
            silences.sort();
            println!("killed, and answered again after: {silences:?}");
            assert_eq!(agent.protected("web-1"), other);
            let pod = agent.pod("web-0").unwrap();
            assert_eq!(pod["restarts"].as_u64(), Some(ROUNDS as u64), "{pod}");
            assert_eq!(agent.count("restarted"), ROUNDS as u64);
            assert_only_encrypted(&sniffer);
        },
    );
}

/// A program that is another one than `tencrypt` by its content alone.
fn another_program(site: &Site) -> std::path::PathBuf {
    let path = site.directory.join("tencrypt-next");
    fs::copy(program("tencrypt"), &path).unwrap();
    // Behind its last section the loader reads nothing.
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"next").unwrap();
    path
}

#[test]
fn a_new_program_takes_the_pods_over_one_by_one_and_a_bad_one_is_taken_back() {
    test("directory::a_new_program_takes_the_pods_over_one_by_one_and_a_bad_one_is_taken_back", || {
        let shop = Shop::new();
        let sniffer = shop.sniff();
        let agent = shop.site.start("");
        let before = shop.protect(&agent);
        shop.reach(&agent);
        agent.stop(Signal::Term);
        let next = another_program(&shop.site);
        let agent = shop.site.start(&format!("program = \"{}\"\n", next.display()));
        agent.eventually("both were replaced", || agent.count("replaced") == 2);
        let now = [agent.protected("web-0"), agent.protected("web-1")];
        assert!(now[0] != before[0] && now[1] != before[1], "{before:?} {now:?}");
        assert!(agent.pods().iter().all(|pod| pod["current"] == true), "{:?}", agent.pods());
        for process in now {
            assert_eq!(fs::read_link(format!("/proc/{process}/exe")).unwrap(), next);
        }
        shop.reach(&agent);
        agent.stop(Signal::Term);
        // One that gets as far as being given everything, and then fails: the one before comes back.
        let bad = shop.site.directory.join("tencrypt-bad");
        let script = format!("#!/bin/sh\nTENCRYPT_RUN_DIR=/nonexistent/run exec {} \"$@\"\n", next.display());
        fs::write(&bad, script).unwrap();
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o755)).unwrap();
        let agent = shop.site.start(&format!("program = \"{}\"\n", bad.display()));
        agent.eventually("it was taken back", || agent.count("rolled_back") == 1);
        let after = [agent.protected("web-0"), agent.protected("web-1")];
        let untouched = now.iter().filter(|process| after.contains(process)).count();
        assert_eq!(untouched, 1, "the tenant's other pod is left alone: {now:?} {after:?}");
        shop.reach(&agent);
        let status = agent.status();
        let problem = &status["tenants"][0]["replacement_problem"];
        assert!(problem.as_str().is_some_and(|problem| problem.contains("/nonexistent/run")), "{status}");
        assert!(agent.pods().iter().all(|pod| pod["current"] == false), "{:?}", agent.pods());
        // Nor does another agent try it again.
        agent.stop(Signal::Term);
        let agent = shop.site.start(&format!("program = \"{}\"\n", bad.display()));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!([agent.protected("web-0"), agent.protected("web-1")], after);
        assert_eq!((agent.count("rolled_back"), agent.count("failed")), (0, 0));
        assert_only_encrypted(&sniffer);
    });
}

#[test]
fn files_of_a_tenant_that_change_take_effect_and_bad_ones_do_not() {
    test("directory::files_of_a_tenant_that_change_take_effect_and_bad_ones_do_not", || {
        let shop = Shop::new();
        let agent = shop.site.start("");
        let before = shop.protect(&agent);
        let folder = shop.site.directory.join("tenants/shop");
        let keys = fs::read_to_string(folder.join("tenant.key")).unwrap();
        let rotated = format!("{keys}epoch 2 {}\nsend 1\n", "0123456789abcdef".repeat(4));
        let accepted = |agent: &Agent<'_>, count: usize| {
            let has = |pod: &serde_json::Value| {
                pod["status"]["keys"]["accept"].as_array().is_some_and(|keys| keys.len() == count)
            };
            agent.pods().iter().all(has)
        };
        let write_keys = |text: &str| {
            let path = folder.join("tenant.key");
            replace(&path, text);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write_keys(&rotated);
        agent.eventually("both epochs are accepted", || accepted(&agent, 2));
        // What is wrong leaves what was so before; the fault is named.
        for (name, content, reason) in [
            ("tenant.key", "tencrypt-key-v1\n", "tenant.key"),
            ("pod.toml", "[network]\nprotected = [\"10.0.0.0/33\"]\n", "pod.toml"),
            ("tenant.toml", "namespaces = [\"Shop\"]\n", "tenant.toml"),
            ("facts.json", "{\"learn\":[{}]}", "facts.json"),
            ("revoked", "nonsense", "revoked"),
            ("ca.pub", "nonsense", "ca.pub"),
        ] {
            let path = folder.join(name);
            let good = fs::read_to_string(&path).ok();
            let mode = fs::metadata(&path).map_or(0o600, |metadata| metadata.permissions().mode());
            replace(&path, content);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            agent.eventually(&format!("{name} is named"), || {
                let status = agent.status();
                status["tenants"][0]["problem"].as_str().is_some_and(|problem| problem.contains(reason))
            });
            let list = fs::read_to_string(shop.site.directory.join("namespaces")).unwrap();
            assert!(list.contains("enrolled shop\n"), "{name}: {list}");
            match good {
                Some(good) => replace(&path, &good),
                None => fs::remove_file(&path).unwrap(),
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).ok();
            agent.eventually("all is well", || agent.status()["tenants"][0]["problem"].is_null());
        }
        assert_eq!([agent.protected("web-0"), agent.protected("web-1")], before);
        assert!(accepted(&agent, 2));
        shop.reach(&agent);
        // A fact takes an address away from the tenant; other settings come with another process.
        replace(
            &folder.join("facts.json"),
            "{\"learn\":[{\"prefix\":\"10.128.0.99\",\"class\":\"external\"}]}",
        );
        agent.eventually("the fact is known", || explains(&shop, "10.128.0.99", "kubernetes"));
        fs::remove_file(folder.join("facts.json")).unwrap();
        agent.eventually("the fact is forgotten", || !explains(&shop, "10.128.0.99", "kubernetes"));
        assert_eq!([agent.protected("web-0"), agent.protected("web-1")], before);
        replace(&folder.join("pod.toml"), &settings("shop", "[policy]\nunknown = \"drop\"\n"));
        agent.eventually("both were replaced", || agent.count("replaced") == 2);
        shop.reach(&agent);
    });
}

#[test]
fn no_pod_gets_the_keys_of_another_tenant_whatever_the_files_say() {
    test("directory::no_pod_gets_the_keys_of_another_tenant_whatever_the_files_say", || {
        let site = Site::new();
        let folders = ["shop", "bank"].map(|name| site.tenant(name));
        let pods = [site.pod(21), site.pod(22)];
        let agent = site.start("");
        site.name("web-0", "shop", &pods[0]);
        agent.protected("web-0");
        let tenant_of = |name: &str| {
            let pod = agent.pod(name).unwrap();
            pod["status"]["identity"]["tenant"].as_str().unwrap().to_owned()
        };
        let shop = tenant_of("web-0");
        // Another tenant's key file in its place is refused, for pods that run and for those that start.
        let own = fs::read_to_string(folders[0].join("tenant.key")).unwrap();
        let write_key = |text: &str| {
            let path = folders[0].join("tenant.key");
            replace(&path, text);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write_key(&fs::read_to_string(folders[1].join("tenant.key")).unwrap());
        agent.eventually("it is named", || {
            let status = agent.status();
            status["problems"].to_string().contains("have the same keys")
        });
        site.name("web-1", "shop", &pods[1]);
        agent.eventually("its start fails", || {
            agent.pod("web-1").is_some_and(|pod| pod["state"] == "waiting")
        });
        assert_eq!(tenant_of("web-0"), shop);
        write_key(&own);
        agent.protected("web-1");
        assert_eq!(tenant_of("web-1"), shop);
        // A pod that is given to another tenant gets another data path, with that one's keys.
        site.name("web-1", "bank", &pods[1]);
        agent.eventually("it is bank's", || agent.pod("web-1").is_some_and(|pod| pod["tenant"] == "bank"));
        agent.protected("web-1");
        assert_ne!(tenant_of("web-1"), shop);
        assert_eq!(tenant_of("web-0"), shop);
    });
}

/// Tells if `tencrypt explain` has this word about an address.
fn explains(shop: &Shop, address: &str, word: &str) -> bool {
    let netns = shop.a.netns().path();
    let arguments = ["explain".into(), "--netns".into(), netns.into(), address.into(), "--json".into()];
    let finished = shop.site.run(&program("tencrypt"), &arguments);
    finished.stdout.to_lowercase().contains(word)
}

#[test]
fn a_data_path_has_nothing_of_another_tenant() {
    test("directory::a_data_path_has_nothing_of_another_tenant", || {
        let site = Site::new();
        let names = ["shop", "bank"];
        let pods: Vec<Pod> = (21..25).map(|number| site.pod(number)).collect();
        let folders = names.map(|name| site.tenant(name));
        let agent = site.start("");
        for (number, pod) in pods.iter().enumerate() {
            site.name(&format!("pod-{number}"), names[number % 2], pod);
        }
        let processes: Vec<u32> =
            (0..pods.len()).map(|number| agent.protected(&format!("pod-{number}"))).collect();
        // The tenant's id is in the memory of every process that has the tenant's keys, and stands in the key file beside them.
        let ids = folders.map(|folder| {
            let text = fs::read_to_string(folder.join("tenant.key")).unwrap();
            let line = text.lines().find(|line| line.starts_with("tenant ")).unwrap().to_owned();
            let hex = line.split_whitespace().nth(1).unwrap().to_owned();
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            (hex, bytes)
        });
        let roots = names.map(|name| {
            let text =
                fs::read_to_string(site.directory.join("tenants").join(name).join("tenant.key")).unwrap();
            let line = text.lines().find(|line| line.starts_with("epoch ")).unwrap().to_owned();
            line.split_whitespace().nth(2).unwrap().to_owned()
        });
        for (number, process) in processes.iter().enumerate() {
            let (own, other) = (number % 2, 1 - number % 2);
            let memory = memory(*process);
            assert!(has(&memory, &ids[own].1), "the search is blind: {process}");
            let root = bytes_of(&roots[other]);
            for secret in [&ids[other].1, ids[other].0.as_bytes(), roots[other].as_bytes(), &root] {
                assert!(
                    !has(&memory, secret),
                    "process {process} of {} has what is {}'s",
                    names[own],
                    names[other]
                );
            }
            assert!(
                !has(&memory, roots[own].as_bytes()),
                "the text of the key file is gone once it was read"
            );
            for file in ["environ", "cmdline"] {
                let content = fs::read(format!("/proc/{process}/{file}")).unwrap();
                assert!(!has(&content, names[other].as_bytes()), "{file}");
            }
            let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
            let links: Vec<_> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
            assert!(
                links.len() > 5 && links.iter().all(|link| !link.starts_with(site.directory.join("tenants"))),
                "{links:?}"
            );
            // Of namespaces it has its own pod's, and the one that it was started in.
            let own_inode = fs::metadata(pods[number].netns().path())
                .map(|found| std::os::unix::fs::MetadataExt::ino(&found))
                .unwrap();
            let others = links.iter().filter_map(|link| {
                let inode = link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse::<u64>().ok()?;
                (inode != own_inode).then_some(inode)
            });
            let others: Vec<u64> = others
                .filter(|inode| {
                    pods.iter().any(|pod| {
                        fs::metadata(pod.netns().path())
                            .is_ok_and(|found| std::os::unix::fs::MetadataExt::ino(&found) == *inode)
                    })
                })
                .collect();
            assert!(others.is_empty(), "namespaces of other pods: {others:?}");
        }
        // Nor does the agent keep keys that it has handed out.
        let memory = memory(agent.program.id());
        for root in &roots {
            assert!(!has(&memory, root.as_bytes()), "the agent still has the text of a key file");
        }
        assert!(site.directory.join("run/agent.sock").exists() && Path::new(AGENT).exists());
    });
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn has(memory: &[u8], wanted: &[u8]) -> bool {
    memory.windows(wanted.len()).any(|part| part == wanted)
}

/// The memory of a process that may be read and written, as the machine's root sees it.
fn memory(process: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let file = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut memory = Vec::new();
    for line in maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.starts_with("rw")))
    {
        let (begin, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        let (begin, end) = (parse(begin), parse(end));
        let mut part = vec![0; usize::try_from(end - begin).unwrap().min(256 << 20)];
        // Parts that the kernel does not show, such as secret memory, are what nobody else can read either.
        if file.read_exact_at(&mut part, begin).is_ok() {
            memory.extend_from_slice(&part);
        }
    }
    memory
}
