//! The size of functions, and the parts of a file that are compiled for tests alone.

use std::{ops::RangeInclusive, path::Path};

use proc_macro2::Span;
use syn::{
    Attribute, Block, ImplItemFn, Item, ItemFn, Signature, TraitItemFn,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use crate::Offence;

/// Most lines of a function, from the first of its signature to its closing brace.
pub const LONGEST_FUNCTION: usize = 60;

/// The syntax of `text`, which is that of `path`.
///
/// # Panics
/// It is no Rust.
#[must_use]
pub fn parse(path: &Path, text: &str) -> syn::File {
    syn::parse_file(text)
        .unwrap_or_else(|error| panic!("{}:{}: {error}", path.display(), error.span().start().line))
}

/// Tells if an item with these attributes is compiled for tests alone.
#[must_use]
pub fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if !attribute.path().is_ident("cfg") {
            return attribute.path().segments.last().is_some_and(|segment| segment.ident == "test");
        }
        let Ok(list) = attribute.meta.require_list() else { return false };
        let condition: String = list.tokens.to_string().split_whitespace().collect();
        condition == "test" || condition.starts_with("all(test,")
    })
}

/// The attributes of an item.
#[must_use]
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The lines of items that are compiled for tests alone.
#[must_use]
pub fn test_lines(file: &syn::File) -> Vec<RangeInclusive<usize>> {
    struct Tests(Vec<RangeInclusive<usize>>);
    impl<'ast> Visit<'ast> for Tests {
        fn visit_item(&mut self, item: &'ast Item) {
            if is_test_only(attributes(item)) {
                self.0.push(extent(item.span()));
            } else {
                visit::visit_item(self, item);
            }
        }
    }
    let mut tests = Tests(Vec::new());
    tests.visit_file(file);
    tests.0
}

fn extent(span: Span) -> RangeInclusive<usize> {
    span.start().line..=span.end().line
}

/// The functions of `file` that are longer than [`LONGEST_FUNCTION`]; tests are not looked at.
#[must_use]
pub fn long_functions(path: &Path, file: &syn::File) -> Vec<Offence> {
    let mut visitor = Functions { path, offences: Vec::new() };
    visitor.visit_file(file);
    visitor.offences
}

struct Functions<'path> {
    path: &'path Path,
    offences: Vec<Offence>,
}

impl Functions<'_> {
    fn look(&mut self, signature: &Signature, block: &Block) {
        let (start, end) = (signature.span().start().line, block.span().end().line);
        let lines = end + 1 - start;
        if lines > LONGEST_FUNCTION {
            let text =
                format!("function `{}` has {lines} lines, more than {LONGEST_FUNCTION}", signature.ident);
            self.offences.push(Offence { file: self.path.to_owned(), line: start, text });
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.look(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if is_test_only(&function.attrs) {
            return;
        }
        self.look(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.look(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(text: &str) -> Vec<String> {
        let path = Path::new("a.rs");
        long_functions(path, &parse(path, text)).iter().map(ToString::to_string).collect()
    }

    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "f();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_one_line_too_many_is_found_wherever_it_is() {
        assert_eq!(long(&function("fits", LONGEST_FUNCTION)), [""; 0]);
        let found = "function `long` has 61 lines, more than 60";
        let long_one = function("long", LONGEST_FUNCTION + 1);
        assert_eq!(long(&long_one), [format!("a.rs:1: {found}")]);
        assert_eq!(long(&format!("impl A {{\n/// Doc.\n{long_one}}}")), [format!("a.rs:3: {found}")]);
        assert_eq!(long(&format!("trait A {{\n{long_one}}}")), [format!("a.rs:2: {found}")]);
        assert_eq!(long(&format!("mod a {{\n{long_one}}}")), [format!("a.rs:2: {found}")]);
        let outer = long(&format!("fn outer() {{\n{long_one}}}\n"));
        assert_eq!(outer.len(), 2, "{outer:?}");
    }

    #[test]
    fn tests_may_be_long() {
        let long_one = function("long", 100);
        assert_eq!(long(&format!("#[cfg(test)]\nmod tests {{\n{long_one}}}")), [""; 0]);
        assert_eq!(long(&format!("#[test]\n{long_one}")), [""; 0]);
        assert_eq!(long(&format!("#[tokio::test]\n{long_one}")), [""; 0]);
        assert_eq!(long(&format!("#[cfg(not(test))]\n{long_one}")).len(), 1);
    }
}
