use proptest::prelude::*;

use super::*;
use crate::auth::client::Mock;

const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                      wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

fn refused(message: &str, mechanism: Mechanism<'_>) -> Option<Fault> {
    First::read(message.as_bytes(), mechanism).err()
}

/// RFC 7677, 3.
#[test]
fn the_exchange_of_rfc_7677() {
    let verifier: Verifier = PENCIL.parse().expect("a verifier");
    let first = First::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", Mechanism::Only).expect("acceptable");
    let challenge = first.challenge("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", &verifier);
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    assert_eq!(challenge.message(), format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
    let right = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let answer = |bound: &str, nonce: &str, proof: &str| {
        challenge.verify(format!("{bound},{nonce},{proof}").as_bytes(), &verifier)
    };
    let r = format!("r={nonce}");
    assert_eq!(answer("c=biws", &r, right), Ok(Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned())));
    // Another proof, and what is signed with the right one but was not said.
    assert_eq!(answer("c=biws", &r, "p=eHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), Ok(None));
    assert_eq!(answer("c=biws", &format!("{r},x=y"), right), Ok(None));
    for (bound, nonce, proof) in [
        ("c=eSws", r.as_str(), right),
        ("c=", &r, right),
        ("biws", &r, right),
        ("c=biws", "r=rOprNGfwEbeRWgbNEkqO", right),
        ("c=biws", &r[..r.len() - 1], right),
        ("c=biws", "", right),
        ("c=biws", &r, "x=y"),
        ("c=biws", &r, "p="),
        ("c=biws", &r, "p=dHzb"),
        ("c=biws", &r, "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=,x=y"),
        ("c=biws", &r, "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
        ("c=biws", &r, "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=\0"),
        ("c=biws", &format!("{r},="), right),
        ("c=biws", &format!("{r},"), right),
    ] {
        let refused = answer(bound, nonce, proof);
        assert!(matches!(refused, Err(Fault::Malformed(_))), "{bound} {nonce} {proof}: {refused:?}");
    }
    for wrong in [&b""[..], b"\xff", b"p=", b",p=", b"c=biws"] {
        assert!(matches!(challenge.verify(wrong, &verifier), Err(Fault::Malformed(_))), "{wrong:?}");
    }
}

/// What `read_client_first_message` in auth-scram.c takes, and what it does not.
#[test]
fn what_a_client_may_say_first() {
    let plus = Mechanism::Plus(b"hash");
    for (message, mechanism) in [
        ("n,,n=,r=abc", Mechanism::Only),
        ("n,,n=,r=abc", Mechanism::WithoutBinding),
        ("n,,n=somebody=2Celse,r=abc,x=y,z=", Mechanism::Only),
        ("y,,n=,r=abc", Mechanism::Only),
        ("p=tls-server-end-point,,n=,r=abc", plus),
    ] {
        assert_eq!(refused(message, mechanism), None, "{message} {mechanism:?}");
    }
    assert_eq!(refused("y,,n=,r=abc", Mechanism::WithoutBinding), Some(Fault::Downgrade));
    for (message, mechanism) in [
        ("n,a=other,n=,r=abc", Mechanism::Only),
        ("n,,m=x,n=,r=abc", Mechanism::Only),
        ("p=tls-unique,,n=,r=abc", plus),
        ("p=tls-exporter,,n=,r=abc", plus),
    ] {
        assert!(matches!(refused(message, mechanism), Some(Fault::Unsupported(_))), "{message}");
    }
    for (message, mechanism) in [
        ("n,,n=,r=abc", plus),
        ("y,,n=,r=abc", plus),
        ("p=tls-server-end-point,,n=,r=abc", Mechanism::Only),
        ("p=tls-server-end-point,,n=,r=abc", Mechanism::WithoutBinding),
        ("p,,n=,r=abc", plus),
        ("x,,n=,r=abc", Mechanism::Only),
        ("n", Mechanism::Only),
        ("n,", Mechanism::Only),
        ("n,,", Mechanism::Only),
        ("n,b=x,n=,r=abc", Mechanism::Only),
        ("n,,n=", Mechanism::Only),
        ("n,,r=abc", Mechanism::Only),
        ("n,,r=abc,n=", Mechanism::Only),
        ("n,,n=,r=", Mechanism::Only),
        ("n,,n=,r=a b", Mechanism::Only),
        ("n,,n=,r=\u{e4}", Mechanism::Only),
        ("n,,n=,r=abc,", Mechanism::Only),
        ("n,,n=,r=abc,xy", Mechanism::Only),
        ("n,,n=,r=abc\0", Mechanism::Only),
        ("", Mechanism::Only),
    ] {
        let fault = refused(message, mechanism);
        assert!(matches!(fault, Some(Fault::Malformed(_))), "{message} {mechanism:?}: {fault:?}");
    }
    assert!(First::read(b"n,,n=,r=\xff", Mechanism::Only).is_err());
}

#[test]
fn another_channel_is_not_this_one() {
    let verifier: Verifier = PENCIL.parse().expect("a verifier");
    let plus = Mechanism::Plus(b"ours");
    let first = First::read(b"p=tls-server-end-point,,n=,r=abc", plus).expect("acceptable");
    let challenge = first.challenge("def", &verifier);
    let proof = STANDARD.encode([7; 32]);
    let answer = |bound: &[u8]| {
        let message = format!("c={},r=abcdef,p={proof}", STANDARD.encode(bound));
        challenge.verify(message.as_bytes(), &verifier)
    };
    assert_eq!(answer(b"p=tls-server-end-point,,ours"), Ok(None));
    for other in [&b"p=tls-server-end-point,,theirs"[..], b"p=tls-server-end-point,,", b"n,,", b"y,,", b"n,,ours"] {
        assert_eq!(answer(other), Err(Fault::Binding), "{other:?}");
    }
}

#[test]
fn the_corpus_of_fuzzing() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-tests/corpus/scram_server");
    let files: Vec<_> = std::fs::read_dir(folder).expect("the corpus").collect();
    assert!(!files.is_empty());
    for file in files {
        fuzz(&std::fs::read(file.expect("an entry").path()).expect("a file"));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[nycrpa=,]{0,60}") {
        fuzz(&bytes);
        fuzz(text.as_bytes());
        let verifier = Mock::new(4096).expect("random bytes").verifier("x");
        let first = First::read(b"n,,n=,r=abc", Mechanism::Only).expect("acceptable");
        let last = format!("c=biws,r=abcdef,{text}");
        let _ = first.challenge("def", &verifier).verify(last.as_bytes(), &verifier);
    }
}
