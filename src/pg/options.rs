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

/// Takes `-c pgferry.NAME=value`, `-cpgferry.NAME=value` or `--pgferry.NAME=value` out. Gives the value and all else
/// byte for byte; as in PostgreSQL the last of several counts, and `-` in a long option's name means `_`.
#[must_use]
pub fn take_option(options: &[u8], name: &str) -> (Option<Vec<u8>>, Vec<u8>) {
    let wanted = format!("{PREFIX}{name}=");
    let mut found = None;
    let mut rest = Vec::with_capacity(options.len());
    let mut words = words(options).into_iter().peekable();
    while let Some(word) = words.next() {
        let assignment = if word.value == b"-c" {
            words.peek().map(|next| next.value.clone())
        } else {
            word.value.strip_prefix(b"--").or_else(|| word.value.strip_prefix(b"-c")).map(<[u8]>::to_vec)
        };
        match assignment.as_deref().and_then(|assignment| assignment.strip_prefix(wanted.as_bytes())) {
            Some(value) => {
                found = Some(value.to_vec());
                if word.value == b"-c" {
                    words.next();
                }
            }
            None => rest.extend_from_slice(word.written),
        }
    }
    (found, rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(options: &str) -> (Option<String>, String) {
        let (value, rest) = take_option(options.as_bytes(), "target");
        (value.map(|value| String::from_utf8(value).expect("text")), String::from_utf8(rest).expect("text"))
    }

    #[test]
    fn every_spelling_is_taken() {
        for spelling in ["-c pgferry.target=shop", "-cpgferry.target=shop", "--pgferry.target=shop"] {
            assert_eq!(take(spelling), (Some("shop".into()), String::new()));
            let (value, rest) = take(&format!("-c a=b {spelling} --x=y"));
            assert_eq!((value.as_deref(), rest.as_str()), (Some("shop"), "-c a=b --x=y"));
        }
    }

    #[test]
    fn all_else_stays_byte_for_byte() {
        for other in ["", " ", "-c search_path=a\\ b,c", "-c", "  -c  x=1\t", "-c pgferry.other=1", "trailing\\"] {
            assert_eq!(take(other), (None, other.to_owned()));
        }
    }

    #[test]
    fn escapes_and_repetition() {
        assert_eq!(take("-c pgferry.target=a\\ b").0.as_deref(), Some("a b"));
        assert_eq!(take("-c pgferry.target=a -c pgferry.target=b").0.as_deref(), Some("b"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_nothing_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (value, rest) = take_option(&bytes, "target");
            if value.is_none() {
                prop_assert_eq!(rest, bytes);
            }
        }
    }
}
