//! `kube verify`: two pods are made to speak, and every frame at both is looked at.

use std::{
    fs::File,
    io::{self, Read as _},
    time::{Duration, Instant},
};

use tencrypt::TunnelConfig;
use tencrypt_agent::failure::Failure;

use super::{
    agents::{Answers, agents, ask},
    command::{Reach, Verify},
    judge::{Standing, judge},
    kubectl::{Conversation, Kubectl, KubectlError},
    lists::{list, object},
    pair::{Candidate, choose, families},
    report::{Check, End, Family, State, Verdict, VerifyReport},
    status::{answer_of, pods_of},
    verdict::verdict,
};
use crate::{
    kubernetes::{
        names::LABEL,
        objects::{Namespace, Pod},
    },
    probe::{Canary, Counted, Ends, Protocol, Said, Send, Task, Watch},
    report::PodReport,
};

/// Time for which the receiver is looked at if its line to end does not come: a probe takes 7 s at most, and the way there.
const WATCH: Duration = Duration::from_secs(60);

/// A pod that is not protected, with its state and the reason.
type Other = (String, State, Option<String>);

/// Proves that two pods of the namespace speak encrypted, or that they do not.
///
/// # Errors
/// The cluster cannot be asked, or there are no two pods.
pub(crate) fn verify(reach: &Reach, verify: &Verify) -> Result<VerifyReport, Failure> {
    let kubectl = Kubectl::new(reach);
    let (candidates, others) = pods(&kubectl, reach, &verify.namespace)?;
    let wanted = (verify.from.as_deref(), verify.to.as_deref());
    let (from, to) = choose(&candidates, &others, wanted)
        .map_err(|reason| Failure::runtime(format_args!("namespace {}: {reason}", verify.namespace)))?;
    let mut checks = Vec::new();
    for family in families(from, to) {
        for protocol in Protocol::ALL {
            checks.push(check(&kubectl, (from, to), family, protocol));
        }
    }
    Ok(VerifyReport {
        encrypted: !checks.is_empty() && checks.iter().all(|check| check.verdict == Verdict::Encrypted),
        namespace: verify.namespace.clone(),
        from: from.end.clone(),
        to: to.end.clone(),
        checks,
    })
}

/// The pods of the namespace: the protected ones, and the others.
fn pods(kubectl: &Kubectl, reach: &Reach, name: &str) -> Result<(Vec<Candidate>, Vec<Other>), Failure> {
    let namespace: Namespace = object(kubectl, &format!("/api/v1/namespaces/{name}"))?;
    let Some(tenant) = namespace.metadata.labels.get(LABEL) else {
        return Err(Failure::runtime(format_args!(
            "namespace {name} has no label {LABEL}: its pods are open"
        )));
    };
    let standing = Standing { tenant: tenant.clone(), refusal: None };
    let pods: Vec<Pod> = list(kubectl, &pods_of(name), None)?;
    let mut agents = agents(kubectl, &reach.agents)?;
    agents.retain(|node, _| pods.iter().any(|pod| pod.spec.node_name == *node && !pod.spec.host_network));
    let answers = ask(kubectl, agents.values());
    let (mut candidates, mut others) = (Vec::new(), Vec::new());
    for pod in &pods {
        let node = &pod.spec.node_name;
        let Some((state, reason)) = judge(pod, &standing, answer_of(&answers, node)) else { continue };
        match (state, agents.get(node), reported(&answers, pod)) {
            (State::Protected, Some(agent), Some(report)) => {
                candidates.push(candidate(pod, &agent.metadata.name, report));
            }
            _ => others.push((pod.metadata.name.clone(), state, reason)),
        }
    }
    Ok((candidates, others))
}

/// The pod, as the agent of its node has it.
fn reported<'a>(answers: &'a Answers, pod: &Pod) -> Option<&'a PodReport> {
    let name = pod.metadata.full_name();
    answer_of(answers, &pod.spec.node_name).ok()?.pods.iter().find(|report| report.name == name)
}

fn candidate(pod: &Pod, agent: &str, report: &PodReport) -> Candidate {
    let port = report.status.as_ref().map_or(0, |status| status.network.port);
    Candidate {
        end: End {
            pod: pod.metadata.name.clone(),
            node: pod.spec.node_name.clone(),
            addresses: report.addresses.clone(),
        },
        agent: agent.to_owned(),
        id: report.id.clone(),
        port: if port == 0 { TunnelConfig::DEFAULT_PORT } else { port },
    }
}

fn check(kubectl: &Kubectl, pair: (&Candidate, &Candidate), family: Family, protocol: Protocol) -> Check {
    match observe(kubectl, pair, family, protocol) {
        Ok(((answer, refusal, source), destination)) => {
            let (verdict, problem) = verdict(answer.as_deref(), refusal.as_deref(), &source, &destination);
            let (source, destination) = (Some(source), Some(destination));
            Check { family, protocol, verdict, answer, source, destination, problem }
        }
        Err(reason) => {
            let (verdict, problem) = (Verdict::Failed, Some(reason));
            Check { family, protocol, verdict, answer: None, source: None, destination: None, problem }
        }
    }
}

/// The answer, the kernel's refusal, and the frames at the sender.
type Sent = (Option<String>, Option<String>, Counted);

/// Looks at the receiver, and meanwhile has the sender send.
fn observe(
    kubectl: &Kubectl,
    (from, to): (&Candidate, &Candidate),
    family: Family,
    protocol: Protocol,
) -> Result<(Sent, Counted), String> {
    let canary = canary().map_err(|error| format!("/dev/urandom: {error}"))?;
    let ends = |at: &Candidate, other: &Candidate| Ends {
        netns: at.id.clone(),
        own: at.addresses(family),
        other: other.addresses(family),
        port: at.port,
        canary,
    };
    let watch = Watch { ends: ends(to, from), seconds: WATCH.as_secs() };
    let begun = Instant::now();
    let mut watcher = said(kubectl.converse(&to.agent, &Task::Watch(watch).words()))?;
    let Said::Watching { closed_port } = heard(&mut watcher, Duration::ZERO)? else {
        return Err("the receiver is not looked at".to_owned());
    };
    let send = Send { ends: ends(from, to), protocol, closed_port };
    let sent = said(kubectl.exec(&from.agent, &Task::Send(send).words()))?;
    let took = begun.elapsed();
    watcher.say("end");
    let watched = heard(&mut watcher, WATCH)?;
    let (Said::Sent { answer, refusal, counted }, Said::Watched(destination)) = (read(&sent)?, watched)
    else {
        return Err("the probes have said something else than what they have seen".to_owned());
    };
    // It began after `begun`, so it cannot have ended before this.
    if took >= WATCH {
        return Err(format!(
            "the probe took {} s, and the receiver was not looked at for so long",
            took.as_secs()
        ));
    }
    Ok(((answer, refusal, counted), destination))
}

fn said<T>(answer: Result<T, KubectlError>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())
}

fn heard(watcher: &mut Conversation, more: Duration) -> Result<Said, String> {
    read(&said(watcher.next(more))?)
}

fn read(text: &str) -> Result<Said, String> {
    serde_json::from_str(text).map_err(|error| format!("a probe has answered what makes no sense: {error}"))
}

fn canary() -> io::Result<Canary> {
    let mut canary = Canary::default();
    File::open("/dev/urandom")?.read_exact(&mut canary)?;
    Ok(canary)
}
