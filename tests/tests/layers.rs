//! The floor plan, as far as a machine can check it: which module may import which, and that none imports another
//! in a circle. Read from the source; what is compiled for tests only does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// What each module of `common` may import of the others.
const COMMON: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("limits", &[]),
    ("log_context", &[]),
    ("sync", &[]),
    ("text", &[]),
    ("cache", &[]),
    ("net", &["error", "limits", "log_context", "sync", "text"]),
    ("proto", &["error", "text"]),
    ("auth", &["error", "proto", "text"]),
    ("db", &["error", "limits", "net", "sync", "text"]),
    ("config", &["auth", "db", "error", "limits", "net", "proto", "text"]),
    ("rpc", &["error", "limits", "net", "proto"]),
    ("http", &["error", "limits", "net", "text"]),
    ("daemon", &["config", "db", "error", "limits", "log_context", "net", "text"]),
    ("fuzz", &["auth", "config", "error", "proto", "rpc", "text"]),
];

/// The order of the modules of the other crates, from the top down. Those of one line are beside each other.
const ORDER: &[(&str, &[&str])] = &[
    (
        "tracker",
        &[
            "main",
            "server",
            "service status",
            "shared_lists list",
            "cache db",
            "globals",
            "groups",
            "heartbeat join_budget shares",
        ],
    ),
    ("idserver", &["main", "server", "service", "db", "globals marks"]),
    (
        "storage",
        &[
            "main",
            "fuzz server",
            "service maintenance",
            "session catalog",
            "db cache cluster",
            "file",
            "volume",
            "path globals scratch",
        ],
    ),
    (
        "client",
        &[
            "main",
            "cli fuzz",
            "client",
            "upload download publish",
            "storages",
            "trackers",
            "mngr",
            "conn pool",
            "attempt file_id options",
        ],
    ),
    (
        "httpd",
        &[
            "main",
            "server",
            "fuzz",
            "front_end",
            "response_writer",
            "service",
            "access_log download",
            "globals status_code",
        ],
    ),
];

/// The modules that each module of a crate imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn source(krate: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src")
}

/// The files of a crate by the path of their module; the root has none.
fn modules(krate: &str) -> BTreeMap<String, PathBuf> {
    fn walk(directory: &Path, prefix: &str, found: &mut BTreeMap<String, PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let module = if prefix.is_empty() { name.clone() } else { format!("{prefix}::{name}") };
            match (path.is_dir(), name.as_str()) {
                (true, _) => walk(&path, &module, found),
                (false, "mod") => drop(found.insert(prefix.to_owned(), path)),
                (false, "lib") => drop(found.insert(String::new(), path)),
                // Unit tests beside the file that they test.
                (false, "tests") => {}
                (false, _) => drop(found.insert(module, path)),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&source(krate), "", &mut found);
    found
}

/// Collects the paths that a file names, but for those in tests.
struct Paths {
    /// The module that the item at hand is in.
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Paths {
    fn is_test(attributes: &[syn::Attribute]) -> bool {
        attributes.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
        })
    }

    fn note(&mut self, path: &[String]) {
        let mut full = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("super" | "self") => self.module.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "super" => drop(full.pop()),
                "crate" | "self" => {}
                name => full.push(name.to_owned()),
            }
        }
        self.found.push(full);
    }

    fn tree(&mut self, prefix: &mut Vec<String>, tree: &syn::UseTree) {
        let depth = prefix.len();
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(prefix, &path.tree);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(prefix, item)),
            syn::UseTree::Name(name) => {
                prefix.push(name.ident.to_string());
                self.note(prefix);
            }
            syn::UseTree::Rename(rename) => {
                prefix.push(rename.ident.to_string());
                self.note(prefix);
            }
            syn::UseTree::Glob(_) => self.note(prefix),
        }
        prefix.truncate(depth);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !Paths::is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !Paths::is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(super)` imports nothing.
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.note(&parts);
        visit::visit_path(self, path);
    }
}

fn imports(krate: &str) -> Imports {
    let modules = modules(krate);
    let mut imports = Imports::new();
    for (module, path) in &modules {
        let text = fs::read_to_string(path).unwrap();
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parts = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned);
        let mut paths = Paths { module: parts.collect(), found: Vec::new() };
        paths.visit_file(&file);
        let found = imports.entry(module.clone()).or_default();
        for mut target in paths.found {
            while !target.is_empty() && !modules.contains_key(&target.join("::")) {
                target.pop();
            }
            let target = target.join("::");
            if target != *module && !target.is_empty() {
                found.insert(target);
            }
        }
    }
    imports
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// A way from a module back to itself.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn go<'a>(
        module: &'a str,
        imports: &'a Imports,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|step| *step == module) {
            return Some(way[begin..].iter().chain([&module]).map(|step| (*step).to_owned()).collect());
        }
        if done.contains(module) {
            return None;
        }
        way.push(module);
        let found = imports.get(module)?.iter().find_map(|target| go(target, imports, way, done));
        way.pop();
        done.insert(module);
        found
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| go(module, imports, &mut Vec::new(), &mut done))
}

#[test]
fn no_module_imports_another_in_a_circle() {
    for krate in ["common", "tracker", "idserver", "storage", "client", "httpd", "bench", "tests"] {
        let imports = imports(krate);
        assert!(imports.len() > 3, "{krate}: {} modules", imports.len());
        assert_eq!(circle(&imports), None, "in {krate}");
    }
}

#[test]
fn the_floors_of_common_import_from_below_only() {
    let known: BTreeMap<&str, &[&str]> = COMMON.iter().copied().collect();
    for (module, targets) in imports("common") {
        let own = top(&module);
        if own.is_empty() {
            continue;
        }
        let allowed = known.get(own).unwrap_or_else(|| panic!("the floor plan has no place for {own}"));
        for target in targets.iter().map(|target| top(target)).filter(|target| *target != own) {
            assert!(allowed.contains(&target), "common: {module} imports {target}");
        }
    }
}

#[test]
fn the_servers_import_from_the_top_down() {
    for (krate, order) in ORDER {
        let floor =
            |module: &str| order.iter().position(|floor| floor.split(' ').any(|name| name == top(module)));
        for (module, targets) in imports(krate).into_iter().filter(|(module, _)| !module.is_empty()) {
            let Some(own) = floor(&module) else {
                panic!("{krate}: the floor plan has no place for {module}")
            };
            for target in &targets {
                let below = floor(target).is_some_and(|target| target >= own);
                assert!(below, "{krate}: {module} imports {target}, which is above it");
            }
        }
    }
}
