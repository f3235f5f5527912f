//! From the paths in the code of a crate to the files that define what they name.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ImplItemFn, Item, ItemUse, Macro, UseTree, Visibility,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use crate::{
    sources::Room,
    syntax::{attributes, is_test_only},
};

/// More re-exports in a row than any crate has: the names go in a circle.
const DEEPEST: usize = 16;

/// The arrows between `rooms`, none of which is for tests alone.
pub(super) fn arrows(rooms: &[&Room]) -> BTreeMap<(usize, usize), (usize, String)> {
    let mut modules = Modules::default();
    for (file, room) in rooms.iter().enumerate() {
        modules.take(file, &room.module, &room.syntax.items);
    }
    let mut arrows = BTreeMap::new();
    for named in &modules.named {
        let from = modules.scopes[&named.module].file;
        if let Some(to) = modules.file_of(&named.module, &named.path, 0).filter(|to| *to != from) {
            arrows.entry((from, to)).or_insert_with(|| (named.line, named.path.join("::")));
        }
    }
    arrows
}

type Name = Vec<String>;

/// The names of a module, be it a file or inline.
#[derive(Debug, Default)]
struct Scope {
    file: usize,
    children: BTreeSet<String>,
    /// Names that `use` brings, and the paths behind them.
    brought: BTreeMap<String, Name>,
    /// Modules or enums of which `use` brings all.
    globs: Vec<Name>,
    defined: BTreeSet<String>,
}

/// A path in the code of a module.
#[derive(Debug)]
struct Named {
    module: Name,
    path: Name,
    line: usize,
}

#[derive(Debug, Default)]
struct Modules {
    scopes: BTreeMap<Name, Scope>,
    named: Vec<Named>,
}

impl Modules {
    fn take(&mut self, file: usize, module: &[String], items: &[Item]) {
        let mut collector =
            Collector { module, scope: Scope { file, ..Scope::default() }, named: Vec::new() };
        let mut inline = Vec::new();
        for item in items.iter().filter(|item| !is_test_only(attributes(item))) {
            collector.define(item);
            match item {
                Item::Mod(child) => {
                    if let Some((_, items)) = &child.content {
                        inline.push((child.ident.to_string(), items));
                    }
                }
                item => collector.visit_item(item),
            }
        }
        let Collector { scope, named, .. } = collector;
        self.scopes.insert(module.to_owned(), scope);
        self.named.extend(named);
        for (name, items) in inline {
            self.take(file, &[module, &[name]].concat(), items);
        }
    }

    /// The file that defines what `path` names in `module`; `None` if it is of another crate, or a module.
    fn file_of(&self, module: &[String], path: &[String], depth: usize) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        let scope = self.scopes.get(module).filter(|_| depth < DEEPEST)?;
        match first.as_str() {
            "crate" => return self.walk(&[], rest, depth),
            "self" => return self.walk(module, rest, depth),
            "super" => return self.walk(module.split_last()?.1, rest, depth),
            _ => {}
        }
        let is_known = scope.children.contains(first)
            || scope.brought.contains_key(first)
            || scope.defined.contains(first)
            || self.globbed(module, first, depth).is_some();
        is_known.then(|| self.walk(module, path, depth)).flatten()
    }

    /// The file that defines the item at `path` below `module`.
    fn walk(&self, module: &[String], path: &[String], depth: usize) -> Option<usize> {
        let scope = self.scopes.get(module).filter(|_| depth < DEEPEST)?;
        let (first, rest) = path.split_first()?;
        let child = || [module, std::slice::from_ref(first)].concat();
        match first.as_str() {
            "super" => return self.walk(module.split_last()?.1, rest, depth),
            "self" => return self.walk(module, rest, depth),
            "*" => return Some(scope.file),
            _ => {}
        }
        if scope.children.contains(first) && !rest.is_empty() {
            return self.walk(&child(), rest, depth);
        }
        if let Some(behind) = scope.brought.get(first) {
            // A function may have the name of its module: `use measure::measure`.
            let full: Name = behind.iter().chain(rest).cloned().collect();
            return self.file_of(module, &full, depth + 1);
        }
        if scope.children.contains(first) {
            return None;
        }
        if scope.defined.contains(first) {
            return Some(scope.file);
        }
        if let Some(at) = self.globbed(module, first, depth) {
            return self.walk(&at, path, depth + 1);
        }
        // A macro's item, or one that `use` brings from another crate.
        None
    }

    /// The module whose names a glob brings into `module` and that has `name`.
    fn globbed(&self, module: &[String], name: &str, depth: usize) -> Option<Name> {
        let scope = self.scopes.get(module).filter(|_| depth < DEEPEST)?;
        scope.globs.iter().find_map(|glob| {
            let at = self.module_of(module, glob)?;
            let behind = self.scopes.get(&at)?;
            let has = behind.defined.contains(name)
                || behind.children.contains(name)
                || behind.brought.contains_key(name)
                || at != module && self.globbed(&at, name, depth + 1).is_some();
            has.then_some(at)
        })
    }

    /// The module that `path` names in `module`, by the tree of modules alone.
    fn module_of(&self, module: &[String], path: &[String]) -> Option<Name> {
        let mut at: Name = module.to_owned();
        for (place, part) in path.iter().enumerate() {
            match part.as_str() {
                "crate" if place == 0 => at.clear(),
                "self" => {}
                "super" => drop(at.pop()?),
                _ => at.push(part.clone()),
            }
        }
        self.scopes.contains_key(&at).then_some(at)
    }
}

/// Gathers the names and the paths of one module.
struct Collector<'module> {
    module: &'module [String],
    scope: Scope,
    named: Vec<Named>,
}

impl Collector<'_> {
    fn name(&mut self, path: Name, line: usize) {
        self.named.push(Named { module: self.module.to_owned(), path, line });
    }

    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Macro(item) => match &item.ident {
                Some(ident) => ident,
                None => return,
            },
            Item::Mod(item) => {
                self.scope.children.insert(item.ident.to_string());
                return;
            }
            _ => return,
        };
        self.scope.defined.insert(name.to_string());
    }

    /// Takes the leaves of a `use`; one that `hands_on` names nothing for this file.
    fn bring(&mut self, tree: &UseTree, before: &[String], hands_on: bool) {
        let with = |name: String| [before, &[name]].concat();
        let (name, path) = match tree {
            UseTree::Path(path) => return self.bring(&path.tree, &with(path.ident.to_string()), hands_on),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.bring(tree, before, hands_on);
                }
                return;
            }
            UseTree::Glob(glob) => {
                if !hands_on {
                    self.name(with("*".to_owned()), glob.span().start().line);
                }
                self.scope.globs.push(before.to_owned());
                return;
            }
            UseTree::Name(name) if name.ident == "self" => match before.last() {
                Some(last) => (last.clone(), before.to_owned()),
                None => return,
            },
            UseTree::Name(name) => (name.ident.to_string(), with(name.ident.to_string())),
            UseTree::Rename(rename) => (rename.rename.to_string(), with(rename.ident.to_string())),
        };
        if !hands_on {
            self.name(path.clone(), tree.span().start().line);
        }
        // `use a::a;` beside `mod a;` is not to be looked up by itself.
        if path.len() > 1 {
            self.scope.brought.insert(name, path);
        }
    }

    /// The paths in the arguments of a macro, which have no syntax yet.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path = Name::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.finish(&mut path, line);
                        line = ident.span().start().line;
                    }
                    colons = 0;
                    path.push(ident.to_string());
                }
                other => {
                    self.finish(&mut path, line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.scan(group.stream());
                    }
                }
            }
        }
        self.finish(&mut path, line);
    }

    fn finish(&mut self, path: &mut Name, line: usize) {
        if !path.is_empty() {
            self.name(std::mem::take(path), line);
        }
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if !is_test_only(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let hands_on = !matches!(item.vis, Visibility::Inherited);
        self.bring(&item.tree, &[], hands_on);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.name(names, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}
