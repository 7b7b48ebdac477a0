use proptest::prelude::*;

use super::*;

/// RFC 7677's password and salt, as `pg_authid.rolpassword` holds them.
const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                      wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

fn refused(text: &str) -> VerifierError {
    text.parse::<Verifier>().expect_err(text)
}

#[test]
fn postgresql_s_own_form_is_read_and_written() {
    let verifier: Verifier = PENCIL.parse().expect("a verifier");
    assert_eq!(verifier.written(), PENCIL);
    let salt = verifier.salt;
    assert_eq!(Verifier::salted("pencil", salt, 4096), Some(verifier.clone()));
    assert_ne!(Verifier::salted("pencil", salt, 4097), Some(verifier.clone()));
    assert_ne!(Verifier::salted("pencils", salt, 4096), Some(verifier.clone()));
    assert_eq!(format!("{verifier:?}"), "Verifier { iterations: 4096, .. }");
}

/// What libpq's `PQencryptPassword` does, by somebody else's hand.
#[test]
fn a_verifier_that_others_have_made_is_read() {
    for password in ["pencil", "I\u{ad}X", "Gr\u{fc}\u{df}e", "\u{627}1"] {
        let theirs = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let verifier: Verifier = theirs.parse().expect("a verifier");
        assert_eq!(Verifier::salted(password, verifier.salt, 4096), Some(verifier), "{password:?}");
    }
}

#[test]
fn what_is_no_verifier() {
    for (from, to, error) in [
        ("SCRAM-SHA-256$", "scram-sha-256$", VerifierError::Scheme),
        ("SCRAM-SHA-256$", "md5", VerifierError::Scheme),
        ("SCRAM-SHA-256$", " SCRAM-SHA-256$", VerifierError::Scheme),
        ("4096:", "4096", VerifierError::Form),
        ("==$", "==", VerifierError::Form),
        ("qY=:", "qY=", VerifierError::Form),
        ("4096", "4095", VerifierError::Iterations),
        ("4096", "100001", VerifierError::Iterations),
        ("4096", "99999999999", VerifierError::Iterations),
        ("4096", "+4096", VerifierError::Iterations),
        ("4096", "", VerifierError::Iterations),
        ("gQ==", "gQ", VerifierError::Salt),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z", VerifierError::Salt),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "", VerifierError::Salt),
        ("WG5d", "", VerifierError::Key("StoredKey")),
        ("WG5d", "!!!!", VerifierError::Key("StoredKey")),
        ("2dU=", "2dU=AAAA", VerifierError::Key("ServerKey")),
        ("2dU=", "2dU=\n", VerifierError::Key("ServerKey")),
    ] {
        let text = PENCIL.replacen(from, to, 1);
        assert_ne!(text, PENCIL, "{from}");
        assert_eq!(refused(&text), error, "{text}");
    }
    assert_eq!(refused(""), VerifierError::Scheme);
    assert!(PENCIL.replace("4096", "100000").parse::<Verifier>().is_ok());
    assert!(!refused("hunter2").to_string().contains("hunter2"));
}

#[test]
fn one_is_made_of_a_password() {
    let make = |password: &str, iterations| Verifier::make(&SecretString::from(password), iterations);
    let (one, other) = (make("pencil", 4096).expect("made"), make("pencil", 4096).expect("made"));
    assert_ne!(one, other, "the same salt twice");
    let verifier: Verifier = one.parse().expect("a verifier");
    assert_eq!(Verifier::salted("pencil", verifier.salt, 4096), Some(verifier));
    // SASLprep has seen it.
    let verifier: Verifier = make("I\u{ad}X", 5000).expect("made").parse().expect("a verifier");
    assert_eq!(Verifier::salted("IX", verifier.salt, 5000), Some(verifier));
    assert!(matches!(make("", 4096), Err(MakeError::Empty)));
    assert!(matches!(make("a\0b", 4096), Err(MakeError::ZeroByte)));
    assert!(matches!(make(&"x".repeat(1025), 4096), Err(MakeError::TooLong)));
    for iterations in [0, 4095, 100_001] {
        assert!(matches!(make("pencil", iterations), Err(MakeError::Iterations)), "{iterations}");
    }
}

#[test]
fn an_unknown_name_keeps_its_salt() {
    let (mock, other) = (Mock::new(5000).expect("random bytes"), Mock::new(5000).expect("random bytes"));
    assert_eq!(mock.verifier("a"), mock.clone().verifier("a"));
    assert_ne!(mock.verifier("a").salt, mock.verifier("b").salt);
    assert_ne!(mock.verifier("a").salt, other.verifier("a").salt);
    assert_eq!(mock.verifier("a").iterations(), 5000);
    assert_eq!(format!("{mock:?}"), "Mock { iterations: 5000, .. }");
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), tail in "[0-9:$A-Za-z+/=]{0,200}") {
        let _ = (text.parse::<Verifier>(), format!("{SCHEME}{tail}").parse::<Verifier>());
    }
}
