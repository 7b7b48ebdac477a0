//! Where faults are driven: a world, pgferry before it, and what must be left when a fault is over.

use std::{io::ErrorKind, time::Duration};

use proto_tests::{
    cnpg::Cluster,
    kubernetes::{Act, Script, When},
    secrets,
    subject::{Start, Subject},
    wire::{Fields, Wire},
};
use tokio::time::timeout;

use crate::support::{BINARY, PATIENCE, World};

/// No deadline of pgferry's is as long.
pub(crate) const IN_TIME: Duration = PATIENCE;

/// COPY IN into a table of its own.
pub(crate) const COPY: &str = "create temp table t (a int); copy t from stdin";

/// A world, pgferry before it, and what that has open when nothing goes on.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) pgferry: Subject,
    environment: Vec<(&'static str, &'static str)>,
    /// Descriptors at the beginning that are no connections to the API server.
    open: usize,
}

async fn serve(world: &World, environment: &[(&str, &str)]) -> Subject {
    let start = Start::new(BINARY).env("PGFERRY__SESSIONS__PRIMARY_WAIT", "0s");
    let start = environment.iter().fold(start, |start, (name, value)| start.env(name, value));
    start.serve(&world.api.kubeconfig()).await
}

impl Stage {
    pub(crate) async fn new(environment: &[(&'static str, &'static str)]) -> Self {
        Self::of(World::reading().await, environment).await
    }

    pub(crate) async fn of(world: World, environment: &[(&'static str, &'static str)]) -> Self {
        // Every connection reads for itself, so that every one can meet a fault.
        world.api.deny(None, "watch", "pods", None);
        world.api.deny(None, "watch", "clusters", None);
        let pgferry = serve(&world, environment).await;
        let environment = environment.to_vec();
        let mut stage = Self { world, pgferry, environment, open: usize::MAX };
        stage.works("at the beginning").await;
        stage.settled("at the beginning").await;
        stage.open = stage.descriptors();
        stage
    }

    /// Another pgferry, which knows nothing yet.
    pub(crate) async fn again(&self) -> Subject {
        serve(&self.world, &self.environment).await
    }

    /// The next tunnels to the pod break.
    pub(crate) fn breaks(&self, times: usize, when: When, acts: &[Act]) {
        self.world.api.script("prod", "shop-1", times, Script { when, acts: acts.to_vec() });
    }

    /// Another cluster, whose tunnels all break; for many faults at a time.
    pub(crate) fn broken(&self, number: usize, when: When, acts: Vec<Act>) -> String {
        let name = format!("shop{number}");
        let server = self.world.server.address();
        Cluster::new(&self.world.api, ("prod", &name), &self.world.password, &[server]);
        self.world.api.script("prod", &format!("{name}-1"), usize::MAX, Script { when, acts });
        format!("{name}.prod")
    }

    /// Nothing is left of what came before, and a client that comes now is served.
    pub(crate) async fn works(&self, after: &str) {
        self.world.api.heal();
        self.settled(after).await;
        let wire = self.pgferry.connect("pgferry", "shop.prod").await;
        let mut wire = wire.unwrap_or_else(|error| panic!("{after}: {error:?}"));
        assert_eq!(wire.value("select 1").await.unwrap(), "1", "{after}");
        // An orderly end takes a node a second.
        self.world.api.cut_tunnels("prod", "shop-1");
        assert_eq!(end(&mut wire).await, End::Said("08006".to_owned()), "{after}");
    }

    fn descriptors(&self) -> usize {
        self.pgferry.descriptors_but_for(self.world.api.address())
    }

    async fn settled(&self, after: &str) {
        let settled = async {
            self.world.api.tunnels(0).await;
            // The dear look only where the cheap one cannot tell. It is dear enough not to be taken all the time.
            let mut looks = tokio::time::interval(Duration::from_millis(20));
            while self.pgferry.descriptors() > self.open && self.descriptors() > self.open {
                looks.tick().await;
            }
        };
        let in_time = timeout(IN_TIME, settled).await;
        assert!(in_time.is_ok(), "{after}: {} descriptors, {} at the beginning", self.descriptors(), self.open);
    }
}

/// How a session ended, as its client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this error's code, then the end of the stream.
    Said(String),
    /// With a reset.
    Reset,
    /// As if all were in order.
    Clean,
}

pub(crate) async fn end_with(wire: &mut Wire) -> (End, Fields) {
    let mut last = None;
    loop {
        let mut next = timeout(IN_TIME, wire.next()).await.expect("in time");
        if next.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidData) {
            // What is no message any more is only bytes.
            next = timeout(IN_TIME, wire.rest()).await.expect("in time").map(|_| None);
        }
        match next {
            Ok(Some(message)) if message.tag == 'E' => last = Some(message.fields()),
            Ok(Some(_)) => {}
            Ok(None) => {
                let fields = last.unwrap_or_default();
                let end = if fields.code.is_empty() { End::Clean } else { End::Said(fields.code.clone()) };
                return (end, fields);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return (End::Reset, last.unwrap_or_default());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn end(wire: &mut Wire) -> End {
    end_with(wire).await.0
}

/// What is wrong with an error that a client read.
pub(crate) fn wrong(what: &str, fields: &Fields, (code, part): (&str, &str)) -> Option<String> {
    let right = fields.severity == "FATAL" && fields.code == code && fields.message.contains(part);
    let leaked = secrets::leaked(&format!("{fields:?}"));
    (!right || leaked.is_some()).then(|| format!("{what}: not {code} {part:?}, but {fields:?}"))
}
