//! A folder of network configurations, and owners that write to it.

use std::{
    fs::File,
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use super::{super::testing::Folder, *};
use crate::watch::FolderWatch;

const ENTRY: &str = r#"{"type": "tencrypt-cni-0.1.0", "socket": "/run/tencrypt/node.sock"}"#;
const NAME: &str = "10-flannel.conflist";

/// As kube-flannel writes it, with a number that tells one version from another.
fn flannel(version: usize) -> String {
    format!(
        "{{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"version\": {version},\n  \"plugins\": [\n    {{\n      \
         \"type\": \"flannel\",\n      \"delegate\": {{ \"hairpinMode\": true, \"n\": 1.0e400 }}\n    }},\n    {{\n      \
         \"type\": \"portmap\",\n      \"capabilities\": {{ \"portMappings\": true }}\n    }}\n  ]\n}}\n"
    )
}

fn chained(list: &str) -> String {
    conflist::with_entry(list, ENTRY).unwrap().unwrap()
}

fn networks(folder: &Folder) -> Networks {
    Networks::of(folder.path(), ENTRY).unwrap()
}

/// A check at a time at which no file is young.
fn check(networks: &mut Networks) -> Checked {
    networks.check(SystemTime::now() + 2 * UNFINISHED).unwrap()
}

fn found(networks: &mut Networks) -> Found {
    check(networks).found
}

#[test]
fn the_entry_is_put_in_stands_and_is_put_back() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    assert_eq!(found(&mut networks), Found::Nothing);
    folder.write(NAME, flannel(1));
    assert_eq!(found(&mut networks), Found::PutIn(NAME.to_owned()));
    assert_eq!(folder.read(NAME), chained(&flannel(1)));
    assert_eq!(found(&mut networks), Found::Stands(NAME.to_owned()));
    folder.write(NAME, flannel(2));
    assert_eq!(found(&mut networks), Found::PutBack(NAME.to_owned()));
    assert_eq!(folder.read(NAME), chained(&flannel(2)));
    let again = &mut Networks::of(folder.path(), ENTRY).unwrap();
    assert_eq!(found(again), Found::Stands(NAME.to_owned()), "another agent finds it");
    folder.write(NAME, flannel(3));
    assert_eq!(found(again), Found::PutBack(NAME.to_owned()));
    assert_eq!(folder.names(), [NAME]);
    let absent = &mut Networks::of(folder.join("absent"), ENTRY).unwrap();
    assert_eq!(found(absent), Found::Nothing);
    assert!(Networks::of(folder.path(), r#"{"type":"bridge"}"#).is_err());
}

#[test]
fn the_first_file_that_a_runtime_takes_gets_it() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    for name in ["05-not.conflist.bak", "06-not", ".06.swp"] {
        folder.write(name, flannel(1));
    }
    folder.write("07-folder.conflist/a", "");
    folder.write("08-broken.conflist", "{");
    folder.write("09-list.conf", flannel(1));
    folder.write("20-b.conflist", flannel(20));
    folder.write("30-c.conf", r#"{"name":"c","type":"bridge"}"#);
    let checked = check(&mut networks);
    assert_eq!(checked.found, Found::PutIn("20-b.conflist".to_owned()));
    let names: Vec<_> = checked.invalid.iter().map(|fault| &*fault.name).collect();
    assert_eq!(names, ["08-broken.conflist", "09-list.conf"]);
    assert!(checked.invalid[1].to_string().contains("09-list.conf: `type` is missing"));
    assert_eq!(checked.others, ["30-c.conf"]);
    assert_eq!(folder.read("09-list.conf"), flannel(1));
    // The network is exchanged for another one.
    folder.write("10-a.conflist", flannel(10));
    let checked = check(&mut networks);
    assert_eq!(checked.found, Found::PutIn("10-a.conflist".to_owned()));
    assert_eq!(checked.others, ["30-c.conf"], "it stays in the old one");
    assert_eq!(folder.read("20-b.conflist"), chained(&flannel(20)));
    fs::remove_file(folder.join("10-a.conflist")).unwrap();
    assert_eq!(found(&mut networks), Found::Stands("20-b.conflist".to_owned()));
    folder.write(".01-hidden.conflist", flannel(1));
    assert_eq!(found(&mut networks), Found::PutIn(".01-hidden.conflist".to_owned()));
}

#[test]
fn what_cannot_be_chained_is_named_and_left_alone() {
    for (name, text, expected) in [
        ("1.conf", r#"{"type":"bridge"}"#, "`name` is missing"),
        ("1.conflist", r#"{"name":"","plugins":[{"type":"b"}]}"#, "its name is empty"),
        ("1.conflist", r#"{"name":"a","plugins":[{"TYPE":"b"}]}"#, "type"),
        ("1.conflist", r#"{"name":"a","plugins":[{"type":"tencrypt-cni"}]}"#, "no plugin stands"),
        ("1.conflist", r#"{"name":"a","name":"b","plugins":[{"type":"b"}]}"#, "duplicate"),
    ] {
        let folder = Folder::new("networks");
        folder.write(name, text);
        folder.write("2.conflist", flannel(2));
        let checked = check(&mut networks(&folder));
        match (checked.found, expected) {
            (Found::Unchainable(fault), expected) => {
                assert!(fault.name == name && fault.reason.contains(expected), "{text}: {fault}");
            }
            other => panic!("{text}: {other:?}"),
        }
        assert_eq!(checked.others, ["2.conflist"]);
        assert_eq!((&*folder.read(name), &*folder.read("2.conflist")), (text, &*flannel(2)));
    }
    let folder = Folder::new("networks");
    folder.write(NAME, " ".repeat(conflist::LIMIT + 1));
    let found = found(&mut networks(&folder));
    assert!(matches!(found, Found::Unchainable(ref fault) if fault.reason.contains("longer")), "{found:?}");
    folder.write(NAME, b"{\"name\":\"a\",\"x\":\"\xff\",\"plugins\":[{\"type\":\"b\"}]}");
    let found = check(&mut networks(&folder)).found;
    assert!(matches!(found, Found::Unchainable(ref fault) if fault.reason == "no UTF-8"), "{found:?}");
}

/// As multus-daemon writes it.
fn multus(version: usize) -> String {
    format!(r#"{{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus","v":{version}}}"#)
}

#[test]
fn a_list_is_made_of_a_configuration_of_one_plugin_and_follows_it() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    let (source, list) = ("00-multus.conf", "00-multus-tencrypt.conflist");
    let made =
        |version| String::from_utf8(derived::list(multus(version).as_bytes(), ENTRY).unwrap()).unwrap();
    folder.write(source, multus(1));
    folder.write("80-openshift.conf", r#"{"name":"ovn","type":"ovn"}"#);
    assert_eq!(found(&mut networks), Found::PutIn(list.to_owned()));
    assert_eq!((folder.read(list), folder.read(source)), (made(1), multus(1)), "the source stays as it is");
    let checked = check(&mut networks);
    assert_eq!(
        (checked.found, checked.others),
        (Found::Stands(list.to_owned()), vec!["80-openshift.conf".to_owned()])
    );
    // Another agent, and another text of the owner's: the entry was there all the time.
    let mut networks = Networks::of(folder.path(), ENTRY).unwrap();
    folder.write(source, multus(2));
    assert_eq!(found(&mut networks), Found::Stands(list.to_owned()));
    assert_eq!(folder.read(list), made(2));
    // While the owner writes, what was made stands.
    folder.write(source, "{");
    assert_eq!(found(&mut networks), Found::Stands(list.to_owned()));
    assert_eq!(folder.read(list), made(2));
    folder.write(source, multus(2));
    // Without the entry, or without the list, pods were started in plain.
    folder.write(list, flannel(1));
    assert_eq!(found(&mut networks), Found::PutBack(list.to_owned()));
    assert_eq!(folder.read(list), made(2));
    fs::remove_file(folder.join(list)).unwrap();
    assert_eq!(found(&mut networks), Found::PutBack(list.to_owned()));
    // The entry is exchanged for that of another version.
    let newer = r#"{"type": "tencrypt-cni-0.2.0"}"#;
    assert_eq!(found(&mut Networks::of(folder.path(), newer).unwrap()), Found::Stands(list.to_owned()));
    assert!(folder.read(list).contains(newer) && !folder.read(list).contains(ENTRY));
    // What is taken out, or whose source has gone, leaves nothing.
    assert_eq!(networks.remove().unwrap(), (vec![list.to_owned()], vec![]));
    assert_eq!(folder.names(), [source, "80-openshift.conf"]);
    assert_eq!(found(&mut networks), Found::PutIn(list.to_owned()));
    fs::remove_file(folder.join(source)).unwrap();
    assert_eq!(found(&mut networks), Found::PutIn("80-openshift-tencrypt.conflist".to_owned()));
    assert_eq!(folder.names(), ["80-openshift-tencrypt.conflist", "80-openshift.conf"]);
}

#[test]
fn plugins_of_the_networks_folder_stand_behind_the_entry() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    folder.write(NAME, flannel(1));
    folder.write("cbr0/20-b.conf", r#"{"type":"b"}"#);
    folder.write("cbr0/10-a.conf", r#"{"type":"a"}"#);
    folder.write("cbr0/a.conflist", "");
    let checked = check(&mut networks);
    assert_eq!(
        (checked.behind, checked.invalid),
        (vec!["10-a.conf".to_owned(), "20-b.conf".to_owned()], vec![])
    );
    let whole = flannel(1).replace("\"version\"", "\"loadOnlyInlinedPlugins\": true, \"version\"");
    folder.write(NAME, whole);
    assert!(check(&mut networks).behind.is_empty());
    folder.write(NAME, r#"{"name":"cbr0"}"#);
    let checked = check(&mut networks);
    assert!(matches!(checked.found, Found::Unchainable(ref fault) if fault.reason.contains("plugins")));
    fs::remove_dir_all(folder.join("cbr0")).unwrap();
    let checked = check(&mut networks);
    assert_eq!((checked.found, checked.invalid.len()), (Found::Nothing, 1), "it has no plugins");
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    folder.write("20-b.conflist", flannel(2));
    folder.write(NAME, &flannel(1)[..50]);
    let now = SystemTime::now();
    let checked = networks.check(now).unwrap();
    assert_eq!((checked.found, checked.invalid.len()), (Found::Busy(NAME.to_owned()), 1));
    assert_eq!(folder.read("20-b.conflist"), flannel(2), "the next one is not for the entry");
    folder.write(NAME, flannel(1));
    assert_eq!(networks.check(now).unwrap().found, Found::PutIn(NAME.to_owned()));
    folder.write(NAME, "");
    assert_eq!(networks.check(SystemTime::now()).unwrap().found, Found::Busy(NAME.to_owned()));
    // One that stays as it is is none.
    assert_eq!(found(&mut networks), Found::PutIn("20-b.conflist".to_owned()));
    folder.write("20-b.conflist", flannel(3));
    folder.write(NAME, "");
    let checked = networks.check(SystemTime::now()).unwrap();
    assert_eq!(
        checked.found,
        Found::PutBack("20-b.conflist".to_owned()),
        "where it stood it is put back at once"
    );
}

#[test]
fn a_text_that_is_written_into_a_displaced_file_counts() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    folder.write(NAME, flannel(1));
    let mut owner = File::options().write(true).open(folder.join(NAME)).unwrap();
    assert_eq!(found(&mut networks), Found::PutIn(NAME.to_owned()));
    owner.set_len(0).unwrap();
    assert_eq!(found(&mut networks), Found::Stands(NAME.to_owned()), "not yet a text");
    owner.write_all(flannel(2).as_bytes()).unwrap();
    assert_eq!(found(&mut networks), Found::PutBack(NAME.to_owned()));
    assert_eq!(folder.read(NAME), chained(&flannel(2)));
    assert_eq!(found(&mut networks), Found::Stands(NAME.to_owned()));
    // A text that somebody has put there since is newer.
    let mut owner = File::options().write(true).open(folder.join(NAME)).unwrap();
    folder.write("new", flannel(3));
    fs::rename(folder.join("new"), folder.join(NAME)).unwrap();
    assert_eq!(found(&mut networks), Found::PutBack(NAME.to_owned()));
    owner.write_all(flannel(4).as_bytes()).unwrap();
    assert_eq!(found(&mut networks), Found::Stands(NAME.to_owned()));
    assert_eq!(folder.read(NAME), chained(&flannel(3)));
    assert_eq!(folder.names(), [NAME]);
}

#[test]
fn a_text_that_is_written_into_a_displaced_file_wakes() {
    let folder = Folder::new("networks");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watch = FolderWatch::of([folder.path()], Duration::from_secs(3_600)).unwrap();
        let mut networks = networks(&folder);
        folder.write(NAME, flannel(1));
        let mut owner = File::options().write(true).truncate(false).open(folder.join(NAME)).unwrap();
        watch.next().await;
        assert_eq!(found(&mut networks), Found::PutIn(NAME.to_owned()));
        while tokio::time::timeout(Duration::from_millis(30), watch.next()).await.is_ok() {}
        owner.write_all(flannel(2).as_bytes()).unwrap();
        drop(owner);
        tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap();
        assert_eq!(found(&mut networks), Found::PutBack(NAME.to_owned()));
        assert_eq!(folder.read(NAME), chained(&flannel(2)));
    });
}

#[test]
fn what_a_killed_agent_has_left_aside_is_put_right() {
    let aside = format!(".{NAME}.tencrypt-new");
    for (file, left, expected, why) in [
        (flannel(1), chained(&flannel(1)), flannel(1), "before the exchange"),
        (chained(&flannel(1)), flannel(1), flannel(1), "behind it"),
        (chained(&flannel(1)), flannel(2), flannel(2), "behind it, and the owner had written meanwhile"),
        (chained(&flannel(1)), flannel(2)[..70].to_owned(), flannel(1), "he was in the middle of it"),
        (flannel(3), flannel(2), flannel(3), "and has written again since"),
        (chained(&flannel(3)), chained(&flannel(2)), flannel(3), "a new one that is old by now"),
    ] {
        let folder = Folder::new("networks");
        folder.write(NAME, file);
        folder.write(&aside, left);
        folder.write(".tencrypt-new", "another's");
        let mut networks = networks(&folder);
        assert!(matches!(found(&mut networks), Found::PutIn(_) | Found::Stands(_)), "{why}");
        assert_eq!(folder.read(NAME), chained(&expected), "{why}");
        assert_eq!(folder.names(), [".tencrypt-new", NAME], "{why}");
    }
}

#[test]
fn a_link_stays_a_link() {
    let folder = Folder::new("networks");
    folder.write("elsewhere/flannel", flannel(1));
    std::os::unix::fs::symlink("elsewhere/flannel", folder.join(NAME)).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("01-dangling.conflist")).unwrap();
    assert_eq!(found(&mut networks(&folder)), Found::PutIn(NAME.to_owned()));
    assert_eq!(folder.read("elsewhere/flannel"), chained(&flannel(1)));
    assert!(fs::symlink_metadata(folder.join(NAME)).unwrap().is_symlink());
}

#[test]
fn the_entry_is_taken_out_of_every_file() {
    let folder = Folder::new("networks");
    let mut networks = networks(&folder);
    for (name, text) in [("1.conflist", flannel(1)), ("2.conflist", flannel(2))] {
        folder.write(name, chained(&text).replace("0.1.0", "0.0.9"));
    }
    folder.write("3.conflist", flannel(3));
    folder.write("4.conflist", "{");
    folder.write("5.conf", r#"{"name":"a","type":"bridge"}"#);
    let alone = r#"{"name":"a","plugins":[{"type":"tencrypt-cni"}]}"#;
    folder.write("6.conflist", alone);
    let (removed, faults) = networks.remove().unwrap();
    assert_eq!(removed, ["1.conflist", "2.conflist"]);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].to_string().starts_with("6.conflist: no plugin stands"));
    for (name, text) in
        [("1.conflist", flannel(1)), ("2.conflist", flannel(2)), ("6.conflist", alone.to_owned())]
    {
        assert_eq!(folder.read(name), text);
    }
    assert_eq!(networks.remove().unwrap().0, [""; 0]);
    assert_eq!(found(&mut networks), Found::PutIn("1.conflist".to_owned()));
}

/// An owner's way to write his file.
type Write = fn(&Folder, &str);

fn by_rename(folder: &Folder, text: &str) {
    fs::rename(folder.write("flannel.tmp", text), folder.join(NAME)).unwrap();
}

fn in_place(folder: &Folder, text: &str) {
    folder.write(NAME, text);
}

fn in_pieces(folder: &Folder, text: &str) {
    let mut file = File::create(folder.join(NAME)).unwrap();
    for piece in text.as_bytes().chunks(60) {
        file.write_all(piece).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
}

const WAYS: [Write; 3] = [by_rename, in_place, in_pieces];

/// Checks the folder at each event while `owner` runs, and once more at the end.
fn keep(folder: &Folder, owner: impl FnOnce() + Send) -> Networks {
    let mut networks = networks(folder);
    let is_over = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            owner();
            is_over.store(true, Ordering::SeqCst);
        });
        runtime.block_on(async {
            let mut watch = FolderWatch::of([folder.path()], Duration::from_millis(300)).unwrap();
            loop {
                // Before the wait: what the owner did last is seen behind it.
                let was_over = is_over.load(Ordering::SeqCst);
                watch.next().await;
                networks.check(SystemTime::now()).unwrap();
                if was_over {
                    break;
                }
            }
        });
    });
    networks
}

#[test]
fn the_entry_is_back_soon_after_each_of_two_hundred_versions() {
    let folder = Folder::new("networks");
    let mut took = Vec::new();
    keep(&folder, || {
        for version in 0..200 {
            let text = flannel(version);
            WAYS[version % WAYS.len()](&folder, &text);
            let (start, wanted) = (Instant::now(), chained(&text));
            while fs::read_to_string(folder.join(NAME)).is_ok_and(|read| read != wanted) {
                assert!(start.elapsed() < Duration::from_secs(2), "version {version}: {}", folder.read(NAME));
                thread::sleep(Duration::from_micros(100));
            }
            took.push(start.elapsed());
        }
    });
    took.sort_unstable();
    println!("until the entry is back: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert_eq!((took.len(), folder.read(NAME)), (200, chained(&flannel(199))));
    assert_eq!(folder.names(), [NAME]);
}

#[test]
fn an_owner_who_never_waits_loses_no_text() {
    for round in 0..6 {
        let folder = Folder::new("networks");
        let mut written = String::new();
        let mut networks = keep(&folder, || {
            for version in 0..200 {
                written = flannel(version);
                WAYS[(version * 7 + round) % 2](&folder, &written);
                thread::sleep(Duration::from_micros((version * 37 % 11 * 40) as u64));
            }
        });
        assert_eq!(folder.read(NAME), chained(&written), "round {round}");
        assert_eq!(found(&mut networks), Found::Stands(NAME.to_owned()));
        assert_eq!(folder.names(), [NAME]);
    }
}
