//! The direction of layers, read from the source: a layer may use those below it, never one above, and siblings do
//! not import each other.

use std::{collections::BTreeSet, fs, path::Path};

use syn::{UseTree, visit::Visit};

/// Layer, and what it may use. `lib.rs` draws the same.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("main", &["app", "cli", "settings", "telemetry", "tls", "error", "upstream"]),
    ("cli", &["settings", "upstream", "error"]),
    ("app", &["server", "session", "auth", "tls", "k8s", "settings", "upstream", "error"]),
    ("server", &["session", "upstream", "error"]),
    ("session", &["auth", "tls", "upstream", "pg", "error"]),
    ("auth", &["upstream", "pg", "error"]),
    ("tls", &["upstream", "pg", "error"]),
    ("k8s", &["upstream", "error"]),
    ("settings", &[]),
    ("pg", &["error"]),
    ("upstream", &["error"]),
    ("error", &[]),
];

/// Collects the top-level modules of the crate that a file names, however it writes them.
struct Edges<'a> {
    /// The file's place: `["session", "connect"]`.
    place: &'a [String],
    /// How many modules deep inside the file we are.
    depth: usize,
    found: BTreeSet<String>,
}

impl Edges<'_> {
    fn path(&mut self, segments: &[String]) {
        let mut segments = segments;
        match segments.first().map(String::as_str) {
            Some("crate" | "pgferry") => segments = &segments[1..],
            Some("super") => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let depth = self.place.len() + self.depth;
                // From a/b, two ups lead to the root, where the next segment is a layer.
                if ups < depth {
                    return;
                }
                segments = &segments[ups..];
            }
            _ => return,
        }
        self.found.extend(segments.first().cloned());
    }

    fn tree(&mut self, prefix: &[String], tree: &UseTree) {
        let mut next = prefix.to_vec();
        match tree {
            UseTree::Path(path) => {
                next.push(path.ident.to_string());
                self.tree(&next, &path.tree);
            }
            UseTree::Name(name) => {
                next.push(name.ident.to_string());
                self.path(&next);
            }
            UseTree::Rename(rename) => {
                next.push(rename.ident.to_string());
                self.path(&next);
            }
            UseTree::Glob(_) => self.path(&next),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(prefix, item)),
        }
    }
}

impl<'ast> Visit<'ast> for Edges<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.depth += 1;
        syn::visit::visit_item_mod(self, item);
        self.depth -= 1;
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        // Inside a macro's arguments there are only tokens: `crate :: k8s` stands as text.
        let text = found.tokens.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        for window in words.windows(3) {
            if window[0] == "crate" && window[1] == "::" {
                self.found.insert(window[2].trim_end_matches([',', ';', ')']).to_owned());
            }
        }
        syn::visit::visit_macro(self, found);
    }
}

fn edges(place: &[String], source: &str) -> BTreeSet<String> {
    let file = syn::parse_file(source).expect("valid Rust");
    let mut edges = Edges { place, depth: 0, found: BTreeSet::new() };
    edges.visit_file(&file);
    edges.found
}

/// Forbidden edges of one file.
fn violations(place: &[String], source: &str) -> Vec<String> {
    let layer = place[0].as_str();
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == layer) else {
        return Vec::new();
    };
    let layers: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).chain(["telemetry"]).collect();
    edges(place, source)
        .into_iter()
        .filter(|to| layers.contains(to.as_str()) && to != layer && !allowed.contains(&to.as_str()))
        .map(|to| format!("{} uses {to}", place.join("::")))
        .collect()
}

fn each_file(directory: &Path, place: &[String], check: &mut dyn FnMut(&[String], &str)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut inside = place.to_vec();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            inside.push(stem);
            each_file(&path, &inside, check);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if stem != "mod" {
                inside.push(stem);
            }
            check(&inside, &fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_file_keeps_the_direction() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut files) = (Vec::new(), 0);
    each_file(&source, &[], &mut |place, text| {
        files += 1;
        found.extend(violations(place, text));
    });
    assert!(files > 30, "only {files} files were read");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn planted_violations_are_found() {
    let place = |place: &str| place.split("::").map(str::to_owned).collect::<Vec<_>>();
    for (at, source) in [
        ("session::connect", "use crate::k8s::K8sError;"),
        ("session::connect", "use crate::{error::Report, k8s::{self, K8sError}};"),
        ("session::connect", "use super::super::k8s;"),
        ("session::connect", "pub use crate::k8s::client as api;"),
        ("session", "fn f() { let _ = crate::k8s::client::x(); }"),
        ("session", "mod inner { use super::super::k8s::x; }"),
        ("k8s::dial", "fn f(x: crate::pg::PacketError) {}"),
        ("k8s::dial", "fn f() { println!(\"{}\", crate::pg::x()); }"),
        ("pg::frame", "use crate::upstream::Ask;"),
        ("auth", "use crate::tls;"),
        ("server", "use crate::settings::Settings;"),
        ("k8s::operators::cnpg", "use super::super::super::session;"),
    ] {
        assert_eq!(violations(&place(at), source).len(), 1, "{at}: {source}");
    }
    for (at, source) in [
        ("session::connect", "use super::pipe::Pipe; use crate::pg::frame::Frame;"),
        ("k8s::operators::cnpg", "use super::super::objects::Pod; use crate::upstream::Lost;"),
    ] {
        assert_eq!(violations(&place(at), source), Vec::<String>::new(), "{at}: {source}");
    }
}

/// Only `k8s/api/access.rs` makes a path to the API server, out of parsed names: nothing else writes one down.
#[test]
fn paths_to_the_api_server_are_made_in_one_place() {
    /// What a path holds, in whatever string it is written.
    const TRACES: [&str; 4] = ["/api/v1", "/apis/", "/namespaces/", "namespaces/{"];
    struct Texts(Vec<String>);
    impl<'ast> Visit<'ast> for Texts {
        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            self.0.push(text.value());
        }
        fn visit_macro(&mut self, found: &'ast syn::Macro) {
            self.0.push(found.tokens.to_string());
        }
        // Documentation quotes other projects' files.
        fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
        fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
            // A test may say which path it expects.
            let is_test = item.attrs.iter().any(|attribute| quote(attribute).contains("test"));
            if !is_test {
                syn::visit::visit_item_mod(self, item);
            }
        }
    }
    fn quote(attribute: &syn::Attribute) -> String {
        match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        }
    }
    let written = |source: &str| {
        let mut texts = Texts(Vec::new());
        texts.visit_file(&syn::parse_file(source).expect("valid Rust"));
        texts.0.into_iter().filter(|text| TRACES.iter().any(|trace| text.contains(trace))).collect::<Vec<String>>()
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    each_file(&source, &[], &mut |place, text| {
        if place != ["k8s", "api", "access"] && !place.iter().any(|part| part.ends_with("_tests")) {
            found.extend(written(text).into_iter().map(|text| format!("{}: {text}", place.join("::"))));
        }
    });
    assert!(found.is_empty(), "{found:#?}");
    let planted = r#"fn f(name: &str) { get(format!("/api/v1/namespaces/x/secrets/{name}")); }"#;
    assert_eq!(written(planted).len(), 1);
    assert_eq!(written(r#"const PATH: &str = "/apis/x/v1/namespaces/y";"#).len(), 1);
}
