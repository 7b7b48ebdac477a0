//! Names and groups that others than Kubernetes give: they carry a prefix, so that nobody is taken for somebody whom
//! Kubernetes knows, and what Kubernetes keeps for its own is refused even behind one.

/// Names that Kubernetes gives to its own: `system:masters` may do everything.
const RESERVED: &str = "system:";
/// As long as a name of Kubernetes' may be; people's and groups' are shorter.
const LONGEST: usize = 253;

/// A name or a group that is not taken. Says nothing of what it is: that may be long and wild.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("is empty")]
    Empty,
    /// Kubernetes' own.
    #[error("begins with \"{RESERVED}\", which is Kubernetes' own")]
    Reserved,
    /// It would be shown in logs and terminals.
    #[error("holds a control character")]
    Control,
    /// Longer than any.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
}

/// A name or a group with the prefix of whoever gives it (`cert:`, `login:`).
///
/// # Errors
/// Where it is not taken.
pub fn claimed(prefix: &str, name: &str) -> Result<String, NameError> {
    match name {
        "" => Err(NameError::Empty),
        _ if name.len() > LONGEST => Err(NameError::TooLong),
        _ if name.chars().any(char::is_control) => Err(NameError::Control),
        _ if name.starts_with(RESERVED) => Err(NameError::Reserved),
        _ => Ok(format!("{prefix}{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_taken() {
        let longest = "x".repeat(LONGEST);
        for (name, taken) in [
            ("alice", Ok("cert:alice")),
            ("spiffe://example.com/alice", Ok("cert:spiffe://example.com/alice")),
            ("systemd", Ok("cert:systemd")),
            ("cert:alice", Ok("cert:cert:alice")),
            ("", Err(NameError::Empty)),
            ("system:masters", Err(NameError::Reserved)),
            ("system:", Err(NameError::Reserved)),
            ("a\nb", Err(NameError::Control)),
            ("a\u{9b}b", Err(NameError::Control)),
            ("a\0", Err(NameError::Control)),
        ] {
            assert_eq!(claimed("cert:", name), taken.map(str::to_owned), "{name:?}");
        }
        assert!(claimed("oidc:", &longest).is_ok());
        assert_eq!(claimed("oidc:", &format!("{longest}x")), Err(NameError::TooLong));
    }
}
