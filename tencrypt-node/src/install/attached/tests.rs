//! Notes of several versions of libcni, by the fields of `cachedInfo` and of the results at their tags.

use serde_json::json;

use super::{super::testing::Folder, *};

const ARGUMENTS: &str = r#"[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web-0"],
    ["K8S_POD_INFRA_CONTAINER_ID","0a1b"],["K8S_POD_UID","0-1"]]"#;

/// The result of CNI 0.4.0, with a `version` of each address.
const RESULT_0_4: &str = r#"{"cniVersion":"0.4.0","dns":{},"interfaces":[
    {"mac":"00:11:22:33:44:55","name":"cni0"},{"mac":"00:11:22:33:44:56","name":"veth1"},
    {"mac":"00:11:22:33:44:57","name":"eth0","sandbox":"/var/run/netns/cni-1"}],
    "ips":[{"address":"10.244.1.7/24","gateway":"10.244.1.1","interface":2,"version":"4"},
           {"address":"fd00::7/64","interface":2,"version":"6"},{"address":"192.0.2.1/32","interface":0,"version":"4"}],
    "routes":[{"dst":"0.0.0.0/0"}]}"#;

/// The result of CNI 1.1.0.
const RESULT_1_1: &str = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1500,"sandbox":"/run/netns/of-the-result",
    "socketPath":"","pciID":""}],"ips":[{"address":"10.244.1.7/32"},{"address":"fd00::7/128","interface":0}]}"#;

/// The result of CNI 0.2.0.
const RESULT_0_2: &str = r#"{"cniVersion":"0.2.0","dns":{},"ip4":{"ip":"10.244.1.7/24","gateway":"10.244.1.1"},"ip6":{"ip":"fd00::7/64"}}"#;

/// A note as 0.8, 1.0 and 1.1 write it; 1.2 and 1.3 put `more` into it.
fn note(more: &str, result: &str) -> String {
    format!(
        r#"{{"kind":"cniCacheV1","containerId":"0a1b","config":"eyJuYW1lIjoicG9kcyJ9","ifName":"eth0","networkName":"pods",{more}
        "cniArgs":{ARGUMENTS},"capabilityArgs":{{"dns":{{}},"portMappings":[]}},"result":{result}}}"#
    )
}

fn wanted(netns: Option<&str>) -> Attached {
    let text = |text: &str| Some(text.to_owned());
    Attached {
        attachment: Attachment { network: "pods".into(), container: "0a1b".into(), interface: "eth0".into() },
        pod: Pod { namespace: text("shop"), name: text("web-0"), uid: text("0-1") },
        addresses: vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        netns: netns.map(PathBuf::from),
    }
}

fn one(note: &str) -> Attached {
    attached(note.as_bytes()).unwrap().expect("no loopback")
}

#[test]
fn notes_of_each_version_say_the_same() {
    for (note, netns) in [
        (note("", RESULT_0_4), Some("/var/run/netns/cni-1")),
        (note("", RESULT_1_1), Some("/run/netns/of-the-result")),
        (note("", RESULT_0_2), None),
        (note(r#""netns":"/var/run/netns/cni-2","#, RESULT_0_4), Some("/var/run/netns/cni-2")),
        (note(r#""netns":"/var/run/netns/cni-2","#, RESULT_1_1), Some("/var/run/netns/cni-2")),
        (note(r#""netns":"","#, RESULT_1_1), Some("/run/netns/of-the-result")),
        (note(r#""later":{"x":[1e999]},"#, RESULT_0_2), None),
    ] {
        assert_eq!(one(&note), wanted(netns), "{note}");
    }
}

#[test]
fn what_a_runtime_leaves_out_is_unknown() {
    let bare = r#"{"kind":"cniCacheV1","containerId":"0a1b","ifName":"eth0","networkName":"pods"}"#;
    let found = one(bare);
    assert_eq!((found.pod, found.addresses, found.netns), (Pod::default(), vec![], None));
    let podman = bare
        .replace('}', r#","cniArgs":[["K8S_POD_NAME","Web_0"]],"result":{"ips":null,"interfaces":null}}"#);
    assert_eq!(one(&podman).pod.name.as_deref(), Some("Web_0"));
    let plugins_own = bare.replace(
        '}',
        r#","result":{"interfaces":[{"name":"cali1","sandbox":"0a1b"},{"name":"x","sandbox":"/run/netns/x"}]}}"#,
    );
    assert_eq!(one(&plugins_own).netns, Some("/run/netns/x".into()));
    assert_eq!(attached(note("", RESULT_0_4).replace("\"eth0\"", "\"lo\"").as_bytes()), Ok(None));
}

#[test]
fn what_makes_no_sense_is_refused_by_its_field() {
    let spoilt = |from: &str, to: &str| note("", RESULT_0_4).replacen(from, to, 1);
    for (text, reason) in [
        (String::new(), "an object is expected"),
        ("[]".to_owned(), "an object is expected"),
        (RESULT_0_4.to_owned(), "`kind` is not `cniCacheV1`"),
        (spoilt("cniCacheV1", "cniCacheV2"), "`kind` is not `cniCacheV1`"),
        (note("", RESULT_0_4)[..200].to_owned(), "EOF"),
        (spoilt("\"containerId\":\"0a1b\",", ""), "`container` is malformed"),
        (spoilt("\"pods\"", "\"../pods\""), "`network` is malformed"),
        (spoilt("\"ifName\":\"eth0\"", "\"ifName\":\"a/b\""), "`interface` is malformed"),
        (spoilt("\"shop\"", "\"Shop\""), "`pod.namespace` is malformed"),
        (spoilt("\"web-0\"", "\"web\\n0\""), "`pod.name` is malformed"),
        (spoilt("\"K8S_POD_UID\"", "\"K8S_POD_NAME\""), "`cniArgs`: K8S_POD_NAME stands there twice"),
        (spoilt("[\"IgnoreUnknown\",\"1\"]", "[\"IgnoreUnknown\"]"), "invalid length 1"),
        (spoilt("10.244.1.7/24", "10.244.1.7"), "`10.244.1.7` is no address with a prefix length"),
        (spoilt("10.244.1.7/24", "10.244.1.7/33"), "is no address"),
        (spoilt("\"interface\":2", "\"interface\":3"), "`result.ips`: no such interface"),
        (note(r#""netns":"run/netns/a","#, RESULT_0_4), "`netns` is no absolute path"),
    ] {
        let said = attached(text.as_bytes()).expect_err(&text);
        assert!(said.contains(reason) && said.lines().count() == 1, "{text}: {said}");
    }
}

#[test]
fn a_folder_gives_what_makes_sense_and_names_the_rest() {
    let folder = Folder::new("attached");
    assert_eq!(read(&folder.join("absent"), SystemTime::now()).unwrap(), Notes::default());
    folder.write("pods-0a1b-eth0", note("", RESULT_0_4));
    folder.write("cni-loopback-0a1b-lo", note("", RESULT_0_4).replace("\"eth0\"", "\"lo\""));
    folder.write("pods-0a1c-eth0", note("", RESULT_0_4).replace("0a1b", "0a1c"));
    folder.write("old-0a1d-eth0", RESULT_0_4);
    folder.write("long", " ".repeat(LIMIT + 1));
    folder.write("folder/a", "");
    let notes = read(folder.path(), SystemTime::now()).unwrap();
    let containers: Vec<_> = notes.attached.iter().map(|attached| &*attached.attachment.container).collect();
    assert_eq!(containers, ["0a1b", "0a1c"]);
    let faults: Vec<_> = notes.faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "folder: no regular file",
            "long: longer than 1048576 bytes",
            "old-0a1d-eth0: `kind` is not `cniCacheV1`"
        ]
    );
}

#[test]
fn more_files_than_a_node_can_have_are_an_error() {
    let folder = Folder::new("attached");
    let loopback = json!({"kind": KIND, "ifName": "lo"}).to_string();
    folder.write("first", loopback);
    for number in 1..MAX_FILES {
        fs::hard_link(folder.join("first"), folder.join(&number.to_string())).unwrap();
    }
    assert_eq!(read(folder.path(), SystemTime::now()).unwrap(), Notes::default());
    folder.write("one more", "");
    assert_eq!(read(folder.path(), SystemTime::now()).unwrap_err().to_string(), "more than 10000 files");
}

#[test]
fn a_note_that_is_not_written_yet_is_no_fault_unless_it_stays_so() {
    let folder = Folder::new("attached");
    let written = fs::metadata(folder.write("pods-0a1b-eth0", "")).unwrap().modified().unwrap();
    let faults = |now| read(folder.path(), now).unwrap().faults.len();
    assert_eq!(faults(written + UNWRITTEN / 2), 0);
    assert_eq!(faults(written + UNWRITTEN), 1);
    assert_eq!(faults(written - UNWRITTEN), 1, "the clock was set");
    folder.write("pods-0a1b-eth0", "{");
    assert_eq!(faults(SystemTime::now()), 1);
}
