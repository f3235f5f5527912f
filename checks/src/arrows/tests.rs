use std::path::Path;

use super::*;
use crate::syntax::parse;

/// A crate of such modules, `""` the root; `a::b` is a file `b` in a folder `a`.
fn plan(modules: &[(&str, &str)]) -> Plan {
    let room = |&(module, text): &(&str, &str)| {
        let path =
            if module.is_empty() { "lib.rs".to_owned() } else { format!("{}.rs", module.replace("::", "/")) };
        Room {
            module: module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            text: text.to_owned(),
            syntax: parse(Path::new(&path), text),
            path: path.into(),
            is_test_only: false,
        }
    };
    Plan::of(&modules.iter().map(room).collect::<Vec<_>>())
}

fn arrows(modules: &[(&str, &str)]) -> Vec<String> {
    let plan = plan(modules);
    let name = |at: usize| plan.rooms[at].display().to_string().replace(".rs", "");
    plan.arrows.keys().map(|&(from, to)| format!("{} -> {}", name(from), name(to))).collect()
}

const ROOT: (&str, &str) = ("", "mod a;\nmod b;\n");

#[test]
fn a_name_is_seen_in_use_in_a_path_in_a_type_and_in_a_macro() {
    let b = ("b", "pub struct B;\npub fn f() {}\n");
    for code in [
        "use crate::b::B;",
        "use super::b::{B as C, f};",
        "fn g() { crate::b::f() }",
        "use crate::b;\nfn g() { b::f() }",
        "fn g(b: Option<super::b::B>) {}",
        "fn g() { println!(\"{}\", [1, crate::b::f()]) }",
        "fn g() { use crate::b::*; }",
        "mod inner { fn g() { super::super::b::f() } }",
        "impl crate::b::B {}",
    ] {
        assert_eq!(arrows(&[ROOT, ("a", code), b]), ["a -> b"], "{code}");
    }
}

#[test]
fn what_is_not_named_is_no_arrow() {
    let b = ("b", "pub struct B;\n");
    for code in [
        "use crate::b;",
        "pub use crate::b::B;",
        "pub(crate) use super::b::B;",
        "fn g(b: u8) { b + 1 }",
        "use std::b::B;",
        "#[cfg(test)]\nuse crate::b::B;",
        "#[cfg(test)]\nmod tests { use crate::b::B; }",
        "// crate::b::B\nconst A: &str = \"crate::b::B\";",
    ] {
        assert_eq!(arrows(&[ROOT, ("a", code), b]), [""; 0], "{code}");
    }
}

#[test]
fn a_re_export_is_followed_to_the_definition() {
    let root = ("", "mod a;\nmod b;\nmod c;\npub use b::B;\npub use c::*;\n");
    let (b, c) = (("b", "pub(crate) use crate::c::C as B;\n"), ("c", "pub struct C;\n"));
    assert_eq!(arrows(&[root, ("a", "use crate::B;"), b, c]), ["a -> c"]);
    assert_eq!(arrows(&[root, ("a", "use super::C;"), b, c]), ["a -> c"]);
    assert_eq!(arrows(&[root, ("a", "use crate::b::B;"), b, c]), ["a -> c"]);
}

#[test]
fn a_function_may_have_the_name_of_its_module() {
    let root = ("", "mod a;\nuse crate::a::a;\nfn f() { a(); a::b() }\n");
    assert_eq!(arrows(&[root, ("a", "pub fn a() {}\npub fn b() {}\n")]), ["lib -> a"]);
}

#[test]
fn parent_and_child_that_name_each_other_are_a_circle() {
    let parent = ("p", "mod c;\npub struct P;\nfn f() { c::g() }\n");
    let child = ("p::c", "use super::P;\npub(super) fn g() {}\n");
    let found = plan(&[("", "mod p;"), parent, child]);
    assert_eq!(found.summary(), "3 files, 2 arrows, 1 circles (of 2 files)");
    let said = found.offences();
    assert_eq!(
        said.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["p.rs:1: a circle of 2 files:\n    p.rs:3: `c::g` of p/c.rs\n    p/c.rs:1: `super::P` of p.rs"]
    );
    // What both need in a file of its own, which the parent re-exports.
    let parent = ("p", "mod c;\nmod state;\npub use state::P;\nfn f() { c::g() }\n");
    let found = plan(&[("", "mod p;"), parent, child, ("p::state", "pub struct P;")]);
    assert_eq!(found.summary(), "4 files, 2 arrows, 0 circles");
}

#[test]
fn a_circle_of_three_is_one_and_who_leads_to_it_is_outside() {
    let root = ("", "mod a;\nmod b;\nmod c;\nmod d;\n");
    let names = |other: &str| format!("pub struct X;\nfn f(x: crate::{other}::X) {{}}\n");
    let (a, b, c, d) = (names("b"), names("c"), names("a"), names("a"));
    let found = plan(&[root, ("a", &a), ("b", &b), ("c", &c), ("d", &d)]);
    assert_eq!(found.circles(), [BTreeSet::from([1, 2, 3])]);
}
