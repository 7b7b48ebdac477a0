//! What a server says between AuthenticationOk and ReadyForQuery, and whether it is the one that was asked for.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::{
    miss::{Miss, failure_inside},
    reports::{closed, placed},
};
use crate::{
    auth::upstream::{Channel, LoginError},
    error::{ClientFacing, Report, SqlState},
    pg::{
        PacketError, backend,
        cancel::CancelKey,
        frame::{Frame, next_frame},
    },
    session::{permit::Grant, refusal::Refusal, tally::Place},
    upstream::{Ask, BoxedStream, ClusterId, Login, Mode, Server, Target, Upstream},
};

/// What a server may say between AuthenticationOk and ReadyForQuery. A dozen ParameterStatus are 500 bytes; a login
/// trigger's notices are kept within reason.
const MAX_GREETING: usize = 256 * 1024;

/// A server that waits for the client's first query.
pub(in crate::session) struct Connected {
    pub(in crate::session) stream: BoxedStream,
    pub(in crate::session) upstream: Upstream,
    pub(in crate::session) login: Login,
    pub(in crate::session) encrypted: bool,
    /// It has said that it takes writes; PostgreSQL 14 and later do.
    pub(super) writable: bool,
    /// Everything from behind AuthenticationOk to ReadyForQuery, as it came.
    pub(in crate::session) greeting: Bytes,
    /// Where the server gave one.
    pub(in crate::session) key: Option<CancelKey>,
    /// Bytes behind ReadyForQuery.
    pub(in crate::session) rest: Bytes,
    /// It has said that the role is a superuser.
    pub(super) superuser: bool,
    /// Its place among the cluster's sessions.
    pub(in crate::session) place: Option<Place<ClusterId>>,
    /// By what right it is there.
    pub(in crate::session) grant: Grant,
}

/// PostgreSQL 14 and later say at login whether they are a standby. A write must never reach one; and who asks for a
/// replica is not to burden the primary.
pub(super) fn refuse_the_wrong_one(ask: &Ask, greeted: Greeted) -> Result<Connected, Miss> {
    let Greeted { connected, in_hot_standby } = greeted;
    let server = &connected.upstream.server;
    let to = |mode| ask.conninfo.to(&Target { mode, ..ask.target.clone() }.to_string());
    let (what, hint) = match (connected.upstream.mode, in_hot_standby) {
        (Mode::Rw, Some(true)) if !connected.upstream.standby_cluster => {
            ("a standby, not the primary", format!("Try again in a moment; to read from a replica: {}", to(Mode::Ro)))
        }
        (Mode::Ro, Some(false)) if matches!(server, Server::Pod(_)) => {
            ("the primary, not a replica", format!("Its primary takes reads too. Type: {}", to(Mode::Any)))
        }
        _ => return Ok(connected),
    };
    let message = format!("{server} of {} is {what}", ask.target);
    Err(Miss::Stale(Refusal::Report(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message).hint(hint))))
}

/// A server that waits for the first query, and what it said of itself.
pub(super) struct Greeted {
    connected: Connected,
    /// `None` where the server did not say.
    in_hot_standby: Option<bool>,
}

/// What a server says of itself before ReadyForQuery.
#[derive(Default)]
struct Said {
    key: Option<CancelKey>,
    in_hot_standby: Option<bool>,
    superuser: bool,
}

impl Said {
    fn hear(&mut self, frame: &Frame) -> Result<(), PacketError> {
        match frame.tag {
            b'K' => self.key = Some(backend::backend_key_data(frame)?),
            b'S' => match backend::parameter_status(frame)? {
                (b"in_hot_standby", value) => self.in_hot_standby = Some(value == b"on"),
                (b"is_superuser", value) => self.superuser = value == b"on",
                _ => {}
            },
            b'Z' => _ = backend::ready_for_query(frame)?,
            b'N' => {}
            // An authentication request would reach the client as if it were ours.
            tag => return Err(PacketError::Malformed(char::from(tag))),
        }
        Ok(())
    }
}

/// Reads on to ReadyForQuery, keeping every message as it came.
pub(super) async fn until_ready(
    mut stream: BoxedStream,
    mut buf: BytesMut,
    channel: &Channel,
    (upstream, login, grant): (Upstream, Login, Grant),
) -> Result<Greeted, Miss> {
    let mut greeting = BytesMut::new();
    let broken = |error| protocol(&upstream, error);
    let mut said = Said::default();
    loop {
        while let Some(frame) = next_frame(&mut buf, MAX_GREETING).map_err(broken)? {
            if frame.tag == b'E' {
                return Err(refused(frame).unwrap_or_else(broken));
            }
            said.hear(&frame).map_err(broken)?;
            greeting.extend_from_slice(&frame.raw);
            if frame.tag == b'Z' {
                let Said { key, in_hot_standby, superuser } = said;
                let encrypted = matches!(channel, Channel::Tls { .. });
                let (greeting, rest) = (greeting.freeze(), buf.freeze());
                let writable = in_hot_standby == Some(false);
                let (place, superuser) = (None, superuser || (upstream.pooled && login.superuser));
                let connected = Connected {
                    stream,
                    upstream,
                    login,
                    encrypted,
                    writable,
                    greeting,
                    key,
                    rest,
                    superuser,
                    place,
                    grant,
                };
                return Ok(Greeted { connected, in_hot_standby });
            }
            if greeting.len() > MAX_GREETING {
                return Err(broken(PacketError::TooLong { length: greeting.len(), limit: MAX_GREETING }));
            }
        }
        let over = || Miss::Stale(Refusal::Report(closed(&upstream)));
        match stream.read_buf(&mut buf).await {
            Ok(0) => return Err(over()),
            Ok(_) => {}
            Err(error) => return Err(failure_inside(&error).map_or_else(over, Into::into)),
        }
    }
}

/// What a server that ends a login with an error has said. One that is still starting takes another try.
fn refused(frame: Frame) -> Result<Miss, PacketError> {
    let fields = backend::error_fields(&frame)?;
    let starting = fields.sqlstate == SqlState::CANNOT_CONNECT_NOW.as_str();
    let refusal = Refusal::Server { frame: frame.raw, fields };
    Ok(if starting { Miss::Stale(refusal) } else { Miss::Final(refusal) })
}

fn protocol(upstream: &Upstream, error: PacketError) -> Miss {
    Miss::Final(Refusal::Report(placed(upstream, LoginError::Protocol(error).report())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{join, sink};

    use super::*;
    use crate::session::connect::tests::{login, upstream};

    /// A message of the server's.
    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("a short body");
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    /// What is made of a server that says this behind AuthenticationOk, and ends.
    async fn after_ok(said: &[Vec<u8>]) -> Result<Greeted, Miss> {
        let stream: BoxedStream = Box::new(join(&b""[..], sink()));
        until_ready(
            stream,
            said.concat().as_slice().into(),
            &Channel::Plaintext,
            (upstream(), login(), Grant::example()),
        )
        .await
    }

    /// An authentication request behind AuthenticationOk was passed on behind ours: a client that answers one at any time
    /// would have typed a password into somebody else's server.
    #[tokio::test]
    async fn only_what_a_server_says_after_a_login_is_passed_on() {
        let ready = || message(b'Z', b"I");
        let usual = [
            message(b'S', b"in_hot_standby\0off\0"),
            message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
            message(b'N', b"SNOTICE\0C00000\0Mhello\0\0"),
            ready(),
        ];
        let Ok(greeted) = after_ok(&usual).await else { panic!("a server as any other") };
        assert_eq!((greeted.connected.greeting.to_vec(), greeted.in_hot_standby), (usual.concat(), Some(false)));

        let cleartext = [0, 0, 0, 3];
        for tag in (0..=u8::MAX).filter(|tag| !b"ENSKZ".contains(tag)) {
            let Err(miss) = after_ok(&[message(tag, &cleartext), ready()]).await else { panic!("{tag} was passed on") };
            let Miss::Final(Refusal::Report(report)) = miss else { panic!("{tag}: tried again") };
            assert_eq!(report.sqlstate, LoginError::Protocol(PacketError::Malformed('R')).report().sqlstate, "{tag}");
            assert!(report.message.contains("malformed message of type"), "{tag}: {report:?}");
        }
    }
}
