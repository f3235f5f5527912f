//! A collection is followed against a server that says what a test has it say.

use std::{cell::RefCell, collections::VecDeque};

use tokio::time::timeout;

use super::*;
use crate::kubernetes::objects::{EndpointSlice, Namespace, Service, Store};

type Answer = Result<String, Failure>;

/// A server with prepared answers, which notes what it is asked. It has nothing more to say when they are used up.
#[derive(Default)]
struct Server {
    answers: RefCell<VecDeque<Answer>>,
    watches: RefCell<VecDeque<Result<Vec<Answer>, Failure>>>,
    asked: RefCell<Vec<String>>,
}

struct Prepared(VecDeque<Answer>);

impl Lines for Prepared {
    async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        self.0.pop_front().map(|line| line.map(|line| Zeroizing::new(line.into_bytes()))).transpose()
    }
}

impl Api for Server {
    type Watch = Prepared;

    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        self.asked.borrow_mut().push(path.to_owned());
        let answer = self.answers.borrow_mut().pop_front();
        match answer {
            Some(answer) => answer.map(|text| Zeroizing::new(text.into_bytes())),
            None => std::future::pending().await,
        }
    }

    async fn watch(&self, path: &str) -> Result<Prepared, Failure> {
        self.asked.borrow_mut().push(path.to_owned());
        let watch = self.watches.borrow_mut().pop_front();
        match watch {
            Some(watch) => watch.map(|lines| Prepared(lines.into())),
            None => std::future::pending().await,
        }
    }
}

fn server(
    answers: impl IntoIterator<Item = Answer>,
    watches: impl IntoIterator<Item = Result<Vec<Answer>, Failure>>,
) -> Server {
    Server {
        answers: RefCell::new(answers.into_iter().collect()),
        watches: RefCell::new(watches.into_iter().collect()),
        asked: RefCell::default(),
    }
}

fn object(name: &str, version: u64) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}"#)
}

fn page(version: u64, more: &str, names: &[&str]) -> Answer {
    let items: Vec<String> = names.iter().map(|name| object(name, 1)).collect();
    let items = items.join(",");
    Ok(format!(
        r#"{{"kind":"NamespaceList","metadata":{{"resourceVersion":"{version}","continue":"{more}"}},"items":[{items}]}}"#
    ))
}

fn event(kind: &str, object: &str) -> Answer {
    Ok(format!(r#"{{"type":"{kind}","object":{object}}}"#))
}

fn gone() -> Failure {
    Failure::of_status(br#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#)
}

/// Follows until the server has nothing more to say. Returns the names that are known then, and what was heard, a word each.
fn followed(server: &Server) -> (Vec<String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let collection = Collection { path: "/api/v1/namespaces".to_owned(), fields: String::new() };
    let (store, words) = (RefCell::new(Store::<Namespace>::new()), RefCell::new(Vec::new()));
    let sink = |news: News<Namespace>| {
        words.borrow_mut().push(match &news {
            News::All(all) => format!("all {}", all.len()),
            News::Set(namespace) => format!("set {}", namespace.meta().name),
            News::Gone(key) => format!("gone {}", key.name),
            News::Unread(key, _) => format!("unread {}", key.name),
            News::Deaf(_) => "deaf".to_owned(),
            News::Heard => "heard".to_owned(),
        });
        apply(&mut store.borrow_mut(), news);
    };
    runtime.unwrap().block_on(async {
        let _ = timeout(Duration::from_secs(3_600), follow(server, &collection, || 7, sink)).await;
    });
    (store.into_inner().into_keys().map(|key| key.name).collect(), words.into_inner())
}

#[test]
fn pages_are_read_to_their_end_and_changes_follow_from_there() {
    let server = server(
        [page(5, "x/y", &["a", "b"]), page(5, "", &["c"])],
        [Ok(vec![
            event("ADDED", &object("d", 6)),
            event("BOOKMARK", r#"{"kind":"Namespace","metadata":{"resourceVersion":"9"}}"#),
            event("MODIFIED", &object("a", 10)),
            event("DELETED", &object("b", 11)),
        ])],
    );
    let (names, words) = followed(&server);
    assert_eq!(names, ["a", "c", "d"]);
    assert_eq!(words, ["all 3", "heard", "set d", "set a", "gone b"]);
    let asked = server.asked.into_inner();
    assert_eq!(
        asked,
        [
            "/api/v1/namespaces?limit=500",
            "/api/v1/namespaces?limit=500&continue=x%2Fy",
            "/api/v1/namespaces?watch=1&allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=307",
            "/api/v1/namespaces?watch=1&allowWatchBookmarks=true&resourceVersion=11&timeoutSeconds=307",
        ],
        "an ended watch goes on where it was"
    );
}

#[test]
fn a_bookmark_alone_moves_the_place() {
    let server =
        server([page(5, "", &[])], [Ok(vec![event("BOOKMARK", r#"{"metadata":{"resourceVersion":"90"}}"#)])]);
    followed(&server);
    assert!(server.asked.into_inner()[2].contains("resourceVersion=90&"));
}

#[test]
fn a_place_that_is_forgotten_makes_a_new_list_and_what_is_gone_is_not_kept() {
    let said_on_the_way =
        event("ERROR", r#"{"kind":"Status","code":410,"reason":"Expired","message":"old"}"#);
    for forgotten in [Err(gone()), Ok(vec![said_on_the_way])] {
        let server = server([page(5, "", &["a", "b"]), page(50, "", &["b", "c"])], [forgotten]);
        let (names, words) = followed(&server);
        assert_eq!(names, ["b", "c"]);
        assert!(!words.contains(&"deaf".to_owned()), "{words:?}");
        assert!(server.asked.into_inner()[3].contains("resourceVersion=50&"));
    }
}

#[test]
fn a_list_that_expires_between_two_pages_is_begun_anew_a_few_times() {
    let expired = || [page(5, "more", &["a"]), Err(gone())];
    let server_of = |times: usize| {
        let answers = (0..times).flat_map(|_| expired()).chain([page(7, "", &["z"])]);
        server(answers, [])
    };
    let (names, words) = followed(&server_of(2));
    assert_eq!((names, words), (vec!["z".to_owned()], vec!["all 1".to_owned()]));
    let (names, words) = followed(&server_of(5));
    assert_eq!(names, ["z"]);
    assert_eq!(words, ["deaf", "all 1"], "and after a pause again");
}

#[test]
fn what_was_heard_stays_while_nobody_answers_and_the_watch_goes_on_where_it_was() {
    let failure = || Failure::other(&"cut off");
    let server = server(
        [page(5, "", &["a"])],
        [Ok(vec![event("ADDED", &object("b", 6)), Err(failure())]), Err(failure()), Ok(vec![])],
    );
    let (names, words) = followed(&server);
    assert_eq!(names, ["a", "b"]);
    assert_eq!(words, ["all 1", "heard", "set b", "deaf", "deaf", "heard"]);
    assert_eq!(
        server.asked.into_inner().iter().filter(|path| path.contains("resourceVersion=6&")).count(),
        3
    );
}

#[test]
fn what_makes_no_sense_is_a_failure_and_nothing_of_it_counts() {
    for line in
        ["", "{", r#"{"type":"NEW","object":{}}"#, r#"{"type":"ADDED","object":{"metadata":{"name":"x"}}}"#]
    {
        let server = server([page(5, "", &["a"])], [Ok(vec![Ok(line.to_owned())])]);
        let (names, words) = followed(&server);
        assert_eq!(names, ["a"], "{line}");
        assert_eq!(words, ["all 1", "heard", "deaf"], "{line}");
    }
    for list in ["", r#"{"items":[]}"#, r#"{"metadata":{"resourceVersion":"a&b"},"items":[]}"#] {
        let (names, words) = followed(&server([Ok(list.to_owned())], []));
        assert!(names.is_empty());
        assert_eq!(words, ["deaf"], "{list}");
    }
}

#[test]
fn pauses_grow_while_nobody_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let server = server((0..40).map(|_| Err(Failure::other(&"no"))), []);
        let collection = Collection { path: "/x".to_owned(), fields: "a=b".to_owned() };
        let _ =
            timeout(Duration::from_secs(300), follow(&server, &collection, || 0, |_: News<Namespace>| ()))
                .await;
        let asked = server.asked.into_inner();
        assert_eq!(asked[0], "/x?fieldSelector=a%3Db&limit=500");
        // 0.5, 1, 2, .. 16 s, then each 30.
        assert!((14..=17).contains(&asked.len()), "{}", asked.len());
    });
}

#[test]
fn the_lines_of_a_real_server_are_read() {
    let words = |line: &str| match read_event::<EndpointSlice>(line.as_bytes()).unwrap() {
        (Some(News::Set(slice)), version) => {
            assert!(!version.is_empty());
            if slice.endpoints.iter().any(|end| end.conditions.is_terminating()) {
                "terminating"
            } else {
                "set"
            }
        }
        (None, version) if !version.is_empty() => "bookmark",
        other => panic!("{other:?}"),
    };
    let said: Vec<&str> = include_str!("../testdata/watch-v1beta1.jsonl").lines().map(words).collect();
    assert!(["set", "terminating", "bookmark"].iter().all(|word| said.contains(word)), "{said:?}");
    let (gone, version) = read_event::<Service>(include_bytes!("../testdata/watch-deleted.json")).unwrap();
    let key = Key { namespace: "dirtest".to_owned(), name: "np".to_owned() };
    assert_eq!((gone, &*version), (Some(News::Gone(key)), "1395"));
}

#[test]
fn what_one_user_has_written_badly_hides_nothing_but_itself() {
    let bad = |name: &str, version: u64| {
        format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}},"metadata2":1,"spec":7}}"#)
    };
    let first =
        page(5, "", &["a"]).unwrap().replace(r#""items":["#, &format!(r#""items":[{},"#, bad("x", 2)));
    let server = server(
        [Ok(first)],
        [Ok(vec![
            event("MODIFIED", &bad("a", 6)),
            event("ADDED", &object("b", 7)),
            event("DELETED", &bad("x", 8)),
        ])],
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let collection = Collection { path: "/api/v1/services".to_owned(), fields: String::new() };
    let words = RefCell::new(Vec::new());
    let sink = |news: News<Service>| {
        words.borrow_mut().push(match news {
            News::All(all) => format!("all {}", all.len()),
            News::Set(service) => format!("set {}", service.meta().name),
            News::Gone(key) => format!("gone {}", key.name),
            News::Unread(key, reason) => format!("unread {}: {reason}", key.name),
            News::Deaf(_) | News::Heard => return,
        });
    };
    runtime.unwrap().block_on(async {
        let _ = timeout(Duration::from_secs(60), follow(&server, &collection, || 7, sink)).await;
    });
    let words = words.into_inner();
    assert_eq!(words.len(), 5, "{words:?}");
    assert_eq!((&*words[0], &*words[3], &*words[4]), ("all 1", "set b", "gone x"));
    assert!(words[1].starts_with("unread x: JSON that makes no sense"), "{words:?}");
    assert!(words[2].starts_with("unread a: "), "{words:?}");
    assert!(server.asked.into_inner()[2].contains("resourceVersion=8&"), "the watch goes on behind it");
}

#[test]
fn pages_are_shorter_where_objects_are_large() {
    let long = || {
        let mut failure = Failure::other(&"too long");
        failure.kind = FailureKind::TooLong;
        failure
    };
    let server = server([Err(long()), Err(long()), page(5, "m", &["a"]), page(5, "", &["b"])], []);
    let (names, words) = followed(&server);
    assert_eq!((names.len(), &*words), (2, &["all 2".to_owned()][..]));
    let asked = server.asked.into_inner();
    let limits: Vec<&str> = asked.iter().filter_map(|path| path.split("limit=").nth(1)).collect();
    assert_eq!(limits, ["500", "250", "125", "125&continue=m"]);
}

#[test]
fn a_watch_that_ends_at_once_is_not_asked_for_without_a_pause() {
    let watches = (0..20).map(|_| Ok(Vec::new()));
    let server = server([page(5, "", &[])], watches);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let collection = Collection { path: "/api/v1/namespaces".to_owned(), fields: String::new() };
    runtime.unwrap().block_on(async {
        let following = follow(&server, &collection, || 7, |_: News<Namespace>| {});
        let _ = timeout(FIRST_PAUSE * 4, following).await;
    });
    assert!(server.asked.borrow().len() <= 7, "{:?}", server.asked);
}
