//! A bastion before one cluster: people come with a proof, and Kubernetes says what they may.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::PathBuf,
};

use proto_tests::{
    kubernetes::certificates::Authority,
    secrets,
    subject::Subject,
    wire::{Fields, Wire},
};

use crate::support::{World, serve};

/// The audience that tokens are for.
pub(crate) const AUDIENCE: &str = "pgferry";

/// Tokens alone.
pub(crate) const TOKENS: &str = "[auth]\nmethods = [\"kubernetes\"]\n";

/// A pipe that an audit log is written to, and that takes nothing once it is full.
pub(crate) struct Pipe {
    pub(crate) path: PathBuf,
    /// Somebody who need not read.
    reader: File,
    _directory: tempfile::TempDir,
}

impl Pipe {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        Self { path, reader, _directory: directory }
    }

    /// Leaves room for not even a line.
    pub(crate) fn fill(&self) {
        let fill = OpenOptions::new().write(true).open(&self.path).unwrap();
        rustix::io::ioctl_fionbio(&fill, true).unwrap();
        while (&fill).write(&[b'\n'; 4096]).is_ok() {}
    }

    /// Reads what is there.
    pub(crate) fn drain(&self) {
        while (&self.reader).read(&mut [0; 4096]).is_ok() {}
    }
}

/// Runs SQL as the superuser.
pub(crate) async fn as_superuser(world: &World, sql: &str) -> Vec<Vec<String>> {
    world.server.set_hba("host all postgres all trust\nhost all all all scram-sha-256\n");
    world.server.execute(sql).await.unwrap()
}

pub(crate) struct Bastion {
    pub(crate) world: World,
    pub(crate) pgferry: Subject,
    pub(crate) authority: Authority,
}

impl Bastion {
    /// Before a cluster of its own server; `configuration` says how people prove who they are.
    pub(crate) async fn new(configuration: &str) -> Self {
        Self::before(World::reading().await, configuration).await
    }

    pub(crate) async fn before(world: World, configuration: &str) -> Self {
        let authority = Authority::new("the team's");
        let (certificate, key) = authority.server(&["localhost", "127.0.0.1"]);
        let certificate = world.api.write("tls.crt", &certificate);
        let key = world.api.write("tls.key", &key);
        let ca = world.api.write("clients.crt", authority.pem());
        let configuration = configuration.replace("CLIENT_CA", &ca.display().to_string());
        let listen = format!(
            "[listen]\ntls = \"files\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
            certificate.display(),
            key.display()
        );
        let pgferry = serve(&world.api, &format!("{listen}{configuration}")).await;
        Self { world, pgferry, authority }
    }

    /// A token of somebody, for this bastion.
    pub(crate) fn token(&self, name: &str, groups: &[&str]) -> String {
        let token = secrets::make("bearer");
        self.world.api.bearer(&token, name, groups, AUDIENCE);
        token
    }

    /// Somebody, or a group, may log in to `shop.prod` as a role.
    pub(crate) fn bind(&self, subject: &str, role: &str) {
        self.world.api.bind(subject, "connect", &format!("clusters/{role}"), "prod", "shop");
    }

    pub(crate) fn unbind(&self, subject: &str, role: &str) {
        self.world.api.unbind(subject, "connect", &format!("clusters/{role}"), "prod", "shop");
    }

    /// Logs in over TLS with a password, be it a token.
    pub(crate) async fn connect(&self, password: &str, user: &str, database: &str) -> Result<Wire, Fields> {
        let mut wire = Wire::tls(self.pgferry.address()).await.unwrap();
        wire.start_with_password(&[("user", user), ("database", database)], password).await.map(|()| wire)
    }

    pub(crate) async fn refusal(&self, password: &str, user: &str, database: &str) -> Fields {
        match self.connect(password, user, database).await {
            Ok(_) => panic!("{user} was let in to {database}"),
            Err(fields) => fields,
        }
    }

    /// Requests about the cluster: whatever was asked but reviews and what a start asks for by itself.
    pub(crate) fn asked_about_clusters(&self) -> Vec<String> {
        let quiet = ["tokenreviews", "subjectaccessreviews", "apis", "version"];
        let requests = self.world.api.requests().into_iter();
        let about = requests.filter(|request| !quiet.contains(&request.resource.as_str()));
        about.map(|request| format!("{} {}", request.verb, request.resource)).collect()
    }
}
