//! Logins against a server that does not mean well; the real ones are in the protocol tests.

use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, duplex},
    net::{TcpListener, TcpStream},
};

use super::*;

fn login() -> Login {
    Login {
        user: "app".to_owned(),
        password: Some(SecretString::from("secret")),
        database: "app".to_owned(),
        superuser: false,
        source: "Secret prod/shop-app".to_owned(),
        version: "1".to_owned(),
    }
}

/// What becomes of a login when the server answers with these bytes, whatever it is asked.
async fn against(answer: &[u8], login: &Login, channel: Channel, early: Early) -> Result<Method, LoginError> {
    let (mut ours, mut server) = duplex(64 * 1024);
    server.write_all(answer).await.expect("written");
    let mut startup = Startup::new(ProtocolVersion::V3_0);
    startup.set("user", "app");
    let attempt = Attempt { startup: &startup, version: ProtocolVersion::V3_0, login, channel: &channel, early };
    let reading = tokio::spawn(async move {
        let mut asked = Vec::new();
        // The password must not be among what was sent in plaintext.
        let _ = server.read_to_end(&mut asked).await;
        asked
    });
    let result = log_in(&mut ours, &mut BytesMut::new(), attempt).await;
    drop(ours);
    let asked = reading.await.expect("read");
    if matches!(channel, Channel::Plaintext) {
        assert!(!asked.windows(6).any(|bytes| bytes == b"secret"), "the password was sent");
    }
    result
}

fn ask(code: u32, rest: &[u8]) -> Vec<u8> {
    let body = [&code.to_be_bytes()[..], rest].concat();
    encode::to_bytes(|out| encode::message(b'R', &body, out)).to_vec()
}

#[tokio::test]
async fn cleartext_is_not_given_in_plaintext() {
    let result = against(&ask(3, b""), &login(), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(&result, Err(error @ LoginError::CleartextNeedsTls) if error.needs_tls()), "{result:?}");
}

#[tokio::test]
async fn a_server_that_skips_its_proof_is_refused() {
    let scram = ask(10, b"SCRAM-SHA-256\0\0");
    let result = against(&[scram, ask(0, b"")].concat(), &login(), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(result, Err(LoginError::ServerSignature)), "{result:?}");
}

#[tokio::test]
async fn an_early_message_that_does_not_fit_is_a_miss() {
    for other in [ask(0, b""), ask(5, b"salt"), ask(3, b""), ask(10, b"OTHER\0\0")] {
        let result = against(&other, &login(), Channel::Plaintext, Early::Sasl).await;
        assert!(matches!(result, Err(LoginError::EarlyMissed)), "{result:?}");
    }
}

#[tokio::test]
async fn passwords_that_cannot_be_sent() {
    let without = Login { password: None, ..login() };
    let result = against(&ask(5, b"salt"), &without, Channel::Plaintext, Early::Wait).await;
    assert!(matches!(&result, Err(LoginError::NoPassword(source)) if source == "Secret prod/shop-app"), "{result:?}");
    let zero = Login { password: Some(SecretString::from("a\0b")), ..login() };
    let result = against(&ask(5, b"salt"), &zero, Channel::Plaintext, Early::Wait).await;
    assert!(matches!(result, Err(LoginError::ZeroByte(_))), "{result:?}");
}

/// An error whose length cannot be was taken for the bare text of a server that cannot fork, an empty one, and the login
/// was tried again and again.
#[tokio::test]
async fn an_error_that_lies_about_its_length_is_no_text() {
    for length in [0_u32, 3, 30_005, 40_000, 16 << 20, 0x2000_0000] {
        let lie = [&b"E"[..], &length.to_be_bytes(), b"some"].concat();
        let result = against(&lie, &login(), Channel::Plaintext, Early::Wait).await;
        assert!(matches!(result, Err(LoginError::Protocol(_))), "{length}: {result:?}");
    }
    let result = against(b"Ecould not fork\n\0", &login(), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(&result, Err(LoginError::Overloaded(text)) if text == "could not fork"), "{result:?}");
}

/// Without a tunnel a reset is an error of the stream, and was taken for one that stays.
#[tokio::test]
async fn a_reset_ends_a_login_as_a_close_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let mut ours = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (server, _) = listener.accept().await.expect("accepted");
    // Waits until the message is there: an end over unread bytes is a reset.
    let reset = async {
        server.readable().await.expect("readable");
        drop(server);
    };
    let mut startup = Startup::new(ProtocolVersion::V3_0);
    startup.set("user", "app");
    let (login, channel) = (login(), Channel::Plaintext);
    let version = ProtocolVersion::V3_0;
    let attempt = Attempt { startup: &startup, version, login: &login, channel: &channel, early: Early::Wait };
    let mut buf = BytesMut::new();
    let (result, ()) = tokio::join!(log_in(&mut ours, &mut buf, attempt), reset);
    assert!(matches!(&result, Err(error @ LoginError::Io(_)) if error.is_end()), "{result:?}");
}

#[tokio::test]
async fn hostile_answers_are_errors() {
    let nonce = ask(11, b"r=other,s=AAAA,i=4096");
    let iterations = ask(11, b"r=x,s=AAAA,i=2000000000");
    let scram = ask(10, b"SCRAM-SHA-256\0\0");
    for hostile in [
        b"R\0\0\0\x02".to_vec(),
        b"R\x7f\xff\xff\xff".to_vec(),
        b"T\0\0\0\x04".to_vec(),
        ask(11, b"x"),
        ask(12, b"x"),
        ask(7, b""),
        [scram.clone(), nonce].concat(),
        [scram, iterations].concat(),
        Vec::new(),
    ] {
        let (mut ours, mut server) = duplex(64 * 1024);
        server.write_all(&hostile).await.expect("written");
        server.shutdown().await.expect("ended");
        let mut startup = Startup::new(ProtocolVersion::V3_0);
        startup.set("user", "app");
        let (login, channel) = (login(), Channel::Plaintext);
        let version = ProtocolVersion::V3_0;
        let attempt = Attempt { startup: &startup, version, login: &login, channel: &channel, early: Early::Wait };
        assert!(log_in(&mut ours, &mut BytesMut::new(), attempt).await.is_err(), "{hostile:?}");
    }
}
