//! Files that a person wrote: the configuration, the key file.

use std::path::Path;

use tencrypt::{
    KeyRing,
    directory::{Class, FactSource},
};
use tencrypt_agent::{
    config::{Config, ConfigFile},
    failure::Failure,
};
use tencrypt_dns::{Name, Project};

use crate::input::Input;

/// The path that the configuration is said to have. Nothing is read from there.
const PATH: &str = "/etc/tencrypt/pod.toml";

/// Reads the bytes as a configuration and as a key file, or writes a key file out of them.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        configuration(text);
        let _ = key_file(text);
    }
    let mut input = Input::new(data);
    let (tenant, root, epoch) = (input.array(), input.array(), input.byte());
    let written = KeyRing::write_file(tenant, epoch, &root);
    let read = key_file(&written);
    // Keys of one repeated byte are nobody's.
    assert_eq!(read.is_none(), root.iter().all(|byte| *byte == root[0]));
    if let Some(keys) = read {
        assert_eq!((keys.tenant_id(), keys.send_epoch()), (&tenant, epoch));
        let shown = format!("{keys:?}");
        assert!(!shown.contains(&hex(&root)) && !shown.contains(&format!("{root:?}")), "a key was printed");
    }
}

fn configuration(text: &str) {
    // Settings without a file are no more than those of a file without the names of files.
    if let Ok(given) = Config::parse_given(text) {
        settings(&given);
    }
    let ConfigFile { config, files } = match ConfigFile::parse(text, Path::new(PATH)) {
        Ok(read) => read,
        Err(error) => {
            assert!(error.line() <= text.lines().count() + 1);
            assert!(!error.reason().is_empty());
            assert!(error.to_string().starts_with(PATH));
            let shown = Failure::from(error).to_string();
            assert!(
                !shown.chars().any(char::is_control),
                "one line, nothing that a terminal obeys: {shown:?}"
            );
            return;
        }
    };
    assert!(files.keys.is_absolute());
    assert!(files.resolv_conf.is_none_or(|path| path.is_absolute()));
    settings(&config);
}

fn settings(config: &Config) {
    let network = &config.network;
    if let Some(domain) = &config.tenant.cluster_domain {
        // A name that every project can lie below, and that prints as it was written.
        let project = config.tenant.project.clone().unwrap_or_else(|| "a".repeat(63));
        assert!(Project::new(&project, domain.clone()).is_ok());
        assert_eq!(Name::from_text(&domain.to_string()).as_ref(), Ok(domain));
    }
    assert!(!network.protected.is_empty() && network.port != 0);
    assert!(network.interface != network.tun);
    for (at, range) in network.protected.iter().enumerate() {
        assert_eq!(range.trunc(), *range);
        let overlaps = |other: &ipnet::IpNet| other.contains(range) || range.contains(other);
        assert!(!network.protected[at + 1..].iter().any(overlaps));
    }
    for fact in &config.facts {
        assert_eq!((&fact.source, fact.expires), (&FactSource::Static, None));
        let protected = network.protected.iter().any(|range| range.contains(&fact.prefix));
        assert!(
            fact.class != Class::Internal || protected,
            "internal traffic outside of the protected ranges"
        );
    }
}

/// The keys in a text. A refusal says where, and never what was there.
fn key_file(text: &str) -> Option<KeyRing> {
    KeyRing::parse(text)
        .inspect_err(|error| {
            assert!(error.line() <= text.lines().count() + 1);
            let shown = error.to_string();
            let secret = |word: &&str| word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            let shows = text.split_ascii_whitespace().filter(secret).any(|word| shown.contains(word));
            assert!(!shows && !shown.chars().any(char::is_control), "{shown:?}");
        })
        .ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
