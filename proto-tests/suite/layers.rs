//! The direction of layers, read from the source: a layer may use those below it, never one above, and siblings do
//! not import each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{UseTree, visit::Visit};

/// Layer, and what it may use. `lib.rs` draws the same.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("main", &["app", "cli", "settings", "telemetry", "tls", "error", "upstream"]),
    ("cli", &["settings", "upstream", "error"]),
    ("app", &["admin", "server", "session", "auth", "tls", "k8s", "settings", "audit", "upstream", "error", "metrics"]),
    ("admin", &["error", "metrics"]),
    ("server", &["session", "audit", "upstream", "error", "metrics"]),
    ("session", &["auth", "tls", "audit", "upstream", "pg", "error", "metrics"]),
    ("auth", &["upstream", "pg", "error"]),
    ("tls", &["upstream", "pg", "error"]),
    ("k8s", &["upstream", "error"]),
    ("settings", &[]),
    ("audit", &["upstream", "error"]),
    ("pg", &["error"]),
    ("upstream", &["error"]),
    ("error", &[]),
    ("metrics", &[]),
];

/// The rooms of `k8s`, and which others each may use.
const ROOMS: [(&str, &[&str]); 7] = [
    ("directory", &["cluster", "operators", "api"]),
    ("credentials", &["cluster", "operators", "api"]),
    ("dial", &["cluster", "operators", "api"]),
    ("review", &["api"]),
    ("cluster", &["operators", "api"]),
    ("operators", &["api"]),
    ("api", &[]),
];

/// Collects the modules of the crate that a file names, in full, however it writes them.
struct Edges<'a> {
    /// The file's place: `["session", "connect"]`.
    place: &'a [String],
    /// How many modules deep inside the file we are.
    depth: usize,
    found: BTreeSet<Vec<String>>,
}

impl Edges<'_> {
    fn path(&mut self, segments: &[String]) {
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        let absolute = match segments.first().map(String::as_str) {
            Some("crate" | "pgferry") => segments[1..].to_vec(),
            // Inside a module of the file's own, some of the ups lead no further than to the file.
            Some("super") if ups <= self.depth => return,
            Some("super") => {
                let kept = (self.place.len() + self.depth).saturating_sub(ups).min(self.place.len());
                self.place[..kept].iter().cloned().chain(segments[ups..].iter().cloned()).collect()
            }
            _ => return,
        };
        if !absolute.is_empty() {
            self.found.insert(absolute);
        }
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
        // Inside a macro's arguments there are only tokens: `crate :: k8s :: x` stands as text.
        let text = found.tokens.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        for start in words.iter().enumerate().filter(|(_, word)| **word == "crate").map(|(at, _)| at) {
            let rest = words[start..].chunks(2).take_while(|pair| pair.get(1).is_none_or(|next| *next == "::"));
            let segments: Vec<String> =
                rest.map(|pair| pair[0].trim_end_matches([',', ';', ')', '(']).to_owned()).collect();
            self.path(&segments);
        }
        syn::visit::visit_macro(self, found);
    }
}

fn edges(place: &[String], source: &str) -> BTreeSet<Vec<String>> {
    let file = syn::parse_file(source).expect("valid Rust");
    let mut edges = Edges { place, depth: 0, found: BTreeSet::new() };
    edges.visit_file(&file);
    edges.found
}

/// Forbidden edges of one file: to layers above, and to rooms above or beside.
fn violations(place: &[String], source: &str) -> BTreeSet<String> {
    let Some((layer, allowed)) = ALLOWED.iter().find(|(name, _)| *name == place[0]) else {
        return BTreeSet::new();
    };
    let layers: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).chain(["telemetry"]).collect();
    let rooms = place.get(1).filter(|_| *layer == "k8s");
    let rooms = rooms.and_then(|room| ROOMS.iter().find(|(name, _)| name == room));
    let mut found = BTreeSet::new();
    for to in edges(place, source) {
        let (layer_of, room_of) = (to[0].as_str(), to.get(1).map_or("", String::as_str));
        let is_room = ROOMS.iter().any(|(name, _)| *name == room_of);
        if layers.contains(layer_of) && layer_of != *layer && !allowed.contains(&layer_of) {
            found.insert(format!("{} uses {layer_of}", place.join("::")));
        }
        if let Some((room, below)) = rooms
            && layer_of == "k8s"
            && is_room
            && room_of != *room
            && !below.contains(&room_of)
        {
            found.insert(format!("{} uses k8s::{room_of}", place.join("::")));
        }
    }
    found
}

/// By file, the files that it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Which files name which, of these (place, source). Tests may name what they like, and a folder's `mod.rs` is its door.
fn graph(files: &[(Vec<String>, String)]) -> Graph {
    let places: BTreeSet<String> = files.iter().map(|(place, _)| place.join("::")).collect();
    let file_of =
        |to: &[String]| (1..=to.len()).rev().map(|length| to[..length].join("::")).find(|to| places.contains(to));
    let named = files.iter().map(|(place, source)| {
        let own = place.join("::");
        let to = edges(place, source).iter().filter_map(|to| file_of(to)).filter(|to| *to != own).collect();
        (own, to)
    });
    named.collect()
}

/// A circle of files that name each other, if there is one.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn walk(graph: &Graph, at: &str, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        if let Some(begins) = way.iter().position(|before| before == at) {
            return Some(way[begins..].to_vec());
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        way.push(at.to_owned());
        let found = graph.get(at).into_iter().flatten().find_map(|next| walk(graph, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| walk(graph, file, &mut Vec::new(), &mut done))
}

/// Everything but the tests inside.
fn without_tests(source: &str) -> String {
    let mut file = syn::parse_file(source).expect("valid Rust");
    file.items.retain(|item| {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            _ => return true,
        };
        !attributes.iter().any(|attribute| attribute.path().is_ident("cfg"))
    });
    quote::ToTokens::to_token_stream(&file).to_string()
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
fn no_files_name_each_other_in_a_circle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join("k8s");
    let mut files = Vec::new();
    each_file(&source, &["k8s".to_owned()], &mut |place, text| {
        if !place.last().is_some_and(|name| name.ends_with("_tests")) {
            files.push((place.to_vec(), without_tests(text)));
        }
    });
    assert!(files.len() > 50, "only {} files were read", files.len());
    assert_eq!(circle(&graph(&files)), None);
}

fn place(place: &str) -> Vec<String> {
    place.split("::").map(str::to_owned).collect()
}

#[test]
fn planted_violations_are_found() {
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
        ("admin::http", "use crate::session::phase::Phase;"),
        ("metrics", "use crate::upstream::Person;"),
        ("audit::line", "use crate::session::registry::SessionId;"),
        ("server", "use crate::settings::Settings;"),
        ("k8s::operators::cnpg", "use super::super::super::session;"),
        ("k8s::directory::lookup", "use crate::k8s::credentials::secrets::SecretCredentials;"),
        ("k8s::dial::dialer", "use super::super::directory::resolve;"),
        ("k8s::operators::cnpg", "use crate::k8s::{api::objects::Pod, cluster::read};"),
        ("k8s::api::client", "fn f() { crate::k8s::operators::registry::x() }"),
        ("k8s::cluster::read", "fn f() { println!(\"{}\", crate :: k8s :: directory :: x()); }"),
    ] {
        assert_eq!(violations(&place(at), source).len(), 1, "{at}: {source}");
    }
    for (at, source) in [
        ("session::connect", "use super::pipe::Pipe; use crate::pg::frame::Frame;"),
        ("k8s::operators::cnpg", "use super::super::api::objects::Pod; use crate::upstream::Lost;"),
        ("k8s::directory::lookup", "use crate::k8s::{cluster::read, operators::facts::Facts, api::client::Context};"),
    ] {
        assert_eq!(violations(&place(at), source), BTreeSet::new(), "{at}: {source}");
    }
}

#[test]
fn planted_circles_are_found() {
    let planted = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(at, source)| (place(at), (*source).to_owned())).collect();
        circle(&graph(&files)).map(|circle| circle.len())
    };
    let (a, b, c) = ("k8s::api::a", "k8s::api::b", "k8s::cluster::c");
    assert_eq!(planted(&[(a, "use super::b::X;"), (b, "use crate::k8s::api::a::Y;")]), Some(2));
    assert_eq!(
        planted(&[
            (a, "use super::b;"),
            (b, "fn f() { crate::k8s::cluster::c::g() }"),
            (c, "use crate::k8s::api::a::Y;")
        ]),
        Some(3)
    );
    assert_eq!(planted(&[(a, "use super::b::X;"), (b, "use std::fmt;"), (c, "use crate::k8s::api::{a, b};")]), None);
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
