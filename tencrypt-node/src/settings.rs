//! The agent's own settings: `/etc/tencrypt/node.toml`, every key known, every mistake named by file, line and field.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tencrypt_agent::os::files::{self, Access, ReadError};
use tencrypt_cni::list::List;

use crate::launch::Groups;

/// The file, unless the command line names another.
pub(crate) const PATH: &str = "/etc/tencrypt/node.toml";

/// The environment variable with the node's name, as the DaemonSet sets it.
pub(crate) const NODE_NAME: &str = "NODE_NAME";

/// Longest file in bytes.
const LIMIT: u64 = 1 << 20;

/// Settings of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The folder with a folder for each tenant.
    pub(crate) tenants: PathBuf,
    /// The folder with a file for each pod that no runtime tells of.
    pub(crate) pods: PathBuf,
    /// The list on disk.
    pub(crate) list: PathBuf,
    /// The socket of the CNI plugin, in the run directory if it is not named.
    pub(crate) socket: Option<PathBuf>,
    /// The namespaces whose pods are left as they are; `-` stands for pods without one.
    pub(crate) open: BTreeSet<String>,
    /// The program of the data paths; beside the agent's own if it is not named.
    pub(crate) program: Option<PathBuf>,
    /// The folder of the host into which the program is copied before it is started; it is started where it is if none is named.
    pub(crate) program_folder: Option<PathBuf>,
    /// The control group below which each data path has its own; empty: they stay in the agent's.
    pub(crate) group: String,
    /// The way in which these groups are made.
    pub(crate) groups: Groups,
    /// True if data paths are started in the namespaces of process 1, and so outlive the container that the agent may be in.
    pub(crate) host_namespaces: bool,
    /// The address of health and metrics, beside the Unix socket.
    pub(crate) listen: Option<SocketAddr>,
    /// The plugin's installation; absent: somebody else installs it.
    pub(crate) plugin: Option<PluginSettings>,
    /// The pods that the agent itself consists of, which are never protected.
    pub(crate) agent: Option<AgentPods>,
    /// The cluster that this node is of; absent: files alone say what is to be protected.
    pub(crate) kubernetes: Option<KubernetesSettings>,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KubernetesSettings {
    /// This node's name; in [`NODE_NAME`] if it is not here.
    pub(crate) node: Option<String>,
    /// The API server, `https://HOST:PORT`; what kubelet tells each container if it is not here.
    pub(crate) server: Option<String>,
    /// The file of the service account's token.
    pub(crate) token: PathBuf,
    /// The file of the authorities whose certificate the server has.
    pub(crate) ca: PathBuf,
    /// The folder with a file for each tenant, which says what namespaces it admits.
    pub(crate) tenants: PathBuf,
    /// The ConfigMap that has these files, in place of the folder.
    pub(crate) tenants_config_map: Option<ConfigMapName>,
    /// The settings of all these tenants' pods.
    pub(crate) pod: PathBuf,
    /// The domain of the cluster's names.
    pub(crate) cluster_domain: String,
    /// The nameservers of the pods; the addresses of the Service `kube-system/kube-dns` if there are none.
    pub(crate) nameservers: Vec<IpAddr>,
    /// The repair of pods that run without protection and cannot be protected where they are.
    pub(crate) repair: Repair,
    /// The key of the taint that is taken from the node once its pods are protected.
    pub(crate) startup_taint: Option<String>,
}

/// The place of a ConfigMap, `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ConfigMapName {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name in there.
    pub(crate) name: String,
}

/// The repair of pods that run without protection, besides that they are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Repair {
    /// None.
    #[default]
    None,
    /// A label, for whoever repairs them.
    Label,
    /// They are deleted, one after the other, so that their controller makes others.
    Delete,
}

/// The plugin's installation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PluginSettings {
    /// The plugin's program; beside the agent's own if it is not named.
    pub(crate) program: Option<PathBuf>,
    /// The folder of plugins.
    pub(crate) folder: PathBuf,
    /// The folder of network configurations.
    pub(crate) networks: PathBuf,
    /// The folder in which the runtime keeps results of plugins.
    pub(crate) results: PathBuf,
}

/// The pods of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentPods {
    /// Their namespace.
    pub(crate) namespace: String,
    /// The beginning of their names.
    pub(crate) pod_prefix: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tenants: "/etc/tencrypt/tenants".into(),
            pods: "/etc/tencrypt/pods".into(),
            list: tencrypt_cni::list::PATH.into(),
            socket: None,
            open: BTreeSet::new(),
            program: None,
            program_folder: None,
            group: "tencrypt".to_owned(),
            groups: Groups::default(),
            host_namespaces: true,
            listen: None,
            plugin: None,
            agent: None,
            kubernetes: None,
        }
    }
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        // Where kubelet puts a service account's files into a container:
        // https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
        let account = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
        Self {
            node: None,
            server: None,
            token: account.join("token"),
            ca: account.join("ca.crt"),
            tenants: "/etc/tencrypt/kubernetes".into(),
            tenants_config_map: None,
            pod: "/etc/tencrypt/pod.toml".into(),
            cluster_domain: "cluster.local".to_owned(),
            nameservers: Vec::new(),
            repair: Repair::default(),
            startup_taint: None,
        }
    }
}

impl TryFrom<String> for ConfigMapName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
        let is_in = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let is_name = |name: &str| (1..=253).contains(&name.len()) && name.bytes().all(is_in);
        match text.split_once('/') {
            Some((namespace, name))
                if namespace != "-" && check_namespace(namespace).is_ok() && is_name(name) =>
            {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("{text:?} is no ConfigMap's NAMESPACE/NAME")),
        }
    }
}

impl fmt::Display for ConfigMapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigMap {}/{}", self.namespace, self.name)
    }
}

impl KubernetesSettings {
    /// The node's name and the API server's address, from here or from the environment.
    ///
    /// # Errors
    /// A line: one of the two is nowhere.
    pub(crate) fn place(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<(String, String), String> {
        let node = self.node.clone().or_else(|| environment(NODE_NAME));
        let node = node.filter(|name| !name.is_empty());
        let node = node.ok_or_else(|| format!("kubernetes.node: is not here, and {NODE_NAME} is not set"))?;
        let told = || {
            // Of every container: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
            let (host, port) =
                (environment("KUBERNETES_SERVICE_HOST")?, environment("KUBERNETES_SERVICE_PORT")?);
            Some(if host.contains(':') {
                format!("https://[{host}]:{port}")
            } else {
                format!("https://{host}:{port}")
            })
        };
        let server = self.server.clone().or_else(told);
        let server = server
            .ok_or("kubernetes.server: is not here, and KUBERNETES_SERVICE_HOST and _PORT are not set")?;
        Ok((node, server))
    }

    fn check(&self) -> Result<(), String> {
        if !self.server.as_deref().is_none_or(|server| server.starts_with("https://")) {
            return Err("kubernetes.server: begins with https://, for tokens and keys go there".to_owned());
        }
        let is_label = |label: &str| check_namespace(label).is_ok() && label != "-";
        if !self.cluster_domain.split('.').all(is_label) || self.cluster_domain.len() > 200 {
            return Err(format!("kubernetes.cluster_domain: {:?} is no domain", self.cluster_domain));
        }
        let is_key = |key: &str| {
            let is_in = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
            !key.is_empty() && key.len() <= 317 && key.bytes().all(is_in)
        };
        if let Some(key) = self.startup_taint.as_deref().filter(|key| !is_key(key)) {
            return Err(format!("kubernetes.startup_taint: {key:?} is no key of a taint"));
        }
        Ok(())
    }
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self {
            program: None,
            folder: "/opt/cni/bin".into(),
            networks: "/etc/cni/net.d".into(),
            results: "/var/lib/cni/results".into(),
        }
    }
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The obstacle.
        source: ReadError,
    },
    /// Its content is wrong.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line, field and reason.
        reason: String,
    },
}

impl Settings {
    /// Reads the settings in the file at `path`; where nobody has named it, an absent file stands for the defaults.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, SettingsError> {
        let named = path.unwrap_or(Path::new(PATH));
        let text = match files::read_text(named, LIMIT, Access::Anyone) {
            Ok(text) => text,
            Err(ReadError::Absent) if path.is_none() => return Ok(Self::default()),
            Err(source) => return Err(SettingsError::Read { path: named.to_owned(), source }),
        };
        Self::parse(&text).map_err(|reason| SettingsError::Content { path: named.to_owned(), reason })
    }

    /// Reads the settings in `text`.
    ///
    /// # Errors
    /// Line, field and reason.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| located(text, &error))?;
        for namespace in &settings.open {
            check_namespace(namespace).map_err(|reason| format!("open: {namespace:?} is {reason}"))?;
        }
        let is_in_group = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !settings.group.bytes().all(is_in_group) || settings.group.len() > 64 {
            return Err(format!("group: {:?} has more than letters, digits, `-` and `_`", settings.group));
        }
        if let Some(agent) = &settings.agent {
            check_namespace(&agent.namespace)
                .map_err(|reason| format!("agent.namespace: {:?} is {reason}", agent.namespace))?;
            if agent.pod_prefix.is_empty() {
                return Err("agent.pod_prefix: is empty, so that it would be every pod's".to_owned());
            }
        }
        settings.kubernetes.as_ref().map_or(Ok(()), KubernetesSettings::check)?;
        Ok(settings)
    }

    /// The socket of the CNI plugin.
    pub(crate) fn socket_in(&self, run_dir: &Path) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| run_dir.join("node.sock"))
    }

    /// The program that stands beside the agent's own.
    ///
    /// # Errors
    /// The kernel does not say where that is.
    pub(crate) fn beside(name: &str) -> io::Result<PathBuf> {
        let own = std::env::current_exe()?;
        Ok(own.with_file_name(name))
    }
}

/// Checks the name of a Kubernetes namespace, or `-`.
///
/// # Errors
/// The reason, which follows "is".
pub(crate) fn check_namespace(name: &str) -> Result<(), String> {
    let named = (name != "-").then_some(name);
    List::new().set(named, None).map_err(|error| error.to_string())
}

/// A mistake in TOML, in one line with its line number.
pub(crate) fn located(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("line {line}: {}", error.message().replace('\n', ", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_at_all_stands_for_the_defaults() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        let plugin = Settings::parse("[plugin]\n").unwrap().plugin;
        assert_eq!(plugin, Some(PluginSettings::default()));
    }

    #[test]
    fn every_key_is_taken() {
        let settings = Settings::parse(
            "tenants = \"/t\"\npods = \"/p\"\nlist = \"/l\"\nsocket = \"/s\"\nopen = [\"default\", \"-\"]\n\
             program = \"/b/tencrypt\"\nprogram_folder = \"/host\"\ngroup = \"\"\ngroups = \"files\"\nhost_namespaces = false\nlisten = \"127.0.0.1:9842\"\n\
             [plugin]\nprogram = \"/b/tencrypt-cni\"\nfolder = \"/f\"\nnetworks = \"/n\"\nresults = \"/r\"\n\
             [agent]\nnamespace = \"tencrypt\"\npod_prefix = \"tencrypt-\"\n\
             [kubernetes]\nnode = \"n\"\nserver = \"https://a:1\"\ntoken = \"/t\"\nca = \"/c\"\ntenants = \"/k\"\n\
             tenants_config_map = \"a/b.c\"\npod = \"/p\"\n\
             cluster_domain = \"example.org\"\nnameservers = [\"10.96.0.10\"]\nrepair = \"delete\"\nstartup_taint = \"a.b/c\"\n",
        )
        .unwrap();
        assert_eq!(settings.open.len(), 2);
        assert_eq!(settings.listen, Some("127.0.0.1:9842".parse().unwrap()));
        assert_eq!(settings.plugin.unwrap().results, Path::new("/r"));
        assert_eq!(settings.agent.unwrap().pod_prefix, "tencrypt-");
        let kubernetes = settings.kubernetes.unwrap();
        assert_eq!(kubernetes.place(|_| None).unwrap(), ("n".to_owned(), "https://a:1".to_owned()));
        assert_eq!(kubernetes.tenants_config_map.unwrap().to_string(), "ConfigMap a/b.c");
        assert_eq!(kubernetes.nameservers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!((kubernetes.repair, kubernetes.startup_taint.as_deref()), (Repair::Delete, Some("a.b/c")));
    }

    #[test]
    fn a_container_knows_its_node_and_its_server_by_its_environment() {
        let kubernetes = Settings::parse("[kubernetes]\n").unwrap().kubernetes.unwrap();
        let told = |host: &'static str| {
            kubernetes.place(move |name| {
                Some(
                    match name {
                        NODE_NAME => "node1",
                        "KUBERNETES_SERVICE_HOST" => host,
                        "KUBERNETES_SERVICE_PORT" => "443",
                        _ => return None,
                    }
                    .to_owned(),
                )
            })
        };
        assert_eq!(told("10.96.0.1").unwrap().1, "https://10.96.0.1:443");
        assert_eq!(told("fd00:96::1").unwrap().1, "https://[fd00:96::1]:443");
        assert!(kubernetes.place(|_| None).unwrap_err().contains("NODE_NAME"));
        let no_server = kubernetes.place(|name| (name == NODE_NAME).then(|| "node1".to_owned()));
        assert!(no_server.unwrap_err().starts_with("kubernetes.server"));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, reason) in [
            ("tenants = \"/t\"\nopened = []\n", "line 2: unknown field `opened`"),
            ("open = [\"Shop\"]\n", "open: \"Shop\" is no name of a namespace"),
            ("group = \"a/b\"\n", "group: \"a/b\" has more"),
            ("listen = \"9842\"\n", "line 1: "),
            ("\n[plugin]\nfile = \"x\"\n", "line 3: unknown field `file`"),
            ("[agent]\nnamespace = \"tencrypt\"\n", "missing field `pod_prefix`"),
            ("[agent]\nnamespace = \"tencrypt\"\npod_prefix = \"\"\n", "agent.pod_prefix: is empty"),
            ("tenants", "line 1: "),
            ("[kubernetes]\nserver = \"http://a\"\n", "kubernetes.server: begins with https://"),
            ("[kubernetes]\ncluster_domain = \"a..b\"\n", "kubernetes.cluster_domain: \"a..b\" is no domain"),
            ("[kubernetes]\nnameservers = [\"x\"]\n", "line 2: "),
            ("[kubernetes]\nrepair = \"kill\"\n", "line 2: unknown variant `kill`"),
            ("[kubernetes]\nstartup_taint = \"a b\"\n", "kubernetes.startup_taint: \"a b\" is no key"),
        ] {
            let said = Settings::parse(text).expect_err(text);
            assert!(said.contains(reason), "{text}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
