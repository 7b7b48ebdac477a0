//! Where nothing in Kubernetes says which server is the primary, the servers themselves are asked: all of them. Two that take
//! writes are two databases, and nobody can know which one is meant.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Connector, Wanted};
use crate::{
    error::{Report, SqlState},
    session::refusal::Refusal,
    upstream::{Ask, Login, Server, Upstream},
};

/// How long a rival may take to answer: one that does not, or lets nobody in, proves nothing.
const ANSWERS: Duration = Duration::from_secs(3);

impl Connector {
    /// An error where a rival of the server that let us in takes writes, too.
    pub(super) async fn refuse_rivals(
        &self,
        wanted: &Wanted,
        (upstream, login): (&Upstream, &Login),
    ) -> Result<(), Refusal> {
        let writable = |server: &Server| {
            let rival = Upstream { server: server.clone(), rivals: Vec::new(), ..upstream.clone() };
            async move {
                let asked = timeout(ANSWERS, self.try_once(wanted, &rival, Some(login))).await;
                asked.is_ok_and(|answer| answer.is_ok_and(|rival| rival.writable))
            }
        };
        let answers = join_all(upstream.rivals.iter().map(writable)).await;
        let rivals = upstream.rivals.iter().zip(answers).filter_map(|(rival, writable)| writable.then_some(rival));
        let rivals: Vec<&Server> = rivals.collect();
        if rivals.is_empty() {
            self.directory.undisputed(upstream);
            return Ok(());
        }
        Err(Refusal::Report(disputed(&wanted.ask, upstream, (&rivals, login))))
    }
}

fn disputed(ask: &Ask, upstream: &Upstream, (rivals, login): (&[&Server], &Login)) -> Report {
    let mut names: Vec<String> = rivals.iter().map(ToString::to_string).collect();
    names.push(upstream.server.to_string());
    names.sort_unstable();
    let cluster = format!("{}.{}", upstream.cluster.name, upstream.cluster.namespace);
    let message = format!("{} of {cluster} all take writes: each is a database of its own", names.join(" and "));
    let (namespace, pod) = (&upstream.cluster.namespace, upstream.server.name());
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)
        .detail("None is the primary of the others, and nothing says which one is meant.")
        .hint(format!(
            "Say which by a Service of its own and a Secret with its login: kubectl expose pod {pod} -n {namespace} --port \
             {port} && kubectl create secret generic {pod}-login -n {namespace} --from-literal=host={pod} \
             --from-literal=port={port} --from-literal=username={user} --from-literal=password=... ; then type: {then}",
            then = ask.conninfo.to(&format!("{pod}-login.{namespace}")),
            port = upstream.port,
            user = login.user,
        ))
}
