//! Addresses of a DNS reply, classified: from recorded bytes to facts.
//!
//! `cargo run -p tencrypt-example-veth --bin dns_classify`
#![forbid(unsafe_code)]

use std::time::Instant;

use tencrypt_dns::{Project, ResolvConf, classify_reply};
use tencrypt_example_veth::Failure;

/// As a kubelet writes it for a pod of project "shop".
const RESOLV_CONF: &[u8] = b"nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

/// A recorded query, and the recorded reply to it.
struct Recorded {
    what: &'static str,
    name: &'static [&'static str],
    answers: &'static [Answer],
}

enum Answer {
    Address([u8; 4]),
    Alias(&'static [&'static str]),
}

const RECORDED: [Recorded; 3] = [
    Recorded {
        what: "a service of the own project",
        name: &["web", "shop", "svc", "cluster", "local"],
        answers: &[Answer::Address([10, 96, 0, 80])],
    },
    Recorded {
        what: "a service of another project",
        name: &["db", "other", "svc", "cluster", "local"],
        answers: &[Answer::Address([10, 96, 0, 81])],
    },
    Recorded {
        what: "an ExternalName of the own project: the name is ours, what it leads to is not",
        name: &["mail", "shop", "svc", "cluster", "local"],
        answers: &[Answer::Alias(&["mail", "example", "com"]), Answer::Address([192, 0, 2, 25])],
    },
];

fn main() -> Result<(), Failure> {
    let resolv_conf = ResolvConf::parse(RESOLV_CONF)?;
    let project = Project::from_search(&resolv_conf.search)?;
    println!("project {} of cluster domain {}", project.namespace(), project.cluster_domain());
    for recorded in &RECORDED {
        let query = query(recorded.name);
        let reply = reply(&query, recorded);
        println!("\n{}:", recorded.what);
        for fact in classify_reply(&query, &reply, &project, Instant::now())? {
            println!("  {} is {}, says {}", fact.prefix, fact.class.as_str(), fact.source);
        }
    }
    Ok(())
}

/// RFC 1035 section 4.1: header, question.
fn query(name: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    write_name(&mut bytes, name);
    bytes.extend([0, 1, 0, 1]);
    bytes
}

fn reply(query: &[u8], recorded: &Recorded) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] = 0x85;
    bytes[7] = recorded.answers.len() as u8;
    let mut owner = recorded.name;
    for answer in recorded.answers {
        write_name(&mut bytes, owner);
        let mut data = Vec::new();
        let kind = match answer {
            Answer::Address(octets) => {
                data.extend(octets);
                1
            }
            Answer::Alias(target) => {
                write_name(&mut data, target);
                owner = target;
                5
            }
        };
        bytes.extend([0, kind, 0, 1, 0, 0, 0, 30]);
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

fn write_name(bytes: &mut Vec<u8>, labels: &[&str]) {
    for label in labels {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}
