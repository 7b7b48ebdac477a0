//! Which proof a client is asked for, and whom it shows: a certificate, else a login of the configuration, else a token.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    ClientError, LEAST_ITERATIONS, Mock, Verifier,
    certificate::{self, CertificateError},
    password, scram,
};
use crate::{
    auth::Authenticated,
    error::{ClientFacing, Report, SqlState},
    upstream::{Failure, How, Person, Review},
};

/// What names and groups of logins carry, so that nobody is taken for a user of Kubernetes.
const LOGIN: &str = "login:";

/// How clients may prove who they are.
pub struct Methods {
    /// By a certificate that the handshake has verified.
    pub certificate: bool,
    /// By a login of the configuration.
    pub logins: Option<Logins>,
    /// By a token.
    pub tokens: Option<Arc<dyn Review>>,
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Methods").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The logins of the configuration.
pub struct Logins {
    prefix: String,
    accounts: BTreeMap<String, Account>,
    mock: Mock,
}

/// One login.
#[derive(Debug)]
pub struct Account {
    /// What its password is verified with.
    pub verifier: Verifier,
    /// The PostgreSQL role that it means; `None` is a cluster's default login.
    pub role: Option<String>,
    /// Groups, for rules.
    pub groups: Vec<String>,
}

impl Logins {
    /// Names begin with the prefix in a startup packet, and stand without it here.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn new(prefix: String, accounts: BTreeMap<String, Account>) -> Result<Self, getrandom::Error> {
        // Whoever asks for as many rounds as the others is no stranger.
        let iterations = accounts.values().next().map_or(LEAST_ITERATIONS, |account| account.verifier.iterations());
        Ok(Self { prefix, accounts, mock: Mock::new(iterations)? })
    }

    /// The login's name in a user, and what stands behind it: `@target`, or nothing.
    fn divide<'a>(&self, user: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = user.strip_prefix(&self.prefix)?;
        Some(rest.split_at(rest.find('@').unwrap_or(rest.len())))
    }
}

/// What is known of a client before it has proved anything.
#[derive(Debug)]
pub struct Claim<'a> {
    /// The startup packet's user.
    pub user: &'a str,
    /// Whether what it sends is encrypted.
    pub encrypted: bool,
    /// The certificate that the handshake has verified, where it showed one.
    pub certificate: Option<CertificateDer<'a>>,
    /// The hash of our certificate, as the client saw it.
    pub end_point: Option<Arc<[u8]>>,
    /// When somebody who is asked about it must have answered.
    pub deadline: Instant,
}

/// A proof that was given.
#[derive(Debug)]
pub struct Proof {
    /// Who it is.
    pub who: Authenticated,
    /// The user that the startup packet means now, where it named a login.
    pub user: Option<String>,
}

/// A proof that was not.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// It is wrong, or breaks off.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A certificate that is good, and names nobody.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A token would go through the open.
    #[error("a token is taken only over TLS")]
    NoTls,
    /// Nothing that is asked for here fits this client.
    #[error("this pgferry asks for {0}, and the client has shown none")]
    NoMethod(&'static str),
    /// Nobody can say now whose a token is.
    #[error("whose the token is cannot be found out now")]
    NoAnswer(Failure),
}

impl ProveError {
    /// A wrong proof, and not an outage or a client that goes away.
    #[must_use]
    pub fn is_guess(&self) -> bool {
        match self {
            Self::Client(error) => !error.is_end(),
            Self::Certificate(_) => true,
            _ => false,
        }
    }
}

impl ClientFacing for ProveError {
    fn report(&self) -> Report {
        let fatal = |code| Report::fatal(code, self.to_string());
        match self {
            Self::Client(error) => error.report(),
            Self::Certificate(error) => error.report(),
            Self::NoTls => fatal(SqlState::INVALID_AUTHORIZATION)
                .hint("Connect with sslmode=verify-full, and sslrootcert with the CA of this pgferry"),
            Self::NoMethod(_) => fatal(SqlState::INVALID_AUTHORIZATION)
                .hint("Connect with what its administrator gave you: sslcert and sslkey, or the user name of a login"),
            // What is wrong with pgferry itself is nothing for somebody who may be anybody.
            Self::NoAnswer(_) => fatal(SqlState::CANNOT_CONNECT_NOW).hint("Try again in a moment"),
        }
    }
}

impl Methods {
    /// What a client is asked for that names this user: a certificate where it has shown one, the password of a login, else
    /// a token; `None` where nothing of that is taken here.
    #[must_use]
    pub fn asks(&self, user: &str, has_certificate: bool) -> Option<How> {
        if self.certificate && has_certificate {
            return Some(How::Certificate);
        }
        let is_login = self.logins.as_ref().is_some_and(|logins| logins.divide(user).is_some());
        if is_login {
            return Some(How::Login);
        }
        self.tokens.is_some().then_some(How::Kubernetes)
    }

    /// Takes over what strangers have seen of the methods before: a name that nobody has must not tell itself by a salt that
    /// changes when the others' do not.
    pub fn resemble(&mut self, before: &Self) {
        if let (Some(now), Some(before)) = (&mut self.logins, &before.logins) {
            now.mock = before.mock.with_iterations(now.mock.iterations());
        }
    }

    /// Has the client prove who it is. AuthenticationOk is not sent.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn prove<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        io: &mut S,
        early: &mut BytesMut,
        claim: Claim<'_>,
    ) -> Result<Proof, ProveError> {
        let user = claim.user;
        let (person, user) = match (self.asks(user, claim.certificate.is_some()), &self.logins, &self.tokens) {
            (Some(How::Certificate), ..) => {
                let shown = claim.certificate.as_deref().unwrap_or_default();
                (certificate::person(shown)?, None)
            }
            (Some(How::Login), Some(logins), _) => {
                let (person, user) = logins.prove(io, early, user, claim.end_point.as_deref()).await?;
                (person, Some(user))
            }
            (Some(How::Kubernetes), _, Some(review)) => {
                if !claim.encrypted {
                    return Err(ProveError::NoTls);
                }
                let token = password(io, early).await?;
                let person = review.person(&token, claim.deadline).await.map_err(ProveError::NoAnswer)?;
                (person.ok_or_else(|| ClientError::Refused(user.to_owned()))?, None)
            }
            _ => {
                return Err(ProveError::NoMethod(match (self.certificate, self.logins.is_some()) {
                    (true, true) => "a client certificate or a login",
                    (true, false) => "a client certificate",
                    _ => "a login",
                }));
            }
        };
        Ok(Proof { who: Authenticated::person(person), user })
    }
}

impl Logins {
    /// The person, and the user that the startup packet means now.
    async fn prove<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        io: &mut S,
        early: &mut BytesMut,
        user: &str,
        end_point: Option<&[u8]>,
    ) -> Result<(Person, String), ClientError> {
        let refused = || ClientError::Refused(user.to_owned());
        let (name, target) = self.divide(user).ok_or_else(refused)?;
        let account = self.accounts.get(name);
        scram(io, early, account.map(|account| &account.verifier), &self.mock, user, end_point).await?;
        let account = account.ok_or_else(refused)?;
        Ok((account.person(name), format!("{}{target}", account.role.as_deref().unwrap_or_default())))
    }
}

impl Account {
    fn person(&self, name: &str) -> Person {
        Person {
            name: format!("{LOGIN}{name}"),
            groups: self.groups.iter().map(|group| format!("{LOGIN}{group}")).collect(),
            uid: String::new(),
            extra: BTreeMap::new(),
            how: How::Login,
            until: None,
            context: None,
        }
    }
}
