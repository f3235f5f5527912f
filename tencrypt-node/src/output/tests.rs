use super::{
    document::{DocumentError, read_pods, read_status},
    *,
};
use crate::{
    report::{PluginReport, PodState, StrayReport, TenantReport},
    samples,
};

/// A pod that has never been protected.
fn waiting() -> PodReport {
    PodReport {
        state: PodState::Waiting,
        pid: None,
        program: None,
        public_key: None,
        peers: 0,
        restarts: 3,
        addresses: vec![],
        status: None,
        problem: Some("the key of shop is not there yet".into()),
        ..samples::pod("shop/db-0", "shop")
    }
}

#[test]
fn pods_are_a_table() {
    let mut old = samples::pod("shop/web-1", "shop");
    (old.current, old.state) = (false, PodState::Starting);
    old.addresses.push("fd00::8".parse().unwrap());
    let status = old.status.as_mut().unwrap();
    (status.namespace.closed, status.keys.error) = (true, Some("line 3".into()));
    let expected = "\
NAME        TENANT  STATE      PID   PROGRAM    PEERS  RESTARTS  ADDRESSES              PROBLEM
shop/web-0  shop    protected  4711  0.1.0      2      0         10.244.1.7,fd00::7
shop/db-0   shop    WAITING    -     -          0      3         -                      the key of shop is not there yet
shop/web-1  shop    starting   4711  0.1.0 old  2      0         10.244.1.7,fd00::7 +1  \
CLOSED: protected destinations are unreachable; keys NOT in force: line 3
";
    assert_eq!(pods(&[samples::pod("shop/web-0", "shop"), waiting(), old], false), expected);
    assert_eq!(pods(&[], false), "no pods\n");
}

#[test]
fn what_is_wide_is_cut_and_what_a_terminal_would_act_upon_is_escaped() {
    let pod = PodReport {
        name: "n".repeat(300),
        tenant: "t\u{1b}[2J".into(),
        program: Some("v".repeat(40)),
        problem: Some(format!("{}\n{}", "p".repeat(116), "q".repeat(200))),
        ..waiting()
    };
    let text = pods(&[pod], false);
    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with(&format!("{}...  t\\u{{1b}}[2J  WAITING", "n".repeat(60))), "{line}");
    assert!(line.contains(&format!("  {}...  ", "v".repeat(29))), "{line}");
    // Its line end would be two characters wide, and there is room for one.
    assert!(line.ends_with(&format!("  {}...", "p".repeat(116))), "{line}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn status_is_a_row_for_each_thing_and_a_table_of_tenants() {
    let expected = "\
agent        tencrypt-node 0.1.0, process 7, up 1 d 1 h
ready        yes
program      /opt/tencrypt/bin/tencrypt (6197218c)
clones       noticed by kernel_log; keys made anew 13 times
plugin       /opt/cni/bin/tencrypt-cni, in /etc/cni/net.d/10-pods.conflist
pods         protected 1
UNPROTECTED  shop/old-0: the keys are not there
outside      shop/lb-0: it has the network of its node
data paths   started 1, adopted 2, restarted 3, replaced 4, ROLLED BACK 5, FAILED 6
requests     protected 7, open 8, refused 9, malformed 10
found        pods UNPROTECTED 12, plugin missing and put back 11

TENANT  PODS  NAMESPACES  PROBLEM
shop    1     shop
";
    assert_eq!(status(&samples::node(), false), expected);
}

#[test]
fn status_says_what_is_not_as_it_ought_to_be() {
    let tenant = TenantReport {
        namespaces: ["a", "b", "c", "d", "e", "f"].map(ToOwned::to_owned).to_vec(),
        problem: Some("keys: line 3".into()),
        replacing: true,
        replacement_problem: Some("shop/web-0: not ready".into()),
        ..samples::tenant("shop")
    };
    let bare = TenantReport { namespaces: vec![], pods: 0, ..samples::tenant("other") };
    let report = NodeReport {
        uptime_s: 61,
        ready: false,
        problems: vec!["shop.toml: line 1\u{1b}".into(), "pods: not readable".into()],
        clone_signs: vec![],
        tenants: vec![tenant, bare],
        pods: [].into(),
        unprotected: vec![],
        outside: vec![StrayReport::of("shop/lb-0", "it has the network of its node")],
        plugin: Some(PluginReport { file: "/p".into(), network: None, problem: Some("no folder".into()) }),
        counts: crate::report::Counts::default(),
        ..samples::node()
    };
    let expected = "\
agent     tencrypt-node 0.1.0, process 7, up 1 min 1 s
ready     NO: not everything is adopted and read
program   /opt/tencrypt/bin/tencrypt (6197218c)
problems  shop.toml: line 1\\u{1b}
          pods: not readable
clones    NOT noticed
plugin    /p: NOT in place: no folder
pods      none
outside   shop/lb-0: it has the network of its node

TENANT  PODS  NAMESPACES  PROBLEM
shop    1     a,b,c,d +2  files NOT in force: keys: line 3; replacement GIVEN UP: shop/web-0: not ready; \
pods are being replaced
other   0     -
";
    assert_eq!(status(&report, false), expected);
    let stray = |number: usize| StrayReport::of(&format!("shop/old-{number}"), "no keys");
    let many = NodeReport { unprotected: (0..22).map(stray).collect(), ..report.clone() };
    let text = status(&many, false);
    assert!(text.contains("UNPROTECTED  shop/old-0: no keys\n") && text.contains(" and 2 more\n"), "{text}");
    let text = status(&NodeReport { tenants: vec![], plugin: None, outside: vec![], ..report }, false);
    assert!(text.ends_with("pods      none\n\nno tenants\n") && !text.contains("plugin"), "{text}");
}

#[test]
fn documents_are_read_as_they_were_written() {
    let report = samples::node();
    assert_eq!(read_status(&status(&report, true)).unwrap(), report);
    let list = [samples::pod("shop/web-0", "shop"), waiting()];
    assert_eq!(read_pods(&pods(&list, true)).unwrap(), list);
    assert_eq!(pods(&[], true), "{\"version\":1,\"pods\":[]}\n");
}

#[test]
fn documents_of_another_version_and_other_things_are_refused_in_one_line() {
    let newer = read_status("{\"version\":2,\"node\":3}").unwrap_err();
    assert!(matches!(newer, DocumentError::Version(2)));
    assert_eq!(newer.to_string(), "the agent's document has version 2, this program reads 1");
    for text in ["", "ok\n", "{}", "{\"version\":1}", "{\"version\":1,\"pods\":{}}"] {
        let error = read_pods(text).unwrap_err().to_string();
        assert!(
            error.starts_with("the agent's document makes no sense: ") && !error.contains('\n'),
            "{error}"
        );
    }
    let more = "{\"version\":1,\"pods\":[],\"later\":true}";
    assert_eq!(read_pods(more).unwrap(), []);
}
