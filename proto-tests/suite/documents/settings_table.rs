//! The settings, as `docs/configuration.md` describes them: out of `config/default.toml`.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{WIDTH, in_docs};

const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// One key of `config/default.toml`.
#[derive(Debug, Default)]
struct Key {
    name: String,
    default: String,
    meaning: String,
}

/// One section of `config/default.toml`.
#[derive(Debug, Default)]
struct Section {
    /// `listen`; with `[[...]]` for one of many tables.
    header: String,
    about: String,
    keys: Vec<Key>,
    /// What is said of the keys together.
    remarks: String,
    /// Lines that are commented out.
    example: Vec<String>,
}

/// The sections of the documented defaults, in their order.
fn sections(defaults: &str) -> Vec<Section> {
    let mut all: Vec<Section> = Vec::new();
    let mut comment: Vec<String> = Vec::new();
    for line in defaults.lines() {
        let commented = line.strip_prefix("# ").unwrap_or_default();
        if line.is_empty() {
            comment.clear();
        } else if line.starts_with('[') || commented.starts_with("[[") {
            let header = line.trim_start_matches("# ").strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let mut section = Section { header: header.expect("a header").to_owned(), ..Section::default() };
            section.describe(&std::mem::take(&mut comment));
            all.push(section);
        } else if is_assignment(commented) {
            let section = all.last_mut().expect("a section");
            section.example.push(commented.to_owned());
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
        } else {
            let section = all.last_mut().expect("a section");
            let (key, default) = line.split_once(" = ").expect("a key and its value");
            let name = format!("{}.{key}", section.header);
            let meaning = std::mem::take(&mut comment).join(" ");
            section.keys.push(Key { name, default: default.to_owned(), meaning });
        }
    }
    all
}

/// `key = value`, with a bare or quoted key.
fn is_assignment(line: &str) -> bool {
    let name = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "_\".".contains(c)) && !key.is_empty();
    line.split_once(" = ").is_some_and(|(key, _)| name(key))
}

impl Section {
    /// Takes a comment apart: sentences, and a list of keys (`  key  meaning`) that each table has.
    fn describe(&mut self, comment: &[String]) {
        for line in comment {
            let inside = line.starts_with("  ");
            let before = self.keys.is_empty();
            let item =
                line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')).and_then(|rest| rest.split_once("  "));
            match (item, self.keys.last_mut().filter(|_| inside)) {
                (Some((key, meaning)), _) => {
                    let name = format!("{}.\"X\".{key}", self.header);
                    self.keys.push(Key { name, default: String::new(), meaning: meaning.trim().to_owned() });
                }
                (None, Some(key)) => _ = write!(key.meaning, " {}", line.trim()),
                (None, None) if before => _ = write!(self.about, " {}", line.trim()),
                (None, None) => _ = write!(self.remarks, " {}", line.trim()),
            }
        }
        self.about = self.about.trim().to_owned();
    }

    fn markdown(&self) -> String {
        let mut text = format!("### `[{}]`\n\n", self.header);
        if !self.about.is_empty() {
            let _ = writeln!(text, "{}\n", wrapped(&self.about));
        }
        if !self.keys.is_empty() {
            text.push_str("| key | default | meaning |\n| --- | --- | --- |\n");
        }
        let mut before = "as above";
        for key in &self.keys {
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            let meaning = if key.meaning.is_empty() { before } else { &key.meaning };
            let _ = writeln!(text, "| `{}` | {default} | {} |", key.name, meaning.replace('|', "\\|"));
            before = meaning;
        }
        if !self.keys.is_empty() {
            text.push('\n');
        }
        if !self.remarks.is_empty() {
            let _ = writeln!(text, "{}\n", wrapped(self.remarks.trim()));
        }
        if !self.example.is_empty() {
            let _ = writeln!(text, "```toml\n[{}]\n{}\n```\n", self.header, self.example.join("\n"));
        }
        text
    }
}

/// A paragraph in lines.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one");
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
        } else {
            let space = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{space}{word}");
        }
    }
    lines.join("\n")
}

/// Every key that a configuration may have, with `X` for names that the reader chooses; sections are keys, too.
pub(super) fn known_keys() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for section in sections(DEFAULTS) {
        let header = section.header.trim_matches(['[', ']']).to_owned();
        known.extend(section.keys.iter().map(|key| key.name.clone()));
        if section.header.starts_with('[') {
            let keys = section.example.iter().filter_map(|line| line.split_once(" = "));
            known.extend(keys.map(|(key, _)| format!("{header}.{key}")));
        }
        known.insert(header);
    }
    known
}

#[test]
fn every_setting_is_described() {
    let all = sections(DEFAULTS);
    let text = all.iter().map(Section::markdown).collect::<String>();
    in_docs("docs/configuration.md", "settings", &text);
    // No key is lost on the way, and none is without a word.
    let parsed: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let known = known_keys();
    let mut leaves = BTreeSet::new();
    collect(&parsed, "", &mut leaves);
    let lost: Vec<_> = leaves.iter().filter(|key| !known.contains(*key)).collect();
    assert!(leaves.len() > 30 && lost.is_empty(), "{} keys, lost: {lost:?}", leaves.len());
    let in_table: BTreeSet<&str> = all.iter().flat_map(|section| &section.keys).map(|key| key.name.as_str()).collect();
    assert!(
        ["sslmode", "auth", "secret", "scram_iterations"]
            .iter()
            .all(|key| { in_table.contains(format!("clusters.\"X\".{key}").as_str()) })
    );
}

fn collect(table: &toml::Table, prefix: &str, leaves: &mut BTreeSet<String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => collect(inner, &name, leaves),
            _ => _ = leaves.insert(name),
        }
    }
}
