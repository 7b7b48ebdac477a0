//! Label and field selectors, as the API server reads them.

use serde_json::Value;

/// Whether an object's labels match: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`.
pub(crate) fn labels(object: &Value, selector: &[String]) -> bool {
    let label = |name: &str| object["metadata"]["labels"].get(name.trim()).and_then(Value::as_str);
    selector.iter().all(|term| {
        let term = term.trim();
        if let Some((name, values)) = term.split_once(" notin ") {
            return label(name).is_none_or(|found| !listed(values, found));
        }
        if let Some((name, values)) = term.split_once(" in ") {
            return label(name).is_some_and(|found| listed(values, found));
        }
        if let Some((name, value)) = term.split_once("!=") {
            return label(name) != Some(value.trim());
        }
        if let Some((name, value)) = term.split_once('=') {
            return label(name) == Some(value.trim_start_matches('=').trim());
        }
        match term.strip_prefix('!') {
            Some(name) => label(name).is_none(),
            None => label(term).is_some(),
        }
    })
}

fn listed(values: &str, found: &str) -> bool {
    values.trim().trim_matches(['(', ')']).split(',').any(|value| value.trim() == found)
}

/// A selector's terms: what stands between commas outside parentheses.
pub(crate) fn terms(selector: &str) -> Vec<String> {
    let mut depth = 0;
    let mut terms = vec![String::new()];
    for character in selector.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if character == ',' && depth == 0 {
            terms.push(String::new());
        } else {
            terms.last_mut().unwrap().push(character);
        }
    }
    terms.retain(|term| !term.trim().is_empty());
    terms
}

/// Whether an object's fields match: `metadata.name=x`, `status.phase!=y`, `type=z`.
pub(crate) fn fields(object: &Value, selector: &[String]) -> bool {
    selector.iter().all(|term| {
        let (path, value, wanted) = if let Some((path, value)) = term.split_once("!=") {
            (path, value, false)
        } else {
            let (path, value) = term.split_once('=').unwrap_or((term, ""));
            (path, value.trim_start_matches('='), true)
        };
        let pointer = format!("/{}", path.trim().replace('.', "/"));
        (object.pointer(&pointer).and_then(Value::as_str) == Some(value.trim())) == wanted
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operator() {
        let object = json!({"metadata": {"name": "x", "labels": {"a": "1", "b": "2"}}});
        for yes in
            ["a=1", "a==1,b=2", "a in (1,3)", "a notin (2)", "c notin (2)", "a", "!c", "a!=2", "a in (1),b in (2)"]
        {
            assert!(labels(&object, &terms(yes)), "{yes}");
        }
        for no in ["a=2", "a in (2,3)", "a notin (1)", "!a", "c", "a!=1", "a=1,b=1"] {
            assert!(!labels(&object, &terms(no)), "{no}");
        }
        assert!(fields(&object, &terms("metadata.name=x")) && !fields(&object, &terms("metadata.name!=x")));
    }
}
