//! The cluster, as its API tells of it: namespaces, the pods of this node, Services with their endpoints, nodes, the tenants'
//! files, and the Secrets with the keys of tenants that have pods here.

pub(crate) mod client;
pub(crate) mod directory;
mod failure;
mod heard;
pub(crate) mod names;
pub(crate) mod objects;
mod secrets;
mod watching;
mod writes;

use std::{
    cell::{Cell, Ref, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep, sleep_until},
};
use zeroize::Zeroizing;

use self::{
    client::{Client, Watch},
    failure::{Failure, FailureKind},
    objects::{ConfigMap, Namespace, Node, Object, Pod, Service},
    secrets::KeySecret,
    watching::{Api, Collection, Lines, News, follow},
    writes::Writes,
};
pub(crate) use self::{
    heard::{Heard, NoKeys},
    secrets::NAME as KEY_SECRET,
    watching::{PAGE, escaped},
    writes::{About, Write},
};
use crate::{backoff::random, settings::ConfigMapName};

/// Time in which changes are gathered: a rolling update makes many at once.
const GATHERED: Duration = Duration::from_millis(50);

/// Most bytes of an answer: a page of 500 EndpointSlices with 100 endpoints each is some 30 MB.
const ANSWER: usize = 64 << 20;

/// The longest silence of a watch: the server sends a bookmark each minute (`defaultBookmarkFrequency`,
/// staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go). One that has sent nothing for two of them is asked anew, since it may
/// be gone without a word.
const SILENCE: Duration = Duration::from_secs(150);

/// The pause before a server that has not answered is asked again which version of EndpointSlices there is.
const UNANSWERED: Duration = Duration::from_secs(2);

/// The pause before it is asked again which version of EndpointSlices there is.
const ABSENT: Duration = Duration::from_secs(10);

/// The cluster, followed until this is dropped.
pub(crate) struct Cluster {
    api: Rc<Client>,
    heard: Rc<RefCell<Heard>>,
    changed: Rc<Notify>,
    /// The end of the moment for what comes with a change.
    due: Cell<Option<Instant>>,
    tasks: Vec<Task>,
    /// By namespace.
    secrets: BTreeMap<String, Task>,
    writes: Writes,
}

/// A task that ends when it is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Cluster {
    /// A cluster that is not followed yet.
    pub(crate) fn new(api: Client) -> Self {
        Self {
            api: Rc::new(api),
            heard: Rc::default(),
            changed: Rc::default(),
            due: Cell::default(),
            tasks: Vec::new(),
            secrets: BTreeMap::new(),
            writes: Writes::default(),
        }
    }

    /// Begins to follow the cluster, the pods of this `node` among the rest, and the ConfigMap with the tenants' files if it is named.
    /// To be called within a `LocalSet`.
    pub(crate) fn follow(&mut self, node: &str, tenants: Option<&ConfigMapName>) {
        let all = |path: &str| Collection { path: path.to_owned(), fields: String::new() };
        self.spawn::<Namespace>(all("/api/v1/namespaces"), Heard::namespaces);
        self.spawn::<Service>(all("/api/v1/services"), Heard::services);
        self.spawn::<Node>(all("/api/v1/nodes"), Heard::nodes);
        let own = Collection { path: "/api/v1/pods".to_owned(), fields: format!("spec.nodeName={node}") };
        self.spawn::<Pod>(own, Heard::pods);
        self.spawn_slices();
        if let Some(ConfigMapName { namespace, name }) = tenants {
            self.heard.borrow_mut().expect_tenants();
            let map = Collection {
                path: format!("/api/v1/namespaces/{namespace}/configmaps"),
                fields: format!("metadata.name={name}"),
            };
            self.spawn::<ConfigMap>(map, Heard::tenants);
        }
    }

    /// Waits until something is heard, and then a moment for what comes with it. Cancel safe.
    pub(crate) async fn changed(&self) {
        let due = match self.due.get() {
            Some(due) => due,
            None => {
                self.changed.notified().await;
                Instant::now() + GATHERED
            }
        };
        self.due.set(Some(due));
        sleep_until(due).await;
        self.due.set(None);
    }

    /// All that was heard so far.
    pub(crate) fn heard(&self) -> Ref<'_, Heard> {
        self.heard.borrow()
    }

    /// Sees to it that something is so, under a name of the caller's; nothing is sent if that was done. To be called within a
    /// `LocalSet`.
    pub(crate) fn say(&self, name: &str, write: Write) {
        self.writes.say(&self.api, name, write);
    }

    /// Forgets what was said under other names than these: it may be said, and sent, anew.
    pub(crate) fn retain_said(&self, is_said: impl Fn(&str) -> bool) {
        self.writes.retain(is_said);
    }

    /// The reasons why something that was said is not so, a line each.
    pub(crate) fn write_faults(&self) -> Vec<String> {
        self.writes.faults()
    }

    /// Lets changes of EndpointSlices in these namespaces wake, and no others.
    pub(crate) fn concern(&self, namespaces: BTreeSet<String>) {
        self.heard.borrow_mut().concern(namespaces);
    }

    /// Follows the Secrets with keys in these namespaces, and no others.
    pub(crate) fn follow_keys(&mut self, namespaces: &BTreeSet<String>) {
        self.secrets.retain(|namespace, _| namespaces.contains(namespace));
        self.heard.borrow_mut().retain_keys(namespaces);
        for namespace in namespaces {
            if self.secrets.contains_key(namespace) {
                continue;
            }
            let collection = Collection {
                path: format!("/api/v1/namespaces/{namespace}/secrets"),
                fields: format!("metadata.name={}", secrets::NAME),
            };
            let name = namespace.clone();
            let task = self.task::<KeySecret>(collection, move |heard, news| heard.keys(&name, news));
            self.secrets.insert(namespace.clone(), task);
        }
    }

    fn spawn<T: Object + 'static>(&mut self, collection: Collection, hear: fn(&mut Heard, News<T>) -> bool) {
        let task = self.task(collection, hear);
        self.tasks.push(task);
    }

    fn task<T: Object + 'static>(
        &self,
        collection: Collection,
        hear: impl Fn(&mut Heard, News<T>) -> bool + 'static,
    ) -> Task {
        let (api, sink) = (Rc::clone(&self.api), self.sink(hear));
        Task(
            spawn_local(async move {
                loop {
                    follow(&*api, &collection, random, &sink).await;
                    sleep(ABSENT).await;
                }
            })
            .abort_handle(),
        )
    }

    fn spawn_slices(&mut self) {
        let (api, sink) = (Rc::clone(&self.api), self.sink(Heard::slices));
        let task = spawn_local(async move {
            loop {
                let version = match slice_version(&*api).await {
                    Ok(version) => version,
                    Err(failure) => {
                        sink(News::Deaf(failure));
                        sleep(UNANSWERED).await;
                        continue;
                    }
                };
                let path = format!("/apis/discovery.k8s.io/{version}/endpointslices");
                follow(&*api, &Collection { path, fields: String::new() }, random, &sink).await;
                sleep(ABSENT).await;
            }
        });
        self.tasks.push(Task(task.abort_handle()));
    }

    /// Takes news in by `hear`, which tells if anything follows from them.
    fn sink<T>(&self, hear: impl Fn(&mut Heard, News<T>) -> bool + 'static) -> impl Fn(News<T>) + 'static {
        let (heard, changed) = (Rc::clone(&self.heard), Rc::clone(&self.changed));
        move |news| {
            if hear(&mut heard.borrow_mut(), news) {
                changed.notify_one();
            }
        }
    }
}

/// The version of EndpointSlices that the server has: `v1` since Kubernetes 1.21, `v1beta1` until 1.24
/// (<https://kubernetes.io/docs/reference/using-api/deprecation-guide/#endpointslice-v125>).
async fn slice_version(api: &impl Api) -> Result<&'static str, Failure> {
    match api.get("/apis/discovery.k8s.io/v1").await {
        Ok(_) => Ok("v1"),
        Err(failure) if failure.kind == FailureKind::Absent => Ok("v1beta1"),
        Err(failure) => Err(failure),
    }
}

impl Api for Client {
    type Watch = Watch;

    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        Ok(Self::get(self, path, ANSWER).await?)
    }

    async fn watch(&self, path: &str) -> Result<Watch, Failure> {
        Ok(Self::watch(self, path, SILENCE).await?)
    }
}

impl Lines for Watch {
    async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        Ok(Self::next(self).await?)
    }
}
