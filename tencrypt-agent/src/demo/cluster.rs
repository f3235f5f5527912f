//! The figure: a node with its bridge, pods of two projects and one of none, services, and a DNS server.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tencrypt_lab::{
    DNS_PORT, DnsServer, Finished, HttpServer, Node, PLAIN_MTU, Pod, Ports, Program, TUNNEL_PORT, TcpServer,
    UdpEcho, Zone,
};

use super::scratch::Scratch;

/// Port of the web servers.
pub(super) const WEB: u16 = 80;
/// Port that counts datagrams in pod `web`.
pub(super) const ECHO: u16 = 7;
/// Port for bulk transfer in pod `web`.
pub(super) const BULK: u16 = 5201;
/// Name of `web`.
pub(super) const WEB_NAME: &str = "web.shop.svc.cluster.local";
/// Name of `api`.
pub(super) const API_NAME: &str = "api.other.svc.cluster.local";
/// Plaintext of the tenant's application.
pub(super) const SECRET: &str = "session=canary-4bd1e7";
/// Its plaintext for the other project.
pub(super) const OTHER_SECRET: &str = "visitor=magpie-90c2fa";

/// The whole figure. It goes when it is dropped.
pub(super) struct Cluster {
    pub(super) node: Node,
    /// A pod of `shop`.
    pub(super) client: Pod,
    /// Another, behind the service [`Cluster::web_service`].
    pub(super) web: Pod,
    /// A pod of no project, in the same ranges.
    pub(super) intruder: Pod,
    /// The service of `web`.
    pub(super) web_service: IpAddr,
    /// The service of the pod of project `other`.
    pub(super) api_service: IpAddr,
    /// Counts what reaches the application in `web`.
    pub(super) echo: UdpEcho,
    /// Answers in the other project, until taken.
    pub(super) api_server: Option<HttpServer>,
    /// Takes bulk transfers in `web`, until taken.
    pub(super) bulk_server: Option<TcpServer>,
    directory: PathBuf,
    program: PathBuf,
    _api: Pod,
    _dns: Pod,
    _dns_server: DnsServer,
    _web_server: HttpServer,
}

impl Cluster {
    /// Builds it, in the namespaces of this world.
    pub(super) fn build() -> tencrypt_lab::Result<Self> {
        let node = Node::new(net4(1), net6(1))?;
        let pod = |number: u8| node.pod(v4(number), v6(number), PLAIN_MTU);
        let (client, web, api, dns, intruder) = (pod(20)?, pod(21)?, pod(31)?, pod(53)?, pod(66)?);
        let [web_service, api_service, dns_service] =
            [10, 20, 53].map(|number| IpAddr::V4(Ipv4Addr::new(172, 30, 0, number)));
        // As kube-proxy would: what the service lists and nothing else, so the tunnel's port is among it.
        let ports = |ports: &[u16]| Ports::Only(ports.iter().map(|&port| (port, port)).collect());
        node.service(web_service, &[web.v4()], &ports(&[WEB, TUNNEL_PORT]))?;
        node.service(api_service, &[api.v4()], &ports(&[WEB]))?;
        node.service(dns_service, &[dns.v4()], &ports(&[DNS_PORT]))?;
        let zone = Zone::new().address(WEB_NAME, web_service).address(API_NAME, api_service);
        let program = std::env::current_exe()
            .map_err(|source| tencrypt_lab::Error::Os { what: "find this executable", source })?;
        let cluster = Self {
            _dns_server: DnsServer::start(&dns, zone)?,
            _web_server: HttpServer::start(&web, WEB, "the shop's orders")?,
            api_server: Some(HttpServer::start(&api, WEB, "the other project's prices")?),
            bulk_server: Some(TcpServer::start(&web, BULK)?),
            echo: UdpEcho::start(&web, ECHO)?,
            directory: Scratch::of_parent(),
            program,
            node,
            client,
            web,
            intruder,
            web_service,
            api_service,
            _api: api,
            _dns: dns,
        };
        cluster.write(
            "resolv.conf",
            &format!(
                "nameserver {dns_service}\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\n\
                 options ndots:5 timeout:2\n"
            ),
        )?;
        Ok(cluster)
    }

    /// The file that the pods of `shop` have as /etc/resolv.conf.
    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }

    /// Makes the tenant's key.
    pub(super) fn genkey(&self) -> tencrypt_lab::Result<Finished> {
        self.tencrypt(&["genkey".as_ref(), self.directory.join("tenant.key").as_os_str()])
    }

    /// Starts `tencrypt up` in a pod of `shop`.
    pub(super) fn up(&self, pod: &Pod, enforce: bool) -> tencrypt_lab::Result<Program> {
        let config = format!("{}.toml", pod.port());
        self.write(
            &config,
            &format!(
                "[tenant]\nkey_file = \"tenant.key\"\n[network]\n\
                 protected = [\"10.128.0.0/14\", \"172.30.0.0/16\", \"fd00:128::/64\"]\n\
                 [policy]\nenforce = {enforce}\n[dns]\nresolv_conf = \"resolv.conf\"\n"
            ),
        )?;
        let (netns, config) = (pod.netns().path(), self.directory.join(config));
        self.start(&["up".as_ref(), "--netns".as_ref(), netns.as_ref(), "--config".as_ref(), config.as_ref()])
    }

    /// Runs `tencrypt COMMAND --netns POD` to its end.
    pub(super) fn ask(&self, pod: &Pod, command: &str) -> tencrypt_lab::Result<Finished> {
        let netns = pod.netns().path();
        self.tencrypt(&[command.as_ref(), "--netns".as_ref(), netns.as_ref()])
    }

    /// `tencrypt status --json` of a pod; `None` if it is no JSON.
    pub(super) fn status(&self, pod: &Pod) -> tencrypt_lab::Result<Option<Value>> {
        let netns = pod.netns().path();
        let asked =
            self.tencrypt(&["status".as_ref(), "--netns".as_ref(), netns.as_ref(), "--json".as_ref()])?;
        Ok(serde_json::from_str(&asked.stdout).ok())
    }

    fn tencrypt(&self, arguments: &[&OsStr]) -> tencrypt_lab::Result<Finished> {
        self.start(arguments)?.wait(Duration::from_secs(20))
    }

    /// This executable as an operator would start it, with a run directory that no other demonstration shares.
    fn start(&self, arguments: &[&OsStr]) -> tencrypt_lab::Result<Program> {
        let run = self.directory.join("run");
        Program::start_with(
            &self.program,
            arguments,
            &[(crate::os::rundir::DIRECTORY_VARIABLE, run.as_ref())],
            None,
        )
    }

    fn write(&self, name: &str, text: &str) -> tencrypt_lab::Result<()> {
        let path: &Path = &self.directory.join(name);
        fs::write(path, text)
            .map_err(|source| tencrypt_lab::Error::Os { what: "write into the demo's directory", source })
    }
}

/// IPv4 address of pod or node `number`, in the range OpenShift gives its pods.
fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 128, 0, number)
}

/// Its IPv6 address.
fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, number.into())
}

fn net4(number: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new_assert(v4(number), 14)
}

fn net6(number: u8) -> ipnet::Ipv6Net {
    ipnet::Ipv6Net::new_assert(v6(number), 64)
}
