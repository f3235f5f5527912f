//! `tencrypt check`: what `up` would do, found out without changing anything.

use std::{fmt, path::Path};

use tencrypt_tun::{CaptureError, Captured, NetNs, Survey, Surveyed};

use super::output;
use crate::{
    config::{Config, ConfigFile, Files, unprotected_reason},
    control::{self, Reply, Request, client::ClientError},
    failure::{Exit, Failure},
    keys::{certificates, credentials::Credentials, file as keyfile},
    report::{
        checked::{Checked, Finding, Verdict},
        inspected::KeyFileReport,
    },
    supervisor::{self, dns::Names, suite_fit::SuiteFit},
};

/// Shows what `up` would do with the configuration at `path`, in the namespace called `netns` if one is given.
///
/// # Errors
/// The [`Failure`] that `up` would end with.
pub(crate) fn check(path: &Path, netns: Option<&str>, json: bool) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let read = findings.take("configuration", ConfigFile::read(path), |_| path.display().to_string());
    if let Some(ConfigFile { config, files }) = read {
        contents(&config, &files, &mut findings);
        policy(&config, &mut findings);
        if let Some(netns) = netns {
            namespace(&config, &files, netns, &mut findings);
        }
    }
    let Findings { all, refused } = findings;
    output::print(&output::findings(&Checked { would_start: refused.is_none(), findings: all }, json))?;
    refused.map_or(Ok(()), Err)
}

/// Findings as they come.
#[derive(Default)]
struct Findings {
    all: Vec<Finding>,
    /// The first that keeps `up` from starting.
    refused: Option<Failure>,
}

impl Findings {
    fn add(&mut self, subject: &str, verdict: Verdict, text: impl fmt::Display) {
        self.all.push(Finding { subject: subject.to_owned(), verdict, text: text.to_string() });
    }

    fn refuse(&mut self, subject: &str, failure: impl Into<Failure>) {
        let failure = failure.into();
        self.add(subject, Verdict::Refused, &failure.reason);
        self.refused.get_or_insert(failure);
    }

    /// Adds the outcome of a step, with the words of `text` if it is well.
    fn take<T, E: Into<Failure>>(
        &mut self,
        subject: &str,
        outcome: Result<T, E>,
        text: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.add(subject, Verdict::Ok, text(&value));
                Some(value)
            }
            Err(error) => {
                self.refuse(subject, error);
                None
            }
        }
    }
}

/// Looks at the files that the configuration names.
fn contents(config: &Config, files: &Files, findings: &mut Findings) {
    findings.take("keys", keyfile::read(&files.keys), |keys| {
        format!("{}: {}", files.keys.display(), output::key_epochs(&KeyFileReport::from(keys)))
    });
    let certificates = files.ca.is_some();
    findings.take("identity", Credentials::read(files, &config.identity), |_| match certificates {
        true => "peers need a certificate of the authority".to_owned(),
        false => "the tenant's key is all that is asked for".to_owned(),
    });
    let Some(path) = &files.certificate else { return };
    let text = match certificates::read_certificate(path) {
        Ok(_) => format!("{} is of a key before: `up` makes another", path.display()),
        Err(error) => error.to_string(),
    };
    let consequence = if certificates { "; tenant traffic is dropped until one is issued" } else { "" };
    findings.add("certificate", Verdict::Note, format_args!("{text}{consequence}"));
}

/// Says what the configuration allows that somebody may not have meant.
fn policy(config: &Config, findings: &mut Findings) {
    let ranges: Vec<String> = config.network.protected.iter().map(ToString::to_string).collect();
    findings.add("ranges", Verdict::Ok, ranges.join(", "));
    let policy = &config.policy;
    for (allowed, text) in [
        (policy.unknown.name() == "plain", "unknown = \"plain\": what does not answer is spoken to in plain"),
        (!policy.enforce, "enforce = false: a socket that is bound to the interface leaves in plain"),
        (
            policy.unprotected_addresses,
            "unprotected_addresses = true: the pod may have addresses that are plain",
        ),
        (
            config.dns.external_names,
            "external_names = true: names of the tenant's own may lead outside, in plain",
        ),
        (!config.dns.capture, "capture = false: nothing is learnt from DNS; unknown addresses are asked"),
    ] {
        if allowed {
            findings.add("policy", Verdict::Note, text);
        }
    }
}

/// Looks at the namespace that `up` would protect.
fn namespace(config: &Config, files: &Files, netns: &str, findings: &mut Findings) {
    let Some(namespace) = findings.take("namespace", open(netns), |namespace| namespace.name().to_owned())
    else {
        return;
    };
    if let Err(failure) = holder(&namespace) {
        findings.refuse("namespace", failure);
    }
    let Some(survey) = findings.take("kernel", survey(config, &namespace), |_| {
        "TUN driver, netlink and nftables can be used".to_owned()
    }) else {
        return;
    };
    remains(config, &survey, findings);
    if let Some(surveyed) = &survey.interface {
        addresses(config, surveyed, findings);
    }
    let names = Names::find(config, files.resolv_conf.as_deref(), &namespace);
    findings.take("names", names, |names| match &names.project {
        _ if names.nameservers.is_empty() => "DNS is not captured".to_owned(),
        Some(project) => {
            format!("project {}, nameservers {}", project.namespace(), output::list_of(&names.nameservers))
        }
        None => format!("nameservers {}", output::list_of(&names.nameservers)),
    });
    if survey.captured != Captured::Running {
        findings.take("ports", supervisor::try_ports(config, &namespace), |(first, last)| {
            match first == last {
                true => format!("UDP {first} is free"),
                false => format!("UDP {first} to {last} are free"),
            }
        });
    }
}

fn open(netns: &str) -> Result<NetNs, Failure> {
    let namespace = NetNs::open(netns)?;
    super::up::refuse_host(&namespace)?;
    Ok(namespace)
}

/// Refuses a namespace that a running program holds.
fn holder(namespace: &NetNs) -> Result<(), Failure> {
    match control::client::ask(namespace, &Request::Status) {
        Ok(Reply::Status(status)) => {
            let reason = format_args!("`tencrypt up` runs there, process {}", status.program.pid);
            Err(Failure::new(Exit::Held, reason))
        }
        Ok(_) => Err(Failure::new(Exit::Held, "`tencrypt up` of another version runs there")),
        Err(ClientError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn survey(config: &Config, namespace: &NetNs) -> Result<Survey, Failure> {
    supervisor::try_tun_driver()?;
    let network = &config.network;
    let (interface, tun) = (supervisor::interface(&network.interface)?, supervisor::interface(&network.tun)?);
    Ok(namespace.run(|| Survey::take(interface, tun))??)
}

/// Says what of a capture is there, and what stands in its way.
fn remains(config: &Config, survey: &Survey, findings: &mut Findings) {
    if let Some(occupied) = survey.occupied {
        findings.refuse("capture", CaptureError::Occupied(occupied));
    }
    match survey.captured {
        Captured::Running if findings.refused.is_none() => {
            let reason = "a tunnel runs there: another user's, or with another TENCRYPT_RUN_DIR";
            findings.refuse("capture", Failure::runtime(reason));
        }
        Captured::Closed => {
            let text =
                "a tunnel that has gone has left the namespace CLOSED: `up` takes it over without a gap";
            findings.add("capture", Verdict::Note, text);
        }
        Captured::No if survey.device => {
            let reason =
                format_args!("a device named {} exists already: the name is in use", config.network.tun);
            findings.refuse("capture", Failure::runtime(reason));
        }
        _ => {}
    }
    if survey.interface.is_none() {
        let reason = format_args!("interface {} does not exist in the namespace", config.network.interface);
        findings.refuse("interface", Failure::runtime(reason));
    }
}

/// Looks at the pod's own addresses, and at the MTU that the suite needs.
fn addresses(config: &Config, surveyed: &Surveyed, findings: &mut Findings) {
    let Surveyed { mtu, addresses, tentative, .. } = surveyed;
    let name = &config.network.interface;
    findings.add(
        "interface",
        Verdict::Ok,
        format_args!("{name}: MTU {}, addresses {}", mtu.underlay(), output::list_of(addresses)),
    );
    if addresses.is_empty() {
        findings.add(
            "addresses",
            Verdict::Note,
            "none can be used now; protected traffic gets an error until one can",
        );
    }
    if !tentative.is_empty() {
        let text = format_args!("not usable yet: {}", output::list_of(tentative));
        findings.add("addresses", Verdict::Note, text);
    }
    let unprotected = config.unprotected(addresses);
    if unprotected.is_empty() {
        findings.add("addresses", Verdict::Ok, "each is protected, or the configuration speaks of it");
    } else if config.policy.unprotected_addresses {
        let text = format_args!("NOT protected: {}", output::list_of(&unprotected));
        findings.add("addresses", Verdict::Note, text);
    } else {
        findings.refuse("addresses", Failure::new(Exit::Usage, unprotected_reason(&unprotected)));
    }
    let suite = SuiteFit::new(config.tenant.suite, name, *mtu).report(addresses);
    match suite.problem {
        Some(problem) => findings.refuse("suite", Failure::new(Exit::Usage, problem)),
        None => findings.add(
            "suite",
            Verdict::Ok,
            format_args!("{}; MTU of {} {}", suite.name, config.network.tun, suite.mtu),
        ),
    }
}
