use super::*;
use crate::auth::rounds::Hasher;

const MOST_ROUNDS: u32 = 100_000;

fn first(nonce: &str) -> First {
    First { binding: Binding::None, nonce: nonce.to_owned() }
}

/// RFC 7677, 3; its user name, which PostgreSQL's clients leave out, is put in.
#[tokio::test]
async fn the_exchange_of_rfc_7677() {
    const SERVER: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let first = first("rOprNGfwEbeRWgbNEkqO");
    assert_eq!(first.message(), "n,,n=,r=rOprNGfwEbeRWgbNEkqO");
    let challenge = first.challenge(SERVER.as_bytes(), 1..=MOST_ROUNDS).expect("acceptable");
    let keys = Hasher::default().keys(b"pencil", &challenge.salt, challenge.iterations).await.expect("keys");
    let bare = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    let without_proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let (message, expected) = signed(bare, SERVER, without_proof, &keys);
    assert_eq!(message, format!("{without_proof},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
    assert!(expected.is_in(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    for wrong in [
        &b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..],
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=,x=y",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95A==",
        b"v=",
        b"v",
        b"",
        b"e=invalid-proof",
        b"\xff",
    ] {
        assert!(!expected.is_in(wrong), "{wrong:?}");
    }
}

#[test]
fn what_a_server_may_not_say() {
    let first = first("ours");
    let refused = |message: &str| first.challenge(message.as_bytes(), 1..=MOST_ROUNDS).err();
    for (message, error) in [
        ("r=oursTheirs,s=AAAA,i=4096", None),
        ("r=oursTheirs,s=AAAA,i=100000", None),
        ("r=oursTheirs,s=AAAA,i=1", None),
        ("r=oursTheirs,s=AAAA,i=0", Some(ScramError::Rounds { asked: 0, least: 1, most: MOST_ROUNDS })),
        ("r=oursTheirs,s=AAAA,i=100001", Some(ScramError::Rounds { asked: 100_001, least: 1, most: MOST_ROUNDS })),
        ("r=oursTheirs,s=AAAA,i=1000000", Some(ScramError::Rounds { asked: 1_000_000, least: 1, most: MOST_ROUNDS })),
        (
            "r=oursTheirs,s=AAAA,i=4294971392",
            Some(ScramError::Rounds { asked: 4_294_971_392, least: 1, most: MOST_ROUNDS }),
        ),
        ("r=oursTheirs,s=AAAA,i=99999999999999999999", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=AAAA,i=+4096", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=AAAA,i=-1", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=AAAA,i=", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=AAAA", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=AAAA,i=4096,x=y", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=AAAA,i=4096,", Some(ScramError::Malformed)),
        ("s=AAAA,r=oursTheirs,i=4096", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=A,i=4096", Some(ScramError::Malformed)),
        ("r=oursTheirs,s=,i=4096", Some(ScramError::Salt)),
        ("r=ours\u{7f},s=AAAA,i=4096", Some(ScramError::Malformed)),
        ("r=our,s=AAAA,i=4096", Some(ScramError::Nonce)),
        ("r=theirs,s=AAAA,i=4096", Some(ScramError::Nonce)),
        ("m=x,r=oursTheirs,s=AAAA,i=4096", Some(ScramError::Extension)),
        ("e=other-error", Some(ScramError::Malformed)),
        ("", Some(ScramError::Malformed)),
    ] {
        assert_eq!(refused(message), error, "{message}");
    }
    assert_eq!(first.challenge(b"r=ours\xff,s=AAAA,i=1", 1..=MOST_ROUNDS).err(), Some(ScramError::Malformed));
}

#[test]
fn nonces_are_never_the_same() {
    let nonce = || First::new(Binding::None).expect("random bytes").nonce;
    let one = nonce();
    assert_eq!(one.len(), 24);
    assert_ne!(one, nonce());
    assert!(one.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
}

#[test]
fn the_channel_is_bound() {
    let keys = Keys { client: Zeroizing::new([1; 32]), server: Zeroizing::new([2; 32]) };
    for (binding, begins, bound) in [
        (Binding::None, "n,,n=,r=", "n,,"),
        (Binding::NotOffered, "y,,n=,r=", "y,,"),
        (Binding::EndPoint(b"hash".to_vec()), "p=tls-server-end-point,,n=,r=", "p=tls-server-end-point,,hash"),
    ] {
        let first = First::new(binding).expect("random bytes");
        assert!(first.message().starts_with(begins));
        let server = format!("r={}x,s=AAAA,i=1", first.nonce);
        let challenge = first.challenge(server.as_bytes(), 1..=MOST_ROUNDS).expect("acceptable");
        let (message, _) = first.prove(&challenge, &keys);
        assert!(message.starts_with(&format!("c={},r={}x,p=", STANDARD.encode(bound), first.nonce)), "{message}");
    }
}

/// RFC 4013, 3; then what PostgreSQL takes as it is.
#[test]
fn passwords_are_prepared_as_postgresql_does() {
    for (password, becomes) in [
        ("I\u{ad}X", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u{aa}", "a"),
        ("\u{2168}", "IX"),
        ("a\u{a0}b", "a b"),
        ("\u{7}", "\u{7}"),
        ("\u{627}1", "\u{627}1"),
        // Nothing would be left.
        ("\u{ad}", "\u{ad}"),
        ("", ""),
    ] {
        assert_eq!(*prepared(password), becomes.as_bytes(), "{password:?}");
    }
}
