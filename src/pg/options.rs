//! The startup parameter `options`: command-line switches, divided as PostgreSQL does (`pg_split_opts` in
//! postinit.c): white space divides, a backslash takes the next byte as it is.

/// Our options begin so.
const PREFIX: &str = "pgferry.";

struct Word<'a> {
    /// The bytes that were written, and the white space before them.
    written: &'a [u8],
    /// What they mean.
    value: Vec<u8>,
}

fn words(options: &[u8]) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = options;
    while !rest.is_empty() {
        let blank = rest.iter().take_while(|byte| is_space(**byte)).count();
        let mut value = Vec::new();
        let mut length = blank;
        let mut bytes = rest.iter().skip(blank);
        while let Some(byte) = bytes.next() {
            if is_space(*byte) {
                break;
            }
            length = length.saturating_add(1);
            if *byte != b'\\' {
                value.push(*byte);
            } else if let Some(escaped) = bytes.next() {
                length = length.saturating_add(1);
                value.push(*escaped);
            }
        }
        let (written, after) = rest.split_at(length.min(rest.len()));
        words.push(Word { written, value });
        rest = after;
    }
    words
}

/// C's isspace, as PostgreSQL uses it here.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// The options that are ours: `-c pgferry.NAME=value`, `-cpgferry.NAME=value` or `--pgferry.NAME=value` in `options`, and
/// startup parameters called so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own(Vec<(String, Vec<u8>)>);

impl Own {
    /// An option's value; as in PostgreSQL the last of several counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
    }

    /// The first that is none of these.
    #[must_use]
    pub fn unknown<const N: usize>(&self, known: [&str; N]) -> Option<String> {
        self.0.iter().find(|(name, _)| !known.contains(&name.as_str())).map(|(name, _)| name.clone())
    }

    /// Notes a startup parameter, if it is ours.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> bool {
        let ours = ours(name);
        if let Some(name) = &ours {
            self.0.push((name.clone(), value.to_vec()));
        }
        ours.is_some()
    }
}

/// The name behind the prefix; as in PostgreSQL, case does not count.
fn ours(name: &[u8]) -> Option<String> {
    let (prefix, rest) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX.as_bytes()).then(|| String::from_utf8_lossy(rest).to_ascii_lowercase())
}

/// Takes our own options out of `options`, and gives all else byte for byte.
#[must_use]
pub fn take_own(options: &[u8]) -> (Own, Vec<u8>) {
    let mut own = Own::default();
    let mut rest = Vec::with_capacity(options.len());
    let mut words = words(options).into_iter().peekable();
    while let Some(word) = words.next() {
        let divided = word.value == b"-c";
        let assignment = if divided {
            words.peek().map(|next| next.value.clone())
        } else {
            word.value.strip_prefix(b"--").or_else(|| word.value.strip_prefix(b"-c")).map(<[u8]>::to_vec)
        };
        let mut parts = assignment.as_deref().unwrap_or_default().splitn(2, |byte| *byte == b'=');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if own.note(name, value) {
            if divided {
                words.next();
            }
        } else {
            rest.extend_from_slice(word.written);
        }
    }
    (own, rest)
}

/// `-c pgferry.NAME=value ...` in front of what is there.
#[must_use]
pub fn with_own(own: &[(&str, &str)], options: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, value) in own {
        all.extend_from_slice(format!("-c {PREFIX}{name}=").as_bytes());
        for byte in value.bytes() {
            if is_space(byte) || byte == b'\\' {
                all.push(b'\\');
            }
            all.push(byte);
        }
        all.push(b' ');
    }
    all.extend_from_slice(options);
    if options.is_empty() {
        all.pop();
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(options: &str) -> (Option<String>, String) {
        let (own, rest) = take_own(options.as_bytes());
        let value = own.get("target").map(|value| String::from_utf8(value.to_vec()).expect("text"));
        (value, String::from_utf8(rest).expect("text"))
    }

    #[test]
    fn every_spelling_is_taken() {
        for spelling in
            ["-c pgferry.target=shop", "-cpgferry.target=shop", "--pgferry.target=shop", "-c PgFerry.Target=shop"]
        {
            assert_eq!(take(spelling), (Some("shop".into()), String::new()));
            let (value, rest) = take(&format!("-c a=b {spelling} --x=y"));
            assert_eq!((value.as_deref(), rest.as_str()), (Some("shop"), "-c a=b --x=y"));
        }
    }

    #[test]
    fn all_else_stays_byte_for_byte() {
        for other in ["", " ", "-c search_path=a\\ b,c", "-c", "  -c  x=1\t", "-c pgferr.y=1", "trailing\\"] {
            assert_eq!(take(other), (None, other.to_owned()));
        }
    }

    #[test]
    fn escapes_and_repetition() {
        assert_eq!(take("-c pgferry.target=a\\ b").0.as_deref(), Some("a b"));
        assert_eq!(take("-c pgferry.target=a -c pgferry.target=b").0.as_deref(), Some("b"));
    }

    #[test]
    fn options_that_are_not_known_are_seen() {
        for (options, unknown) in [
            ("-c pgferry.target=a", None),
            ("-c pgferry.target=a --pgferry.pod=b", Some("pod")),
            ("-cpgferry.target", None),
            ("-c pgferry.=x", Some("")),
        ] {
            assert_eq!(take_own(options.as_bytes()).0.unknown(["target"]).as_deref(), unknown, "{options}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_nothing_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (own, rest) = take_own(&bytes);
            if own == Own::default() {
                prop_assert_eq!(rest, bytes);
            }
        }

        #[test]
        fn what_is_put_in_front_comes_out_again(value in "[ -~\t\n]{0,40}", options in "[ -~]{0,40}") {
            let all = with_own(&[("target", &value)], options.as_bytes());
            let (own, rest) = take_own(&all);
            let (inner, kept) = take_own(options.as_bytes());
            if inner == Own::default() {
                prop_assert_eq!(own.get("target"), Some(value.as_bytes()));
                prop_assert_eq!(rest.trim_ascii_start(), kept.trim_ascii_start());
            }
        }
    }
}
