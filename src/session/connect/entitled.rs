//! What a person may, on the way to a server: who may not hears the same as where there is nothing, and no server hears of
//! anybody before.

use std::{
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::sync::oneshot;
use tracing::info;

use super::{Connected, Connector, Wanted, miss::Miss};
use crate::{
    error::SqlState,
    metrics::Phase,
    session::{
        permit::{Denied, Grant, refused},
        refusal::Refusal,
    },
    upstream::{Identity, Login, Role, Upstream},
};

impl Connector {
    /// The server. A person who may not hear of the cluster hears the same as where there is none.
    pub(super) async fn resolve(&self, wanted: &Wanted) -> Result<Upstream, Refusal> {
        if wanted.ask.identity == Identity::Local {
            return Ok(self.resolve_for_all(wanted).await?);
        }
        let may_know = AtomicBool::new(false);
        tokio::select! {
            resolved = self.directory.resolve(&wanted.ask) => resolved.map_err(|failure| {
                if may_know.load(Ordering::Relaxed) || failure.report.sqlstate == SqlState::UNABLE_TO_CONNECT {
                    return failure.into();
                }
                info!(target = %wanted.ask.target, "refused, because {failure}");
                Refusal::Report(refused(wanted))
            }),
            refusal = self.may_not_know(wanted, &may_know) => Err(refusal),
        }
    }

    /// Why a person is not to wait for a server of the cluster.
    async fn may_not_know(&self, wanted: &Wanted, may_know: &AtomicBool) -> Refusal {
        let found = wanted.ask.progress.until_found().await;
        let checked = self.credentials.check(&wanted.ask, &found).await;
        let role = match (&checked, &wanted.ask.role) {
            (Ok(Some(role)), _) | (_, Role::Named(role)) => role.as_str(),
            // Whose right is not known cannot be asked about, and waiting would tell that there is something to wait for.
            _ => return Refusal::Report(refused(wanted)),
        };
        match (self.permits.may_know(wanted, &found.cluster, role).await, checked) {
            (Err(denied), _) => denied.refusal(wanted),
            (Ok(()), Err(failure)) if failure.report.sqlstate == SqlState::INVALID_AUTHORIZATION => failure.into(),
            (Ok(()), _) => {
                may_know.store(true, Ordering::Relaxed);
                pending().await
            }
        }
    }

    /// The rest of what is asked about a session: what only the server knew, and how many there are.
    pub(super) async fn settle(&self, wanted: &Wanted, connected: &mut Connected) -> Result<(), Denied> {
        if connected.superuser {
            self.permits.permit_superuser(wanted, &mut connected.grant).await?;
        }
        self.permits.hold(&mut connected.grant)
    }

    /// The login, and the right to use it. What is known of a login is told to who has that right alone.
    pub(super) async fn entitled(
        &self,
        wanted: &Wanted,
        upstream: &Upstream,
        known: Option<&Login>,
    ) -> Result<(Login, Grant), Miss> {
        let ask = &wanted.ask;
        let (tell, told) = oneshot::channel();
        let login = async {
            let login = match known {
                Some(login) => Ok(login.clone()),
                None => self.metrics.timed(Phase::Credentials, self.credentials.login(ask, upstream)).await,
            };
            // Nobody listens where the role is known before.
            let _ = login.as_ref().map(|login| tell.send(login.user.clone()));
            login
        };
        let permitted = async {
            let role = match &ask.role {
                Role::Named(role) => role.clone(),
                Role::Default => told.await.map_err(|_| Denied::Refused)?,
            };
            let permit = self.permits.permit(wanted, upstream, &role);
            if ask.identity == Identity::Local { permit.await } else { self.metrics.timed(Phase::Review, permit).await }
        };
        let (login, permitted) = tokio::join!(login, permitted);
        let login = match (login, &ask.identity) {
            (Err(failure), Identity::Local) => return Err(failure.into()),
            (login, _) => login,
        };
        let permitted = match (&login, &ask.role) {
            // Some systems write a role another way than PostgreSQL: the one that logs in is what counts.
            (Ok(login), Role::Named(role)) if *role != login.user => {
                self.permits.permit(wanted, upstream, &login.user).await
            }
            _ => permitted,
        };
        let grant = permitted.map_err(|denied| Miss::Final(denied.refusal(wanted)))?;
        Ok((login?, grant))
    }
}
