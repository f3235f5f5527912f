//! A collection of the API, followed: listed in pages, then watched, and listed again where the server has forgotten the place.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{
    failure::{Failure, FailureKind},
    objects::{Key, Meta, Object},
};

/// Objects of a page: what client-go asks for (`defaultPageSize`, tools/pager).
pub(crate) const PAGE: usize = 500;

/// Most objects of a collection.
const MOST: usize = 500_000;

/// Most lists that are begun anew because the server has forgotten a page's place, before the pause after a failure.
const RESTARTS: u32 = 3;

/// The shortest life of a watch, as asked for, in seconds: client-go's (`minWatchTimeout`, tools/cache/reflector.go). By chance it is up
/// to twice as long, so that not all agents ask at the same moment.
const WATCH: u64 = 300;

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A watch that has ended before is followed by a pause.
const BRIEF: Duration = Duration::from_secs(1);

/// A watch that has lived this long makes a failure the first one again.
const SETTLED: Duration = Duration::from_secs(60);

/// The API, as far as it is followed.
pub(crate) trait Api {
    /// An open watch.
    type Watch: Lines;

    /// Returns the answer to a GET.
    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, Failure>;

    /// Opens a watch.
    async fn watch(&self, path: &str) -> Result<Self::Watch, Failure>;
}

/// The lines of a watch.
pub(crate) trait Lines {
    /// The next one; none where the watch has ended.
    async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, Failure>;
}

/// A collection: `/api/v1/pods`, with what is chosen from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collection {
    /// The path.
    pub(crate) path: String,
    /// A field selector, as `spec.nodeName=node1`; none if it is empty.
    pub(crate) fields: String,
}

/// News of a collection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News<T> {
    /// These are all that there are.
    All(Vec<T>),
    /// It is new, or has changed.
    Set(T),
    /// It is gone.
    Gone(Key),
    /// It makes no sense, for this reason: nothing is known of it any more. The others are not to suffer from what one user has written.
    Unread(Key, String),
    /// Nothing can be heard for now, for this reason: what was heard before may be out of date.
    Deaf(Failure),
    /// It is watched again.
    Heard,
}

#[derive(Deserialize)]
struct Page<'p> {
    #[serde(default)]
    metadata: PageMeta,
    // Absent or null in an empty list.
    #[serde(default, borrow)]
    items: Option<Vec<&'p RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    r#continue: String,
}

#[derive(Deserialize)]
struct Event<'e> {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(borrow)]
    object: &'e RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// The object of a bookmark: a place alone.
#[derive(Deserialize)]
struct Bookmark {
    metadata: PageMeta,
}

/// Follows a collection, and tells `sink` what it hears: first [`News::All`], then each change. Returns if there is no such collection.
///
/// A list is asked for without a version, so that it is never older than what was heard before. `random` gives numbers that another
/// agent does not have at the same time.
pub(crate) async fn follow<T: Object>(
    api: &impl Api,
    collection: &Collection,
    random: impl Fn() -> u64,
    sink: impl Fn(News<T>),
) {
    let mut pause = FIRST_PAUSE;
    let mut place = None;
    loop {
        let begun = Instant::now();
        let looked = look(api, collection, &mut place, &random, &sink).await;
        let is_new_list_due =
            |failure: &Failure| matches!(failure.kind, FailureKind::Gone | FailureKind::TooLong);
        let failure = match looked {
            Err(failure) if !is_new_list_due(&failure) || place.take().is_none() => failure,
            // A server that ends everything at once is not to be asked without end.
            _ if begun.elapsed() < BRIEF => {
                sleep(FIRST_PAUSE).await;
                continue;
            }
            _ => continue,
        };
        let is_absent = failure.kind == FailureKind::Absent;
        sink(News::Deaf(failure));
        if is_absent {
            return;
        }
        if begun.elapsed() >= SETTLED {
            pause = FIRST_PAUSE;
        }
        let half = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX).max(1);
        sleep(pause - Duration::from_millis(random() % half)).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// Lists where there is no place, then watches until the watch ends; the place is where the next watch begins.
async fn look<T: Object>(
    api: &impl Api,
    collection: &Collection,
    place: &mut Option<String>,
    random: &impl Fn() -> u64,
    sink: &impl Fn(News<T>),
) -> Result<(), Failure> {
    let from = match place {
        Some(from) => from.clone(),
        None => {
            let Listed { objects, unread, place: from } = list(api, collection).await?;
            sink(News::All(objects));
            for (key, reason) in unread {
                sink(News::Unread(key, reason));
            }
            *place = Some(from.clone());
            from
        }
    };
    let seconds = WATCH + random() % WATCH;
    let query = format!("watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={seconds}");
    let mut watch = api.watch(&collection.with(&query)).await?;
    sink(News::Heard);
    loop {
        let line = match watch.next().await {
            Ok(Some(line)) => line,
            // A silent one may be dead: the next one shows it.
            Ok(None) => return Ok(()),
            Err(failure) if failure.kind == FailureKind::Silent => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let (news, version) = read_event::<T>(&line)?;
        if let Some(news) = news {
            sink(news);
        }
        *place = Some(version);
    }
}

/// A list that was read to its end.
struct Listed<T> {
    objects: Vec<T>,
    /// Those that make no sense, with the reason.
    unread: Vec<(Key, String)>,
    /// The place that a watch begins at.
    place: String,
}

/// Reads all pages. They have fewer objects where these are so large that the answer would be too long.
async fn list<T: Object>(api: &impl Api, collection: &Collection) -> Result<Listed<T>, Failure> {
    let (mut restarts, mut limit) = (0, PAGE);
    let (mut objects, mut unread): (Vec<T>, Vec<(Key, String)>) = (Vec::new(), Vec::new());
    let mut more = String::new();
    loop {
        let next = if more.is_empty() { String::new() } else { format!("&continue={}", escaped(&more)) };
        let answer = match api.get(&collection.with(&format!("limit={limit}{next}"))).await {
            Err(failure) if failure.kind == FailureKind::TooLong && limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(failure) if failure.kind == FailureKind::Gone && restarts < RESTARTS => {
                restarts += 1;
                objects.clear();
                unread.clear();
                more.clear();
                continue;
            }
            answer => answer?,
        };
        let page: Page<'_> = json(&answer)?;
        for item in page.items.unwrap_or_default() {
            match read(item.get().as_bytes())? {
                Ok(object) => objects.push(object),
                Err((meta, reason)) => unread.push((Key::of(&meta), reason)),
            }
        }
        if objects.len() + unread.len() > MOST {
            return Err(Failure::other(&"more objects than are kept"));
        }
        if page.metadata.r#continue.is_empty() {
            return Ok(Listed { objects, unread, place: checked(page.metadata.resource_version)? });
        }
        more = page.metadata.r#continue;
    }
}

/// An object of which the metadata are read alone.
#[derive(Deserialize)]
struct Bare {
    metadata: Meta,
}

/// Reads an object.
///
/// # Errors
/// Its name and the reason. One without a name is the server's fault, and an error of the whole list or watch.
fn read<T: Object>(content: &[u8]) -> Result<Result<T, (Meta, String)>, Failure> {
    let failure = match json(content) {
        Ok(object) => return Ok(Ok(object)),
        Err(failure) => failure,
    };
    let Bare { metadata } = json(content)?;
    Ok(Err((metadata, failure.to_string())))
}

/// Reads a line of a watch. Returns what it says, and the place behind it.
fn read_event<T: Object>(line: &[u8]) -> Result<(Option<News<T>>, String), Failure> {
    let event: Event<'_> = json(line)?;
    let content = event.object.get().as_bytes();
    let (news, version) = match event.kind {
        Kind::Error => return Err(Failure::of_status(content)),
        Kind::Bookmark => {
            let Bookmark { metadata } = json(content)?;
            (None, metadata.resource_version)
        }
        kind => {
            let read = read::<T>(content)?;
            let meta = match &read {
                Ok(object) => object.meta(),
                Err((meta, _)) => meta,
            };
            let (key, version) = (Key::of(meta), meta.resource_version.clone());
            let news = match read {
                _ if matches!(kind, Kind::Deleted) => News::Gone(key),
                Ok(object) => News::Set(object),
                Err((_, reason)) => News::Unread(key, reason),
            };
            (Some(news), version)
        }
    };
    Ok((news, checked(version)?))
}

fn json<'j, T: Deserialize<'j>>(content: &'j [u8]) -> Result<T, Failure> {
    serde_json::from_slice(content).map_err(|error| Failure::malformed(&error))
}

/// A version is an opaque word, which is put into a query as it is.
fn checked(version: String) -> Result<String, Failure> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !version.is_empty() && version.len() <= 128 && version.bytes().all(is_word) {
        return Ok(version);
    }
    Err(Failure::other(&"a list or an object without a version"))
}

/// Escapes a word for a query (RFC 3986 section 2.3: what is unreserved stays).
pub(crate) fn escaped(word: &str) -> String {
    use std::fmt::Write as _;
    word.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing into a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

impl Collection {
    fn with(&self, query: &str) -> String {
        let Self { path, fields } = self;
        if fields.is_empty() {
            return format!("{path}?{query}");
        }
        format!("{path}?fieldSelector={}&{query}", escaped(fields))
    }
}

/// Brings a store up to date. Returns true if it has changed.
pub(crate) fn apply<T: Object>(store: &mut BTreeMap<Key, T>, news: News<T>) -> bool {
    match news {
        News::All(objects) => {
            *store = objects.into_iter().map(|object| (Key::of(object.meta()), object)).collect();
            true
        }
        News::Set(object) => {
            store.insert(Key::of(object.meta()), object);
            true
        }
        News::Gone(key) | News::Unread(key, _) => store.remove(&key).is_some(),
        News::Deaf(_) | News::Heard => false,
    }
}

#[cfg(test)]
mod tests;
