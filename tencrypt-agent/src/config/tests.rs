use std::{net::IpAddr, num::NonZeroU8, path::Path};

use tencrypt::{
    CipherSuite, ExternalAuthority, UnansweredPolicy,
    directory::{Class, Fact, FactSource},
    nat::ServicePort,
};

use super::{offload::Offload, *};

const SMALLEST: &str = "[tenant]\nkey_file = \"k\"\n[network]\nprotected = [\"10.0.0.0/8\", \"fd00::/16\"]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_file(text).map(|file| file.config)
}

fn parse_file(text: &str) -> Result<ConfigFile, ConfigError> {
    ConfigFile::parse(text, Path::new("/etc/tencrypt/c.toml"))
}

fn refused(text: &str) -> (usize, String, String) {
    let error = parse(text).expect_err(text);
    assert!(!error.to_string().contains('\n'), "{error}");
    (error.line(), error.field().to_owned(), error.reason().to_owned())
}

/// Each row: text, line, field, part of the reason.
fn assert_refused(rows: &[(&str, usize, &str, &str)]) {
    for (text, line, field, reason) in rows {
        let found = refused(text);
        assert_eq!((found.0, found.1.as_str()), (*line, *field), "{text}\n{found:?}");
        assert!(found.2.contains(reason), "{text}\n{found:?}");
    }
}

/// The smallest configuration with `fact` behind it; the fact's first line is line 5.
fn with_fact(fact: &str) -> String {
    format!("{SMALLEST}{fact}")
}

#[test]
fn the_smallest_configuration_gets_the_documented_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(
        config,
        Config {
            tenant: Tenant { project: None, cluster_domain: None, suite: CipherSuite::MlKem768Aes256Gcm },
            network: Network {
                lanes: NonZeroU8::MIN,
                max_peers: 1_024,
                interface: "eth0".into(),
                tun: "tenc0".into(),
                port: 8362,
                protected: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()],
                exempt: vec![],
                offload: Offload::All,
            },
            identity: Identity::default(),
            policy: Policy {
                unknown: UnansweredPolicy::Drop,
                external: ExternalAuthority::Dns,
                enforce: true,
                unprotected_addresses: false,
            },
            dns: Dns { capture: true, upstream: vec![], rate: 5_000, external_names: false },
            facts: vec![],
        }
    );
    let files = Files {
        keys: "/etc/tencrypt/k".into(),
        ca: None,
        certificate: None,
        revoked: None,
        resolv_conf: None,
    };
    assert_eq!(parse_file(SMALLEST).unwrap().files, files);
}

#[test]
fn the_identity_is_read_and_judged() {
    let with = |lines: &str| parse_file(&format!("{SMALLEST}[identity]\n{lines}"));
    let read =
        with("ca = \"ca.pub\"\ncertificate = \"/run/c\"\nrevoked = \"r\"\nservices = [\"10.96.0.0/12\"]\n");
    let ConfigFile { config, files } = read.unwrap();
    assert_eq!(config.identity, Identity { services: vec!["10.96.0.0/12".parse().unwrap()] });
    assert_eq!(files.ca.as_deref(), Some(Path::new("/etc/tencrypt/ca.pub")));
    assert_eq!(files.certificate.as_deref(), Some(Path::new("/run/c")));
    assert_eq!(files.revoked.as_deref(), Some(Path::new("/etc/tencrypt/r")));
    assert!(with("certificate = \"c\"\n").is_ok(), "presented before it is asked for");
    for (lines, field, reason) in [
        ("ca = \"x\"\n", "identity.certificate", "missing"),
        ("ca = \"\"\n", "identity.ca", "is empty"),
        ("certificate = 7\n", "identity.certificate", "expected a string"),
        ("revoked = \"r\"\n", "identity.revoked", "only with `ca`"),
        ("services = [\"10.96.0.0/12\"]\n", "identity.services", "only with `ca`"),
        ("services = [\"192.0.2.0/24\"]\n", "identity.services[1]", "outside of network.protected"),
        ("key = \"k\"\n", "identity.key", "unknown key"),
    ] {
        let error = with(lines).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
        assert!(error.reason().contains(reason), "{error}");
    }
}

/// Every key there is.
const EVERY_KEY: &str = r#"
[tenant]
project = "shop"
cluster_domain = "k8s.corp.example"
key_file = "/run/secrets/tenant.key"
suite = "chacha20-poly1305"
[network]
interface = "net1"
tun = "tun7"
port = 0x2001
protected = ["10.96.0.0/12", "10.244.0.0/16"]
exempt = ["10.244.1.0/31"]
lanes = 16
max_peers = 4_096
offload = "udp"
[policy]
unknown = "plain"
external = "directory"
enforce = false
unprotected_addresses = true
[dns]
capture = false
upstream = ["10.96.0.10", "[fd00::a]:5353"]
resolv_conf = "resolv.conf"
rate = 20_000
external_names = true
[[fact]]
prefix = "10.244.2.7"
class = "internal"
[[fact]]
prefix = "10.96.7.7"
class = "internal"
endpoints = ["10.244.2.7", "10.244.2.8"]
ports = { 443 = 8443, 80 = 8080 }
[[fact]]
prefix = "0.0.0.0/0"
class = "external"
"#;

#[test]
fn every_key_is_read() {
    let ConfigFile { config, files } = parse_file(EVERY_KEY).unwrap();
    assert_eq!(config.tenant.project.as_deref(), Some("shop"));
    assert_eq!(
        config.tenant.cluster_domain.map(|name| name.to_string()).as_deref(),
        Some("k8s.corp.example")
    );
    assert_eq!(files.keys, Path::new("/run/secrets/tenant.key"));
    assert_eq!((config.network.interface.as_str(), config.network.tun.as_str()), ("net1", "tun7"));
    assert_eq!((config.network.port, config.network.exempt.len()), (0x2001, 1));
    assert_eq!(config.network.max_peers, 4_096);
    assert_eq!((config.tenant.suite, config.network.offload), (CipherSuite::ChaCha20Poly1305, Offload::Udp));
    assert_eq!(
        config.policy,
        Policy {
            unknown: UnansweredPolicy::Plain,
            external: ExternalAuthority::Directory,
            enforce: false,
            unprotected_addresses: true,
        }
    );
    assert!(!config.dns.capture);
    assert_eq!(config.dns.upstream, ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:5353".parse().unwrap()]);
    assert_eq!(files.resolv_conf.as_deref(), Some(Path::new("/etc/tencrypt/resolv.conf")));
    assert_eq!((config.dns.rate, config.dns.external_names), (20_000, true));
    let mut service =
        Fact::new("10.96.7.7".parse::<IpAddr>().unwrap(), Class::Internal, FactSource::Static, None);
    service.endpoints = Box::new(["10.244.2.7".parse().unwrap(), "10.244.2.8".parse().unwrap()]);
    service.ports = Box::new([ServicePort::new(80, 8080), ServicePort::new(443, 8443)]);
    assert_eq!(config.facts[1], service);
    assert_eq!(config.facts.len(), 3);
}

#[test]
fn missing_keys_are_named() {
    assert_refused(&[
        ("", 1, "network.protected", "missing"),
        ("[network]\nprotected = [\"10.0.0.0/8\"]\n", 1, "tenant.key_file", "missing"),
        ("\n\n[tenant]\n[network]\nprotected = [\"10.0.0.0/8\"]\n", 3, "tenant.key_file", "missing"),
        ("\n[tenant]\nkey_file = \"k\"\n[network]\n", 4, "network.protected", "missing"),
        (&with_fact("[[fact]]\nclass = \"internal\"\n"), 5, "fact[1].prefix", "missing"),
        (&with_fact("[[fact]]\nprefix = \"10.0.0.1\"\n"), 5, "fact[1].class", "missing"),
    ]);
}

#[test]
fn unknown_keys_are_named_with_those_that_are_known() {
    assert_refused(
        &[
            ("tenants = 1\n", 1, "tenants", "known here: tenant, network"),
            (
                "[tenant]\nkey_file = \"k\"\nproyect = \"shop\"\n",
                3,
                "tenant.proyect",
                "project, cluster_domain, key_file",
            ),
            (&with_fact("[policy]\nunkown = \"drop\"\n"), 6, "policy.unkown", "unknown, external, enforce"),
            (&with_fact("[dns]\nserver = \"x\"\n"), 6, "dns.server", "upstream"),
            (&with_fact("[[fact]]\nprefix = \"10.0.0.1\"\nkind = 1\n"), 7, "fact[1].kind", "class"),
        ]
        .map(|(text, line, field, reason)| (text, line, field, reason)),
    );
}

#[test]
fn repeated_keys_and_sections_are_named() {
    assert_refused(&[
        ("[tenant]\nkey_file = \"k\"\nkey_file = \"l\"\n", 3, "key_file", "duplicate key"),
        ("[tenant]\nkey_file = \"k\"\n[network]\n[tenant]\n", 4, "tenant", "duplicate key"),
    ]);
}

#[test]
fn mistyped_values_are_named() {
    assert_refused(&[
        ("tenant = 1\n", 1, "tenant", "expected a table, found integer"),
        ("network = 1\n", 1, "network", "expected a table, found integer"),
        (
            "[network]\nprotected = \"10.0.0.0/8\"\n",
            2,
            "network.protected",
            "expected an array, found string",
        ),
        ("[network]\nprotected = [\"10.0.0.0/8\", 7]\n", 2, "network.protected[2]", "expected a string"),
        ("[network]\nport = \"8362\"\n", 2, "network.port", "expected a port from 1 to 65535, found string"),
        ("[network]\ninterface = [\"eth0\"]\n", 2, "network.interface", "expected a string, found array"),
        (&with_fact("[policy]\nenforce = \"yes\"\n"), 6, "policy.enforce", "expected true or false"),
        (
            &with_fact("[policy]\nunprotected_addresses = 1\n"),
            6,
            "policy.unprotected_addresses",
            "expected true or false",
        ),
        (&with_fact("[dns]\ncapture = 1\n"), 6, "dns.capture", "expected true or false, found integer"),
        (&with_fact("[fact]\nprefix = \"10.0.0.1\"\n"), 5, "fact", "expected an array, found table"),
    ]);
}

#[test]
fn broken_toml_is_named_by_line() {
    assert_refused(&[
        ("[tenant\n", 1, "", "table"),
        ("[tenant]\nkey_file = k\n", 2, "", ""),
        ("[tenant]\n\nkey_file = \"k\n", 3, "", "string"),
        ("a = \u{0}\n", 1, "", ""),
    ]);
    let deep = format!("a = {}", "[".repeat(100_000));
    assert_eq!(refused(&deep).0, 1);
}

#[test]
fn a_byte_order_mark_and_crlf_are_fine() {
    let text = format!("\u{feff}{}", SMALLEST.replace('\n', "\r\n"));
    assert_eq!(parse(&text), parse(SMALLEST));
    assert_refused(
        &[("\u{feff}[network]\r\n\r\nport = 0\r\n", 3, "network.port", "found 0")]
            .map(|(text, line, field, reason)| (text, line, field, reason)),
    );
}

#[test]
fn fewer_peers_than_lanes_of_four_and_more_than_counted_are_refused() {
    for most in ["0", "63", "65536", "-1"] {
        let text = format!("[network]\nprotected = [\"10.0.0.0/8\"]\nmax_peers = {most}\n");
        assert_refused(&[(&text, 3, "network.max_peers", "expected 64 to 65535")]);
    }
}

#[test]
fn ports_and_lanes_out_of_range_are_refused() {
    for (port, found) in [("0", "found 0"), ("65536", "found 65536"), ("-1", "found -1")] {
        let text = format!("[network]\nprotected = [\"10.0.0.0/8\"]\nport = {port}\n");
        assert_refused(&[(&text, 3, "network.port", found)]);
    }
    for lanes in ["0", "17", "-1", "256", "99999999999999999999"] {
        let text = format!("[network]\nprotected = [\"10.0.0.0/8\"]\nlanes = {lanes}\n");
        let found = refused(&text);
        assert_eq!((found.0, found.1.as_str()), (3, "network.lanes"), "{lanes}: {found:?}");
    }
    assert!(refused("[network]\nlanes = 17\n").2.contains("expected 1 to 16, found 17"));
    let text = "[network]\nprotected = [\"10.0.0.0/8\"]\nport = 65534\nlanes = 3\n";
    assert_refused(&[(text, 4, "network.lanes", "more than there are")]);
}

#[test]
fn names_that_the_kernel_would_not_take_are_refused() {
    for name in ["", "sixteen-bytes-xx", "a/b", "a b", "..", "eth%d", "a:1", "all", "lo", "é"] {
        for key in ["interface", "tun"] {
            let text = format!("[network]\n{key} = \"{name}\"\nprotected = [\"10.0.0.0/8\"]\n");
            assert_refused(&[(&text, 2, &format!("network.{key}"), "")]);
        }
    }
    let text = |interface: &str| SMALLEST.replace("protected", &format!("{interface}\nprotected"));
    assert!(parse(&text("interface = \"fifteen-bytes-x\"")).is_ok());
    assert_refused(&[
        (&text("interface = \"tenc0\""), 4, "network.interface", "both"),
        (&text("tun = \"eth0\""), 4, "network.tun", "both"),
        (&text("interface = \"a\"\ntun = \"a\""), 5, "network.tun", "both"),
    ]);
}

#[test]
fn ranges_that_overlap_or_mean_something_else_are_refused() {
    let protected = |ranges: &str| format!("[network]\nprotected = [{ranges}]\n");
    assert_refused(&[
        (&protected(""), 2, "network.protected", "nothing would be protected"),
        (&protected("\"10.0.0.0/8\", \"10.96.0.0/12\""), 2, "network.protected[2]", "overlaps 10.0.0.0/8"),
        (&protected("\"10.96.0.0/12\", \"10.0.0.0/8\""), 2, "network.protected[2]", "overlaps 10.96.0.0/12"),
        (&protected("\"fd00::/64\", \"fd00::/64\""), 2, "network.protected[2]", "overlaps"),
        (&protected("\"10.96.0.1/12\""), 2, "network.protected[1]", "did you mean 10.96.0.0/12?"),
        (&protected("\"fd00::1/64\""), 2, "network.protected[1]", "did you mean fd00::/64?"),
        (&protected("\"10.0.0.0/33\""), 2, "network.protected[1]", "found \"10.0.0.0/33\""),
        (&protected("\"10.0.0/8\""), 2, "network.protected[1]", "expected an address or a range"),
        (&protected("\"\""), 2, "network.protected[1]", "expected an address or a range"),
        (&protected("\"10.0.0.0/8 \""), 2, "network.protected[1]", "expected an address or a range"),
        (&protected("\"0.0.0.0/0\""), 2, "network.protected[1]", "everything"),
        (&protected("\"::/0\""), 2, "network.protected[1]", "everything"),
        (&protected("\"127.0.0.0/8\""), 2, "network.protected[1]", "no addresses of pods"),
        (&protected("\"224.0.0.0/4\""), 2, "network.protected[1]", "no addresses of pods"),
        (&protected("\"fe80::/64\""), 2, "network.protected[1]", "link-local"),
        (&protected("\"169.254.0.0/16\""), 2, "network.protected[1]", "link-local"),
        (
            "[network]\nprotected = [\"10.0.0.0/8\"]\nexempt = [\"10.0.0.1\", \"10.0.0.0/24\"]\n",
            3,
            "network.exempt[2]",
            "overlaps 10.0.0.1/32",
        ),
    ]);
}

#[test]
fn a_mistake_in_a_long_array_is_named_by_its_own_line() {
    let text = "[network]\nprotected = [\n  \"10.0.0.0/8\", # pods\n\n  \"172.16.0.1/12\",\n]\n";
    assert_refused(&[(text, 5, "network.protected[2]", "host bits")]);
}

#[test]
fn a_list_has_an_end() {
    let ranges = |count: u32| -> String {
        (0..count).map(|n| format!("\"10.{}.{}.0/24\", ", n >> 8, n & 255)).collect()
    };
    let text = |count| SMALLEST.replace("\"10.0.0.0/8\", ", &ranges(count));
    assert_eq!(parse(&text(1_023)).unwrap().network.protected.len(), 1_024);
    assert_refused(&[(&text(1_024), 4, "network.protected[1025]", "more than 1024 entries")]);
}

#[test]
fn policies_that_do_not_exist_are_refused() {
    assert_refused(&[
        (
            &with_fact("[policy]\nunknown = \"allow\"\n"),
            6,
            "policy.unknown",
            "expected \"drop\" or \"plain\", found \"allow\"",
        ),
        (&with_fact("[policy]\nunknown = true\n"), 6, "policy.unknown", "expected a string"),
        (&with_fact("[policy]\nexternal = \"DNS\"\n"), 6, "policy.external", "\"dns\" or \"directory\""),
    ]);
}

#[test]
fn projects_that_are_no_label_are_refused() {
    for project in ["", "Shop", "a.b", "-a", "a-", "a_b", "\\u001b[2J", &"a".repeat(64)] {
        let text = SMALLEST.replace("key_file", &format!("project = \"{project}\"\nkey_file"));
        assert_refused(&[(&text, 2, "tenant.project", "no name of a project")]);
    }
    assert_refused(&[(&SMALLEST.replace("\"k\"", "\"\""), 2, "tenant.key_file", "is empty")]);
}

#[test]
fn cluster_domains_that_are_no_name_are_refused() {
    let with = |domain: &str| SMALLEST.replace("key_file", &format!("cluster_domain = {domain}\nkey_file"));
    for domain in
        ["", ".", "Cluster.local", "a..b", ".a", "a_b", "-a.b", "a-", "a b", "\\u001b[2J", "a\\\\.b"]
    {
        assert_refused(&[(
            &with(&format!("{domain:?}").replace("\\\\", "\\")),
            2,
            "tenant.cluster_domain",
            "no domain name",
        )]);
    }
    let [label, long] = [64, 60].map(|len| "a".repeat(len));
    assert_refused(&[
        (&with(&format!("\"{label}\"")), 2, "tenant.cluster_domain", "no domain name"),
        (&with(&format!("\"{}\"", [&*long; 4].join("."))), 2, "tenant.cluster_domain", "too long"),
        (&with("7"), 2, "tenant.cluster_domain", "expected a string, found integer"),
    ]);
    for domain in ["cluster.local", "cluster.local.", "local", "1.2"] {
        assert!(parse(&with(&format!("{domain:?}"))).is_ok(), "{domain}");
    }
}

#[test]
fn nameservers_that_are_none_are_refused() {
    for server in ["", "dns.example", "10.0.0.1:0", "0.0.0.0", "224.0.0.1", "fd00::1:53:x"] {
        let text = with_fact(&format!("[dns]\nupstream = [\"{server}\"]\n"));
        assert_refused(&[(&text, 6, "dns.upstream[1]", "expected a nameserver's address")]);
    }
    let twice = with_fact("[dns]\nupstream = [\"10.0.0.1\", \"10.0.0.1:53\"]\n");
    assert_refused(&[(&twice, 6, "dns.upstream[2]", "there already")]);
    // A resolver on the node, as systemd-resolved and NodeLocal DNSCache have it.
    assert!(parse(&with_fact("[dns]\nupstream = [\"127.0.0.53\", \"169.254.20.10\"]\n")).is_ok());
}

#[test]
fn a_rate_of_none_or_of_too_many_is_refused() {
    let expected = "expected a number a second from 1 to 1000000, found";
    for rate in ["0", "-1", "1000001", "4294967297", "\"fast\"", "1.5"] {
        let text = with_fact(&format!("[dns]\nrate = {rate}\n"));
        assert_refused(&[(&text, 6, "dns.rate", expected)]);
    }
    for (rate, read) in [("1", 1), ("1_000_000", 1_000_000), ("0x10", 16)] {
        assert_eq!(parse(&with_fact(&format!("[dns]\nrate = {rate}\n"))).unwrap().dns.rate, read);
    }
}

#[test]
fn facts_that_contradict_themselves_are_refused() {
    let fact = |lines: &str| with_fact(&format!("[[fact]]\n{lines}"));
    let service = |lines: &str| fact(&format!("prefix = \"10.0.0.9\"\nclass = \"internal\"\n{lines}"));
    assert_refused(&[
        (
            &fact("prefix = \"10.0.0.300\"\nclass = \"internal\"\n"),
            6,
            "fact[1].prefix",
            "expected an address",
        ),
        (
            &fact("prefix = \"10.0.0.1/24\"\nclass = \"internal\"\n"),
            6,
            "fact[1].prefix",
            "did you mean 10.0.0.0/24",
        ),
        (&fact("prefix = \"10.0.0.1\"\nclass = \"Internal\"\n"), 7, "fact[1].class", "\"exempt\""),
        (&fact("prefix = \"192.0.2.1\"\nclass = \"internal\"\n"), 6, "fact[1].prefix", "outside"),
        (&service("endpoints = [\"10.0.0\"]\n"), 8, "fact[1].endpoints[1]", "expected an address"),
        (&service("endpoints = [\"fd00::1\"]\n"), 8, "fact[1].endpoints[1]", "differ in family"),
        (&service("endpoints = [\"192.0.2.1\"]\n"), 8, "fact[1].endpoints[1]", "outside"),
        (&service("endpoints = [\"224.0.0.1\"]\n"), 8, "fact[1].endpoints[1]", "no address of a pod"),
        (&service("endpoints = [\"10.0.0.1\", \"10.0.0.1\"]\n"), 8, "fact[1].endpoints[2]", "there already"),
        (&service("ports = { 80 = 8080 }\n"), 8, "fact[1].ports", "need endpoints"),
        (&service("endpoints = [\"10.0.0.1\"]\nports = { 0 = 80 }\n"), 9, "fact[1].ports.0", "no port"),
        (&service("endpoints = [\"10.0.0.1\"]\nports = { 080 = 80 }\n"), 9, "fact[1].ports.080", "no port"),
        (
            &service("endpoints = [\"10.0.0.1\"]\nports = { 65536 = 80 }\n"),
            9,
            "fact[1].ports.65536",
            "no port",
        ),
        (&service("endpoints = [\"10.0.0.1\"]\nports = { 80 = 0 }\n"), 9, "fact[1].ports.80", "found 0"),
        (
            &service("endpoints = [\"10.0.0.1\"]\nports = { 80 = 70000 }\n"),
            9,
            "fact[1].ports.80",
            "found 70000",
        ),
        (
            &fact("prefix = \"10.0.0.9\"\nclass = \"external\"\nendpoints = [\"10.0.0.1\"]\n"),
            8,
            "fact[1].endpoints",
            "only an internal service",
        ),
        (
            &fact("prefix = \"10.0.0.0/24\"\nclass = \"internal\"\nendpoints = [\"10.0.0.1\"]\n"),
            8,
            "fact[1].endpoints",
            "one address",
        ),
        (
            &with_fact(&"[[fact]]\nprefix = \"10.0.0.1\"\nclass = \"external\"\n".repeat(2)),
            9,
            "fact[2].prefix",
            "has a fact already",
        ),
    ]);
}

#[test]
fn an_error_reads_as_file_line_field_and_reason() {
    let error = parse("[network]\nport = 0\nprotected = [\"10.0.0.0/8\"]\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/tencrypt/c.toml:2: network.port: expected a port from 1 to 65535, found 0"
    );
}

#[test]
fn what_the_agent_gives_names_no_files() {
    let settings = SMALLEST.replace("key_file = \"k\"\n", "project = \"shop\"\n");
    let services = format!("{settings}[identity]\nservices = [\"10.96.0.0/12\"]\n");
    let config = Config::parse_given(&services).expect("the authority's key comes beside it");
    assert_eq!(config.identity.services, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!(config.tenant.project.as_deref(), Some("shop"));
    for (section, key) in [
        ("tenant", "key_file"),
        ("identity", "ca"),
        ("identity", "certificate"),
        ("identity", "revoked"),
        ("dns", "resolv_conf"),
    ] {
        let text = match section {
            "tenant" => settings.replace("[tenant]\n", &format!("[tenant]\n{key} = \"f\"\n")),
            _ => format!("{settings}[{section}]\n{key} = \"f\"\n"),
        };
        let error = Config::parse_given(&text).expect_err(key);
        assert_eq!(error.field(), format!("{section}.{key}"));
        assert!(error.to_string().starts_with("configuration of the node's agent"), "{error}");
        assert!(error.reason().contains("names a file"), "{error}");
    }
    let error = Config::parse_given(&format!("{settings}[policy]\nunknown = \"plain\"\n")).unwrap_err();
    assert_eq!(error.field(), "policy.unknown");
}
