//! Objects of the Kubernetes API, as far as they are read: other fields are passed over, and absent ones have their default.
//!
//! Names and meanings are those of the API reference of Kubernetes: `v1` of the core, `v1` and `v1beta1` of
//! `discovery.k8s.io`. The API server writes `null` for some lists that are empty, so that is read as empty, too.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// The beginning of the names of annotations that are read here.
const OWN: &str = "tencrypt.io/";

/// Label of a slice with the name of its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Objects of one kind, those of a namespace side by side.
pub(crate) type Store<T> = BTreeMap<Key, T>;

/// Name of an object among those of its kind. Ordered by namespace first, so that a namespace is a range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its namespace; empty for what has none, as nodes.
    pub(crate) namespace: String,
    /// Its name there.
    pub(crate) name: String,
}

impl Key {
    /// The key of the object with this metadata.
    pub(crate) fn of(meta: &Meta) -> Self {
        Self { namespace: meta.namespace.clone(), name: meta.name.clone() }
    }
}

/// Returns the objects of one namespace, by name. The cost is theirs, whatever else there is.
pub(crate) fn in_namespace<'s, T>(
    store: &'s Store<T>,
    namespace: &'s str,
) -> impl Iterator<Item = (&'s Key, &'s T)> {
    let first = Key { namespace: namespace.to_owned(), name: String::new() };
    store.range(first..).take_while(move |(key, _)| key.namespace == namespace)
}

/// An object with metadata.
pub(crate) trait Object: DeserializeOwned {
    /// Its metadata.
    fn meta(&self) -> &Meta;
}

/// Metadata of an object (`ObjectMeta`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Meta {
    /// Name, of its own among the objects of its kind in the namespace.
    pub(crate) name: String,
    /// Namespace; empty for what has none.
    pub(crate) namespace: String,
    /// Id, which another object of the same name does not have.
    pub(crate) uid: String,
    /// Version, which is compared for equality alone.
    pub(crate) resource_version: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations of tencrypt's own. Others, as the copy of the whole object that `kubectl apply` leaves, are worth no memory.
    #[serde(deserialize_with = "annotations")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Time at which its end was asked for, as RFC 3339 has it.
    pub(crate) deletion_timestamp: Option<String>,
    /// The object that makes another one when this is gone.
    #[serde(rename = "ownerReferences", deserialize_with = "controller")]
    pub(crate) controller: Option<Owner>,
}

/// An owner of an object (`OwnerReference`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Owner {
    /// The kind.
    pub(crate) kind: String,
    /// The id.
    pub(crate) uid: String,
    controller: bool,
}

impl Meta {
    /// The name with the namespace, `NAMESPACE/NAME`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigMap {
    metadata: Meta,
    /// Texts by the names of files.
    #[serde(deserialize_with = "nullable")]
    pub(crate) data: BTreeMap<String, String>,
}

/// The objects of an answer.
#[cfg(test)]
#[derive(Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub(crate) struct List<T> {
    /// They.
    pub(crate) items: Vec<T>,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    /// Its metadata.
    pub(crate) metadata: Meta,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    /// Its metadata.
    pub(crate) metadata: Meta,
    /// The wanted state.
    pub(crate) spec: PodSpec,
    /// The state.
    pub(crate) status: PodStatus,
}

/// Of a pod, what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    /// Node that it runs on; empty until there is one.
    pub(crate) node_name: String,
    /// True if it has the node's own network namespace, and no address of its own.
    pub(crate) host_network: bool,
}

/// Of a pod, what is so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub(crate) phase: String,
    /// Its first address; empty until there is one.
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: String,
    /// Its addresses, the first among them: one of each family at most.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub(crate) pod_ips: Vec<PodIp>,
    /// Its containers that have been started.
    #[serde(deserialize_with = "nullable")]
    pub(crate) container_statuses: Vec<ContainerStatus>,
}

impl PodStatus {
    /// Its addresses: the first one stands in both fields, and may be here twice.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let texts = self.pod_ips.iter().map(|listed| &listed.ip).chain([&self.pod_ip]);
        texts.filter_map(|text| text.parse().ok())
    }
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerStatus {
    /// The runtime's name and the container's id there, as `containerd://ID`; empty until there is one.
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    state: ContainerState,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct ContainerState {
    running: Option<Running>,
}

/// Something is there; nothing of it is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Running {}

impl ContainerStatus {
    /// Tells if it runs. Its pod's phase stays `Running` where no container does, as behind a restart of the node.
    pub(crate) fn is_running(&self) -> bool {
        self.state.running.is_some()
    }
}

/// An address of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    /// The address.
    pub(crate) ip: String,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    /// Its metadata.
    pub(crate) metadata: Meta,
    /// The wanted state.
    pub(crate) spec: ServiceSpec,
}

/// Of a Service, what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its first virtual address; `None` for a headless one.
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: String,
    /// Its virtual addresses, the first among them: one of each family at most. Absent before Kubernetes 1.20.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub(crate) cluster_ips: Vec<String>,
    /// Its ports.
    #[serde(deserialize_with = "nullable")]
    pub(crate) ports: Vec<ServicePort>,
    /// Labels of its pods; empty if its slices are made by hand.
    #[serde(deserialize_with = "nullable")]
    pub(crate) selector: BTreeMap<String, String>,
    /// `ClientIP` or `None`.
    pub(crate) session_affinity: String,
    /// Its parameters.
    pub(crate) session_affinity_config: Option<SessionAffinityConfig>,
    /// Name that an `ExternalName` stands for.
    pub(crate) external_name: String,
    /// `Local` if pods are given endpoints of their own node alone, else `Cluster` or empty.
    pub(crate) internal_traffic_policy: String,
    /// True if pods that are not ready are endpoints like others; their slices call them ready.
    pub(crate) publish_not_ready_addresses: bool,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    /// Name; empty where there is one port alone.
    pub(crate) name: String,
    /// `TCP`, `UDP` or `SCTP`; empty: TCP.
    pub(crate) protocol: String,
    /// Port of the virtual address.
    pub(crate) port: u16,
    /// Port of the pods. Slices have the number.
    pub(crate) target_port: Option<IntOrString>,
}

/// A number, or a name that stands for one (`IntOrString`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum IntOrString {
    /// A number.
    Int(i32),
    /// A name.
    String(String),
}

/// Parameters of a session affinity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SessionAffinityConfig {
    /// Of `ClientIP`.
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Option<ClientIpConfig>,
}

/// Parameters of an affinity of clients' addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClientIpConfig {
    /// Seconds without a packet behind which another endpoint may be chosen.
    pub(crate) timeout_seconds: Option<u32>,
}

/// Some of the endpoints of a Service, of `v1` or `v1beta1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    /// Its metadata, with the label [`SERVICE_NAME`].
    pub(crate) metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub(crate) address_type: String,
    /// The endpoints.
    #[serde(deserialize_with = "nullable")]
    pub(crate) endpoints: Vec<Endpoint>,
    /// Ports of all of these endpoints.
    #[serde(deserialize_with = "nullable")]
    pub(crate) ports: Vec<EndpointPort>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// Its address. Consumers read the first and no other.
    #[serde(deserialize_with = "nullable")]
    pub(crate) addresses: Vec<String>,
    /// Its state.
    pub(crate) conditions: Conditions,
    /// The object behind it.
    pub(crate) target_ref: Option<TargetRef>,
    /// Node of `v1`; [`node`](Self::node) has that of either version.
    pub(crate) node_name: Option<String>,
    /// Node and zone of `v1beta1`, under the keys of node labels.
    #[serde(deserialize_with = "nullable")]
    pub(crate) topology: BTreeMap<String, String>,
    /// The clients that should be given it.
    pub(crate) hints: Option<Hints>,
}

impl Endpoint {
    /// The node that it is on, if that is said: `nodeName`, or `kubernetes.io/hostname` of the topology of `v1beta1`.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node_name.as_deref().or_else(|| self.topology.get("kubernetes.io/hostname").map(String::as_str))
    }
}

/// State of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    /// Ready for traffic, and not terminating.
    ready: Option<bool>,
    /// Ready for traffic, terminating or not.
    serving: Option<bool>,
    /// On its way to its end.
    terminating: Option<bool>,
}

impl Conditions {
    /// Tells if it is ready for traffic. What is not said counts as ready (`EndpointConditions` of the API reference).
    pub(crate) fn is_ready(self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Tells if it serves, though it may be terminating. What is not said is what `ready` is.
    pub(crate) fn is_serving(self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Tells if it is terminating. What is not said counts as no.
    pub(crate) fn is_terminating(self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

/// A reference to an object (`ObjectReference`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct TargetRef {
    /// Kind, as `Pod`.
    pub(crate) kind: String,
    /// Namespace; empty: that of what refers to it.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// Id.
    pub(crate) uid: String,
}

/// Hints of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Hints {
    /// The zones whose clients should be given it.
    #[serde(deserialize_with = "nullable")]
    pub(crate) for_zones: Vec<Hint>,
    /// The nodes whose clients should be given it.
    #[serde(deserialize_with = "nullable")]
    pub(crate) for_nodes: Vec<Hint>,
}

/// A zone or a node in a hint (`ForZone`, `ForNode`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Hint {
    /// Its name.
    pub(crate) name: String,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointPort {
    /// Name, that of the Service's port.
    pub(crate) name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; absent: TCP.
    pub(crate) protocol: Option<String>,
    /// Number; absent: all ports.
    pub(crate) port: Option<u16>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    /// Its metadata.
    pub(crate) metadata: Meta,
    /// The wanted state.
    #[serde(deserialize_with = "nullable")]
    pub(crate) spec: NodeSpec,
    /// The state.
    pub(crate) status: NodeStatus,
}

/// Of a node, what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    /// Its taints, whole: whoever takes one away writes the others back.
    #[serde(deserialize_with = "nullable")]
    pub(crate) taints: Vec<serde_json::Value>,
}

/// Of a node, what is so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    /// Its addresses and names.
    #[serde(deserialize_with = "nullable")]
    pub(crate) addresses: Vec<NodeAddress>,
}

/// An address or a name of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// It.
    pub(crate) address: String,
}

/// Says of kinds of objects where their metadata are.
macro_rules! objects {
    ($($kind:ty),+) => {
        $(impl Object for $kind {
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        })+
    };
}

objects!(Namespace, Pod, Service, EndpointSlice, Node, ConfigMap);

/// Reads a value, or `null` as its default.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads which of the owners is the controller.
fn controller<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Owner>, D::Error> {
    let owners: Vec<Owner> = nullable(from)?;
    Ok(owners.into_iter().find(|owner| owner.controller))
}

/// Reads annotations of tencrypt's own.
fn annotations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut annotations: BTreeMap<_, _> = nullable(from)?;
    annotations.retain(|name: &String, _: &mut String| name.starts_with(OWN));
    Ok(annotations)
}

#[cfg(test)]
mod tests;
