//! A server in an attacker's pod: it asks for a password in the way that suits it, and keeps whatever it is told.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::BufMut as _;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::wire::{SSL_REQUEST, message};

/// The salt of its MD5: what a password is hashed with depends on nothing that the server does not choose.
pub const SALT: [u8; 4] = *b"salt";

/// How it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// For the password as it is.
    Cleartext,
    /// For its MD5 hash.
    Md5,
    /// For SCRAM-SHA-256, with a count of rounds.
    Scram(u32),
    /// For nothing: everybody is let in, and sees what a server in a pod of the attacker's shows.
    Nothing,
}

/// A running one.
pub struct Hostile {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

/// What it was told.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// All bytes behind the encryption.
    bytes: Vec<u8>,
    connections: usize,
    encrypted: usize,
    /// Messages that a password, or what was made of one, would be in.
    answers: usize,
}

impl Hostile {
    /// Plaintext only.
    pub async fn start(asks: Asks) -> Self {
        Self::listen(asks, None).await
    }

    /// With TLS too, by this certificate and key.
    pub async fn with_tls(asks: Asks, (certificate, key): &(String, String)) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        Self::listen(asks, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(asks: Asks, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let keeps = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                keeps.lock().unwrap().connections += 1;
                tokio::spawn(greet(socket, asks, tls.clone(), Arc::clone(&keeps)));
            }
        });
        Self { address, heard }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.heard.lock().unwrap().connections
    }

    /// Those of them that asked for TLS and shook hands.
    #[must_use]
    pub fn encrypted(&self) -> usize {
        self.heard.lock().unwrap().encrypted
    }

    /// Messages so far that answer a question for a password. SCRAM's first holds nothing of it.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.heard.lock().unwrap().answers
    }

    /// All that was said to it, decrypted.
    #[must_use]
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().bytes.clone()
    }

    /// Whether what was said to it holds a text.
    #[must_use]
    pub fn knows(&self, text: &str) -> bool {
        self.heard().windows(text.len()).any(|window| window == text.as_bytes())
    }
}

async fn greet(mut socket: TcpStream, asks: Asks, tls: Option<TlsAcceptor>, heard: Arc<Mutex<Heard>>) {
    let mut first = [0; 8];
    if socket.read_exact(&mut first).await.is_err() {
        return;
    }
    if first != SSL_REQUEST {
        return serve(socket, &first, asks, &heard).await;
    }
    let Some(tls) = tls else {
        // Whoever goes on without encryption starts anew on the same connection.
        if socket.write_all(b"N").await.is_ok() {
            serve(socket, &[], asks, &heard).await;
        }
        return;
    };
    if socket.write_all(b"S").await.is_err() {
        return;
    }
    if let Ok(encrypted) = tls.accept(socket).await {
        heard.lock().unwrap().encrypted += 1;
        serve(encrypted, &[], asks, &heard).await;
    }
}

/// A server as PostgreSQL is one up to the login, and after it for as long as somebody talks.
async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin, read: &[u8], asks: Asks, heard: &Arc<Mutex<Heard>>) {
    let mut buffer = read.to_vec();
    heard.lock().unwrap().bytes.extend_from_slice(read);
    let mut started = false;
    loop {
        while let Some(end) = message_end(&buffer, started) {
            let rest = buffer.split_off(end);
            let said = std::mem::replace(&mut buffer, rest);
            let answer = if started { answer(asks, &said) } else { question(asks) };
            heard.lock().unwrap().answers += usize::from(started && said[0] == b'p');
            started = true;
            if io.write_all(&answer).await.is_err() {
                return;
            }
        }
        let mut chunk = [0; 4096];
        match io.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                heard.lock().unwrap().bytes.extend_from_slice(&chunk[..count]);
                buffer.extend_from_slice(&chunk[..count]);
            }
        }
    }
}

/// Where the first message ends, once it is whole. The startup packet has no type before its length.
fn message_end(buffer: &[u8], typed: bool) -> Option<usize> {
    let at = usize::from(typed);
    let length = u32::from_be_bytes(buffer.get(at..at + 4)?.try_into().unwrap());
    Some(at + length as usize).filter(|end| *end <= buffer.len())
}

fn authentication(code: u32, more: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), more].concat())
}

fn question(asks: Asks) -> Vec<u8> {
    match asks {
        Asks::Cleartext => authentication(3, &[]),
        Asks::Md5 => authentication(5, &SALT),
        Asks::Scram(_) => authentication(10, b"SCRAM-SHA-256\0\0"),
        Asks::Nothing => welcome(),
    }
}

fn welcome() -> Vec<u8> {
    [authentication(0, &[]), message(b'Z', b"I")].concat()
}

/// Whatever password it was, it is right; of SCRAM the count of rounds comes first.
fn answer(asks: Asks, said: &[u8]) -> Vec<u8> {
    match (asks, said.first()) {
        (Asks::Scram(rounds), Some(b'p')) if said.windows(2).any(|window| window == b"n,") => {
            let text = String::from_utf8_lossy(said).into_owned();
            let nonce = text.split("r=").nth(1).unwrap_or_default();
            let mut challenge = format!("r={nonce}hostile,s=").into_bytes();
            challenge.put_slice(b"c2FsdHNhbHRzYWx0c2FsdA==");
            challenge.put_slice(format!(",i={rounds}").as_bytes());
            authentication(11, &challenge)
        }
        (_, Some(b'p')) => welcome(),
        _ => message(b'Z', b"I"),
    }
}
