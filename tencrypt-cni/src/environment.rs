//! The variables that a runtime sets: CNI SPEC section 2 "Parameters".

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{call::Pod, failure::Failure, names};

const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const INTERFACE: &str = "CNI_IFNAME";
const ARGUMENTS: &str = "CNI_ARGS";
const PATH: &str = "CNI_PATH";

/// The variables, unread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    command: Option<OsString>,
    container: Option<OsString>,
    netns: Option<OsString>,
    interface: Option<OsString>,
    arguments: Option<OsString>,
    path: Option<OsString>,
}

/// An operation of CNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Environment {
    /// Takes the variables from wherever `variable` finds them. libcni sets all of them, also to nothing: an empty one is absent.
    pub fn of(mut variable: impl FnMut(&str) -> Option<OsString>) -> Self {
        let mut variable = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            command: variable(COMMAND),
            container: variable(CONTAINER),
            netns: variable(NETNS),
            interface: variable(INTERFACE),
            arguments: variable(ARGUMENTS),
            path: variable(PATH),
        }
    }

    /// Tells if there is a command: without one this was started by a person.
    #[must_use]
    pub fn has_command(&self) -> bool {
        self.command.is_some()
    }

    pub(crate) fn command(&self) -> Result<Command, Failure> {
        let given = text(COMMAND, self.command.as_ref())?;
        match given {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            _ => Err(invalid(COMMAND, &format!("`{given}` is none of ADD, DEL, CHECK, GC, STATUS, VERSION"))),
        }
    }

    /// The container and its interface.
    pub(crate) fn attachment(&self) -> Result<(String, String), Failure> {
        let container = named(CONTAINER, self.container.as_ref(), names::is_cni_name);
        let interface = named(INTERFACE, self.interface.as_ref(), names::is_interface);
        match (container, interface) {
            (Ok(container), Ok(interface)) => Ok((container, interface)),
            (Err(Failure::Environment { text: first }), Err(Failure::Environment { text: second })) => {
                Err(Failure::Environment { text: format!("{first}; {second}") })
            }
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        }
    }

    /// The path of the pod's network namespace.
    pub(crate) fn netns(&self) -> Result<PathBuf, Failure> {
        let path = Path::new(self.netns.as_ref().ok_or_else(|| missing(NETNS))?);
        if path.is_absolute() { Ok(path.to_owned()) } else { Err(invalid(NETNS, "no absolute path")) }
    }

    /// Checks that there are folders of plugins. None is looked for there; of GC the specification demands it.
    pub(crate) fn path(&self) -> Result<(), Failure> {
        if self.path.is_some() { Ok(()) } else { Err(missing(PATH)) }
    }

    /// The pod, by the conventions of Kubernetes' runtimes. Other pairs are other plugins' business.
    pub(crate) fn pod(&self) -> Result<Pod, Failure> {
        let mut pod = Pod::default();
        if self.arguments.is_none() {
            return Ok(pod);
        }
        let arguments = text(ARGUMENTS, self.arguments.as_ref())?;
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| invalid(ARGUMENTS, "a pair without `=`"))?;
            let (field, is_valid): (_, fn(&str) -> bool) = match key {
                "K8S_POD_NAMESPACE" => (&mut pod.namespace, names::is_namespace),
                "K8S_POD_NAME" => (&mut pod.name, names::is_pod),
                "K8S_POD_UID" => (&mut pod.uid, names::is_pod),
                _ => continue,
            };
            if !is_valid(value) {
                return Err(invalid(ARGUMENTS, &format!("{key} is `{value}`")));
            }
            // Which of two would be meant nobody can say, and one of them may be left unprotected.
            if field.replace(value.to_owned()).is_some() {
                return Err(invalid(ARGUMENTS, &format!("{key} stands there twice")));
            }
        }
        Ok(pod)
    }
}

fn named(name: &str, value: Option<&OsString>, is_valid: fn(&str) -> bool) -> Result<String, Failure> {
    let given = text(name, value)?;
    if is_valid(given) { Ok(given.to_owned()) } else { Err(invalid(name, &format!("is `{given}`"))) }
}

fn text<'v>(name: &str, value: Option<&'v OsString>) -> Result<&'v str, Failure> {
    let value = value.ok_or_else(|| missing(name))?;
    value.to_str().ok_or_else(|| invalid(name, "no UTF-8"))
}

fn missing(name: &str) -> Failure {
    invalid(name, "missing")
}

fn invalid(name: &str, reason: &str) -> Failure {
    Failure::Environment { text: format!("{name}: {reason}") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::of(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn pod(arguments: &str) -> Result<Pod, Failure> {
        environment(&[(ARGUMENTS, arguments)]).pod()
    }

    fn said<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        let failure = result.unwrap_err();
        assert_eq!(failure.code(), 4);
        failure.to_string()
    }

    #[test]
    fn commands_are_those_of_the_specification() {
        let command = |value| environment(&[(COMMAND, value)]).command();
        assert!(matches!(command("ADD"), Ok(Command::Add)));
        assert!(matches!(command("STATUS"), Ok(Command::Status)));
        for value in ["add", "ADD ", "FORMAT", "ä"] {
            assert!(said(command(value)).starts_with("CNI_COMMAND: "), "{value}");
        }
        assert_eq!(said(command("")), "CNI_COMMAND: missing");
        assert!(!environment(&[(COMMAND, "")]).has_command() && environment(&[(COMMAND, "x")]).has_command());
    }

    #[test]
    fn an_attachment_names_every_variable_that_is_wrong() {
        let attachment = |container, interface| {
            environment(&[(CONTAINER, container), (INTERFACE, interface)]).attachment()
        };
        assert_eq!(attachment("0a-1.b_", "eth0").unwrap(), ("0a-1.b_".to_owned(), "eth0".to_owned()));
        assert_eq!(said(attachment("", "eth0")), "CNI_CONTAINERID: missing");
        assert_eq!(said(attachment("../a", "")), "CNI_CONTAINERID: is `../a`; CNI_IFNAME: missing");
        assert_eq!(said(attachment("a", "a/b")), "CNI_IFNAME: is `a/b`");
        let bytes = Environment::of(|_| Some(OsString::from_vec(vec![0xff])));
        assert_eq!(said(bytes.attachment()), "CNI_CONTAINERID: no UTF-8; CNI_IFNAME: no UTF-8");
        assert_eq!(said(bytes.command()), "CNI_COMMAND: no UTF-8");
        assert_eq!(said(bytes.pod()), "CNI_ARGS: no UTF-8");
    }

    #[test]
    fn the_namespace_is_an_absolute_path() {
        let netns = |value| environment(&[(NETNS, value)]).netns();
        assert_eq!(netns("/run/netns/a").unwrap(), Path::new("/run/netns/a"));
        assert_eq!(said(netns("")), "CNI_NETNS: missing");
        assert_eq!(said(netns("netns/a")), "CNI_NETNS: no absolute path");
        assert_eq!(said(environment(&[]).path()), "CNI_PATH: missing");
    }

    #[test]
    fn the_pod_is_what_kubernetes_and_podman_call_it() {
        let some = |text: &str| Some(text.to_owned());
        let kubernetes = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=0a;K8S_POD_UID=0-1";
        let found = pod(kubernetes).unwrap();
        assert_eq!((found.namespace, found.name, found.uid), (some("shop"), some("web-0"), some("0-1")));
        let found = pod("IgnoreUnknown=1;K8S_POD_NAME=Web_1;").unwrap();
        assert_eq!((found.namespace, found.name, found.uid), (None, some("Web_1"), None));
        assert_eq!(pod("").unwrap(), Pod::default());
        assert_eq!(pod("A=;B=c=d").unwrap(), Pod::default());
    }

    #[test]
    fn arguments_that_leave_the_namespace_open_are_refused() {
        assert_eq!(said(pod("K8S_POD_NAMESPACE")), "CNI_ARGS: a pair without `=`");
        assert_eq!(said(pod("K8S_POD_NAMESPACE=")), "CNI_ARGS: K8S_POD_NAMESPACE is ``");
        assert_eq!(said(pod("K8S_POD_NAMESPACE=Shop")), "CNI_ARGS: K8S_POD_NAMESPACE is `Shop`");
        assert_eq!(said(pod("K8S_POD_NAMESPACE=-")), "CNI_ARGS: K8S_POD_NAMESPACE is `-`");
        let twice = "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b";
        assert_eq!(said(pod(twice)), "CNI_ARGS: K8S_POD_NAMESPACE stands there twice");
        assert_eq!(said(pod("K8S_POD_UID=a b")), "CNI_ARGS: K8S_POD_UID is `a b`");
    }
}
