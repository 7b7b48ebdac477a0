//! A PostgreSQL client on the level of messages.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, BytesMut};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme,
    client::{
        WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, ToSocketAddrs, UnixStream},
};

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A message: type and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub tag: char,
    pub body: Vec<u8>,
}

/// An ErrorResponse or NoticeResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Message {
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        for part in self.body.split(|byte| *byte == 0).filter(|part| !part.is_empty()) {
            let value = String::from_utf8_lossy(&part[1..]).into_owned();
            match part[0] {
                b'S' => fields.severity = value,
                b'C' => fields.code = value,
                b'M' => fields.message = value,
                b'D' => fields.detail = value,
                b'H' => fields.hint = value,
                _ => {}
            }
        }
        fields
    }
}

/// A connection.
pub struct Wire {
    io: Box<dyn Io>,
    buf: BytesMut,
    /// Process number and secret, once BackendKeyData has come.
    pub key: Option<(i32, Vec<u8>)>,
    /// ParameterStatus messages.
    pub parameters: Vec<(String, String)>,
    /// `NoticeResponses`.
    pub notices: Vec<Fields>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Wire {
    fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { io: Box::new(io), buf: BytesMut::new(), key: None, parameters: Vec::new(), notices: Vec::new() }
    }

    pub async fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self::new(connect(address).await?))
    }

    /// One whose end is a reset, as when its process is killed with bytes unread.
    pub async fn abrupt(address: impl ToSocketAddrs) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_zero_linger()?;
        Ok(Self::new(socket))
    }

    pub async fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    /// Over a socket on which something may have been sent.
    #[must_use]
    pub fn over(socket: TcpStream) -> Self {
        Self::new(socket)
    }

    /// TLS after SSLRequest.
    pub async fn tls(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::tls_over(connect(address).await?).await
    }

    /// The same over a socket on which something may have been sent.
    pub async fn tls_over(mut socket: TcpStream) -> io::Result<Self> {
        socket.write_all(&SSL_REQUEST).await?;
        assert_eq!(socket.read_u8().await?, b'S', "the server has no TLS");
        Ok(Self::new(handshake(socket, any_certificate().with_no_client_auth(), true).await?))
    }

    /// The same with a client certificate: PEM, and its key.
    pub async fn tls_as(address: impl ToSocketAddrs, certificate: &str, key: &str) -> io::Result<Self> {
        let mut socket = connect(address).await?;
        socket.write_all(&SSL_REQUEST).await?;
        assert_eq!(socket.read_u8().await?, b'S', "the server has no TLS");
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = any_certificate().with_client_auth_cert(chain, key).unwrap();
        Ok(Self::new(handshake(socket, config, true).await?))
    }

    /// TLS from the first byte, with or without ALPN.
    pub async fn direct_tls(address: impl ToSocketAddrs, alpn: bool) -> io::Result<Self> {
        let config = any_certificate().with_no_client_auth();
        Ok(Self::new(handshake(connect(address).await?, config, alpn).await?))
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    pub async fn message(&mut self, tag: u8, body: &[u8]) -> io::Result<()> {
        self.send(&message(tag, body)).await
    }

    pub async fn byte(&mut self) -> io::Result<u8> {
        self.io.read_u8().await
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if self.buf.len() >= 5 {
                let length = u32::from_be_bytes(self.buf[1..5].try_into().unwrap()) as usize;
                if length < 4 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if self.buf.len() > length {
                    let mut raw = self.buf.split_to(length + 1);
                    let tag = char::from(raw[0]);
                    raw.advance(5);
                    return Ok(Some(Message { tag, body: raw.to_vec() }));
                }
            }
            if self.io.read_buf(&mut self.buf).await? == 0 {
                return if self.buf.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads up to and including ReadyForQuery. An ErrorResponse ends it, too, as the error.
    pub async fn until_ready(&mut self) -> Result<Vec<Message>, Fields> {
        let mut all = Vec::new();
        let mut error = None;
        loop {
            let gone = |what: String| Fields { message: what, ..Fields::default() };
            let message = match self.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(error.unwrap_or_else(|| gone("EOF".to_owned()))),
                Err(failed) => return Err(error.unwrap_or_else(|| gone(format!("I/O: {}", failed.kind())))),
            };
            match message.tag {
                'E' => error = Some(message.fields()),
                'N' => self.notices.push(message.fields()),
                'S' => {
                    let mut parts =
                        message.body.split(|byte| *byte == 0).map(|s| String::from_utf8_lossy(s).into_owned());
                    self.parameters.push((parts.next().unwrap(), parts.next().unwrap()));
                }
                'K' => {
                    let pid = i32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.key = Some((pid, message.body[4..].to_vec()));
                }
                'Z' => return error.map_or(Ok(all), Err),
                _ => {}
            }
            all.push(message);
        }
    }

    /// Sends a startup message of protocol 3.0 and reads to ReadyForQuery.
    pub async fn start(&mut self, parameters: &[(&str, &str)]) -> Result<Vec<Message>, Fields> {
        self.send(&startup(3, 0, parameters))
            .await
            .map_err(|error| Fields { message: error.to_string(), ..Fields::default() })?;
        self.until_ready().await
    }

    /// Answers a SCRAM request, or whatever the server asks, with a password; for logging in to a server directly.
    pub async fn start_with_password(&mut self, parameters: &[(&str, &str)], password: &str) -> Result<(), Fields> {
        use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
        self.send(&startup(3, 0, parameters)).await.unwrap();
        let mut scram: Option<ScramSha256> = None;
        loop {
            let message = self.next().await.unwrap().expect("a message");
            match message.tag {
                'E' => return Err(message.fields()),
                'R' => match u32::from_be_bytes(message.body[..4].try_into().unwrap()) {
                    0 => return self.until_ready().await.map(|_| ()),
                    3 => self.message(b'p', &[password.as_bytes(), &[0]].concat()).await.unwrap(),
                    10 => {
                        let state = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                        let mut body = BytesMut::from(&b"SCRAM-SHA-256\0"[..]);
                        body.put_u32(u32::try_from(state.message().len()).unwrap());
                        body.put_slice(state.message());
                        self.message(b'p', &body).await.unwrap();
                        scram = Some(state);
                    }
                    11 => {
                        let state = scram.as_mut().unwrap();
                        state.update(&message.body[4..]).unwrap();
                        let answer = state.message().to_vec();
                        self.message(b'p', &answer).await.unwrap();
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Runs a simple query; the rows' columns as text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Fields> {
        self.message(b'Q', &[sql.as_bytes(), &[0]].concat())
            .await
            .map_err(|error| Fields { message: error.to_string(), ..Fields::default() })?;
        let messages = self.until_ready().await?;
        Ok(messages.iter().filter(|message| message.tag == 'D').map(|message| row(&message.body)).collect())
    }

    /// One value.
    pub async fn value(&mut self, sql: &str) -> Result<String, Fields> {
        Ok(self.query(sql).await?.first().and_then(|row| row.first()).cloned().unwrap_or_default())
    }

    /// The next so many bytes, whatever they are.
    pub async fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.buf.split_to(count.min(self.buf.len())).to_vec();
        let read = bytes.len();
        bytes.resize(count, 0);
        self.io.read_exact(&mut bytes[read..]).await?;
        Ok(bytes)
    }

    /// Reads until the other side closes; what came.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = self.buf.split().to_vec();
        self.io.read_to_end(&mut rest).await?;
        Ok(rest)
    }

    /// The request that cancels this connection's query.
    #[must_use]
    pub fn cancel_request(&self) -> Vec<u8> {
        let (pid, secret) = self.key.as_ref().expect("BackendKeyData");
        cancel_request(*pid, secret)
    }
}

#[must_use]
pub fn cancel_request(pid: i32, secret: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(12 + secret.len()).unwrap());
    out.put_u32(80_877_102);
    out.put_i32(pid);
    out.put_slice(secret);
    out
}

#[must_use]
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.put_slice(body);
    out
}

#[must_use]
pub fn startup(major: u16, minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u16(major);
    body.put_u16(minor);
    for (name, value) in parameters {
        for text in [name, value] {
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
    }
    body.put_u8(0);
    let mut out = Vec::new();
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.put_slice(&body);
    out
}

fn row(mut body: &[u8]) -> Vec<String> {
    let columns = body.get_u16();
    (0..columns)
        .map(|_| {
            let length = body.get_i32();
            let Ok(length) = usize::try_from(length) else {
                return "NULL".to_owned();
            };
            String::from_utf8_lossy(&body.copy_to_bytes(length)).into_owned()
        })
        .collect()
}

async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn any_certificate() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
}

async fn handshake(
    socket: TcpStream,
    mut config: ClientConfig,
    alpn: bool,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    if alpn {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
