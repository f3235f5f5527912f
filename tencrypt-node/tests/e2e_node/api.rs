//! A stand-in for the API server of a cluster: lists, watches with their events, 410 and 404, over TLS, as the real one answers them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// The token of the agent's service account.
const TOKEN: &str = "a-token";

/// The files of the client's tests: a certificate for 127.0.0.1.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kubernetes/client/testdata");

/// Longest wait of a connection for anything.
const WAIT: Duration = Duration::from_secs(60);

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// The server, until it is dropped.
pub(crate) struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    changed: Condvar,
}

/// Plural name of the kind, namespace and name.
type Key = (String, String, String);

/// All that it knows.
#[derive(Default)]
struct World {
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    objects: BTreeMap<Key, Value>,
    events: Vec<Event>,
    /// All that was sent to be written: method, path and body.
    written: Vec<(String, String, Value)>,
    /// Nobody is answered, and whoever watches is cut off.
    is_away: bool,
    is_over: bool,
}

struct Event {
    version: u64,
    key: Key,
    kind: &'static str,
    object: Value,
}

impl Api {
    /// Starts it in the namespace of the calling thread.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let tls = Arc::new(tls());
        let for_all = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let (shared, tls) = (Arc::clone(&for_all), Arc::clone(&tls));
                if shared.world().is_over {
                    return;
                }
                // A client that goes away is no fault.
                thread::spawn(move || drop(serve(stream, tls, &shared)));
            }
        });
        let api = Self { address, shared };
        api.set("leases", "kube-node-lease", "node1", json!({}));
        api
    }

    /// Writes token and authority into `folder`. Returns the agent's settings of the cluster, with tenants and pods' settings there.
    pub(crate) fn settings(&self, folder: &Path) -> String {
        let of = |name: &str| folder.join(name).display().to_string();
        std::fs::write(of("token"), TOKEN).unwrap();
        format!(
            "[kubernetes]\nnode = \"node1\"\nserver = \"https://{}\"\ntoken = \"{}\"\nca = \"{FILES}/ca.pem\"\ntenants = \"{}\"\npod = \"{}\"\n",
            self.address,
            of("token"),
            of("cluster"),
            of("cluster-pod.toml")
        )
    }

    /// Makes or changes an object of this kind (plural, in small letters).
    pub(crate) fn set(&self, kind: &str, namespace: &str, name: &str, object: Value) {
        self.shared.world().put((kind.to_owned(), namespace.to_owned(), name.to_owned()), object);
        self.shared.changed.notify_all();
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut world = self.shared.world();
        world.version += 1;
        let version = world.version;
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = world.objects.remove(&key).unwrap_or_else(|| panic!("no {key:?}"));
        object["metadata"]["resourceVersion"] = version.to_string().into();
        world.events.push(Event { version, key, kind: "DELETED", object });
        self.shared.changed.notify_all();
    }

    /// Forgets all events so far, and ends every watch: places before now are answered 410.
    pub(crate) fn compact(&self) {
        {
            let mut world = self.shared.world();
            world.version += 1;
            world.oldest = world.version;
            world.events.clear();
        }
        self.away(true);
        self.away(false);
    }

    /// Goes away, or comes back.
    pub(crate) fn away(&self, is_away: bool) {
        self.shared.world().is_away = is_away;
        self.shared.changed.notify_all();
        // Whoever watches looks several times in this time.
        thread::sleep(Duration::from_millis(100));
    }

    /// The last patch of the object at `path`.
    pub(crate) fn patched(&self, path: &str) -> Option<Value> {
        self.written("PATCH", path).pop()
    }

    /// The objects of a kind in a namespace.
    pub(crate) fn objects(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let world = self.shared.world();
        let found = world.objects.iter().filter(|((of, place, _), _)| of == kind && place == namespace);
        found.map(|(_, object)| object.clone()).collect()
    }

    /// The bodies that were sent to `path` by this method.
    pub(crate) fn written(&self, method: &str, path: &str) -> Vec<Value> {
        let world = self.shared.world();
        let sent = world.written.iter().filter(|(by, at, _)| by == method && at == path);
        sent.map(|(_, _, body)| body.clone()).collect()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shared.world().is_over = true;
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address);
    }
}

impl World {
    /// Makes or changes an object, and returns it with its metadata.
    fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let meta = json!({"name": key.2, "namespace": key.1});
        let given = object["metadata"].as_object().cloned().unwrap_or_default();
        object["metadata"] = meta;
        object["metadata"].as_object_mut().unwrap().extend(given);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let is_new = self.objects.insert(key.clone(), object.clone()).is_none();
        let kind = if is_new { "ADDED" } else { "MODIFIED" };
        self.events.push(Event { version, key, kind, object: object.clone() });
        object
    }
}

/// The key of the object at a path; without a name, of the collection to which one is added.
fn key_of(path: &str, is_collection: bool) -> Option<Key> {
    let mut words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let name = if is_collection { "" } else { words.pop()? };
    let kind = words.pop()?;
    let place = words.iter().position(|word| *word == "namespaces");
    let namespace = place.and_then(|place| words.get(place + 1)).copied().unwrap_or_default();
    Some((kind.to_owned(), namespace.to_owned(), name.to_owned()))
}

/// Merges a patch into an object (RFC 7396).
fn merge(object: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        object.clone_from(patch);
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let object = object.as_object_mut().unwrap();
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

impl Shared {
    /// Does what was sent. Returns the object as it is then, or the code and the reason of a refusal.
    fn write(&self, method: &str, path: &str, body: Value) -> Result<Value, (u16, &'static str)> {
        let mut world = self.world();
        world.written.push((method.to_owned(), path.to_owned(), body.clone()));
        let mut key = key_of(path, method == "POST").ok_or((404, "NotFound"))?;
        if method == "POST" {
            key.2 = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if world.objects.contains_key(&key) {
                return Err((409, "AlreadyExists"));
            }
            return Ok(world.put(key, body));
        }
        let mut object = world.objects.get(&key).cloned().ok_or((404, "NotFound"))?;
        let meta = &object["metadata"];
        let differs = |wanted: &Value, found: &Value| !wanted.is_null() && wanted != found;
        if method == "PATCH" {
            if differs(&body["metadata"]["uid"], &meta["uid"]) {
                return Err((422, "Invalid"));
            }
            if differs(&body["metadata"]["resourceVersion"], &meta["resourceVersion"]) {
                return Err((409, "Conflict"));
            }
            merge(&mut object, &body);
        } else {
            if differs(&body["preconditions"]["uid"], &meta["uid"]) {
                return Err((409, "Conflict"));
            }
            // The kubelet ends it.
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Ok(world.put(key, object))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls() -> ServerConfig {
    let file = |name: &str| PathBuf::from(FILES).join(name);
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// A question about a collection.
struct Question {
    kind: String,
    namespace: Option<String>,
    selector: Option<(String, String)>,
    /// The place where a watch begins.
    watch: Option<u64>,
}

impl Question {
    /// Reads a path as `/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dx&watch=1`.
    fn read(path: &str) -> Option<Self> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (["api", "v1", rest @ ..] | ["apis", "discovery.k8s.io", "v1", rest @ ..]) = segments.as_slice()
        else {
            return None;
        };
        let (namespace, kind) = match rest {
            [kind] => (None, (*kind).to_owned()),
            ["namespaces", namespace, kind] => (Some((*namespace).to_owned()), (*kind).to_owned()),
            _ => return None,
        };
        let fields: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| (name, value.replace("%3D", "=")))
            .collect();
        let selector = fields.get("fieldSelector").and_then(|selector| selector.split_once('='));
        let selector = selector.map(|(field, value)| (field.to_owned(), value.to_owned()));
        let place = || fields.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let watch = fields.contains_key("watch").then(place);
        Some(Self { kind, namespace, selector, watch })
    }

    fn is_about(&self, (kind, namespace, name): &Key, object: &Value) -> bool {
        let is_chosen = match &self.selector {
            None => true,
            Some((field, value)) if field == "metadata.name" => name == value,
            Some((field, value)) if field == "spec.nodeName" => object["spec"]["nodeName"] == value.as_str(),
            Some(_) => false,
        };
        *kind == self.kind && self.namespace.as_ref().is_none_or(|wanted| wanted == namespace) && is_chosen
    }
}

fn serve(tcp: TcpStream, tls: Arc<ServerConfig>, shared: &Shared) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(WAIT))?;
    let connection = ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    loop {
        let (head, body) = request(&mut stream)?;
        if shared.world().is_away {
            return Ok(());
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if !head.contains(&format!("Bearer {TOKEN}")) {
            refuse(&mut stream, 401, "Unauthorized")?;
        } else if ["PATCH", "POST", "DELETE"].contains(&method) {
            match shared.write(method, path, serde_json::from_slice(&body)?) {
                Ok(object) => {
                    answer(&mut stream, if method == "POST" { 201 } else { 200 }, &object.to_string())?;
                }
                Err((code, reason)) => refuse(&mut stream, code, reason)?,
            }
        } else if path == "/apis/discovery.k8s.io/v1" {
            answer(&mut stream, 200, r#"{"kind":"APIResourceList"}"#)?;
        } else {
            match Question::read(path) {
                None => refuse(&mut stream, 404, "NotFound")?,
                Some(question) => collection(&mut stream, &question, shared)?,
            }
        }
    }
}

fn collection(stream: &mut Stream, question: &Question, shared: &Shared) -> std::io::Result<()> {
    let (list, oldest) = {
        let world = shared.world();
        let about = world.objects.iter().filter(|(key, object)| question.is_about(key, object));
        let items: Vec<&Value> = about.map(|(_, object)| object).collect();
        let list = json!({"metadata": {"resourceVersion": world.version.to_string()}, "items": items});
        (list, world.oldest)
    };
    match question.watch {
        None => answer(stream, 200, &list.to_string()),
        Some(place) if place < oldest => refuse(stream, 410, "Expired"),
        Some(place) => watch(stream, question, place, shared),
    }
}

/// Sends what happens behind `place`, in chunks, until the client goes or the server goes away.
fn watch(stream: &mut Stream, question: &Question, mut place: u64, shared: &Shared) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let end = Instant::now() + WAIT;
    while Instant::now() < end {
        let lines: Vec<String> = {
            let world = shared.world();
            if world.is_away || world.is_over {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            let since = world.events.iter().filter(|event| event.version > place);
            let about = since.filter(|event| question.is_about(&event.key, &event.object));
            let lines: Vec<String> = about
                .map(|event| format!("{}\n", json!({"type": event.kind, "object": event.object})))
                .collect();
            place = place.max(world.version);
            if lines.is_empty() {
                let _ = shared.changed.wait_timeout(world, Duration::from_millis(20));
            }
            lines
        };
        for line in lines {
            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
        }
        stream.flush()?;
    }
    stream.write_all(b"0\r\n\r\n")
}

/// Reads a request: its head, and its body.
fn request(stream: &mut Stream) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

fn refuse(stream: &mut Stream, code: u16, reason: &str) -> std::io::Result<()> {
    let status = json!({"kind": "Status", "code": code, "reason": reason, "message": "no"});
    answer(stream, code, &status.to_string())
}

/// An answer to one question: code and body.
fn ask(api: &Api, question: &Value) -> (u16, Value) {
    let tcp = TcpStream::connect(api.address).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(PathBuf::from(FILES).join("ca.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(api.address.ip());
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, tcp);
    let body = if question["body"].is_null() { String::new() } else { question["body"].to_string() };
    let (method, path) = (question["method"].as_str().unwrap(), question["path"].as_str().unwrap());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut text = Vec::new();
    // The server waits for the next question: the connection is left when the body is whole.
    loop {
        let mut part = [0; 4_096];
        let len = stream.read(&mut part).unwrap();
        text.extend_from_slice(&part[..len]);
        let Some((head, body)) = std::str::from_utf8(&text).unwrap().split_once("\r\n\r\n") else { continue };
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        if let Ok(value) = serde_json::from_str(body) {
            return (code, value);
        }
    }
}

/// The value at a path as `items.0.metadata`, in whose words `~` stands for a dot.
fn find<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, word| match value {
        Value::Array(list) => list.get(word.parse::<usize>().unwrap()),
        _ => value.get(word.replace('~', ".")),
    })
}

#[test]
fn the_stand_in_answers_as_the_real_server_does() {
    let api = Api::start();
    let uid = "e0212445-d00d-4839-8953-3e6da710a72f";
    api.set("namespaces", "", "standin", json!({}));
    api.set("secrets", "standin", "tencrypt-key", json!({"data": {"tenant.key": "AA=="}}));
    api.set("nodes", "", "node1", json!({"spec": {}}));
    api.set("pods", "standin", "web-0", json!({"metadata": {"uid": uid, "annotations": {"a": "b"}}}));
    let text =
        include_str!("answers.json").replace("\"UID\"", &format!("\"{uid}\"")).replace("/NODE", "/node1");
    let file: Value = serde_json::from_str(&text).unwrap();
    let questions = file["questions"].as_array().unwrap();
    assert!(questions.len() > 10);
    for question in questions {
        let mut question = question.clone();
        if !question["event"].is_null() {
            question["body"] =
                json!({"metadata": {"namespace": "standin", "name": "web-0.outside"}, "eventTime": "0"});
        }
        let (code, body) = ask(&api, &question);
        assert_eq!(json!(code), question["code"], "{question}\n{body}");
        if !question["reason"].is_null() {
            assert_eq!(body["reason"], question["reason"], "{question}");
        }
        for (list, is_wanted) in [("has", true), ("lacks", false)] {
            for path in question[list].as_array().into_iter().flatten().map(|path| path.as_str().unwrap()) {
                assert_eq!(find(&body, path).is_some(), is_wanted, "{path} in {body}, asked {question}");
            }
        }
    }
}

fn answer(stream: &mut Stream, code: u16, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}
