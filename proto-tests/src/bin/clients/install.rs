//! Clients as their registries have them, at pinned versions, in a cache folder.

use std::{
    collections::HashMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    process::Command,
    sync::{Mutex, OnceCell},
};

/// Where a client comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Source {
    /// `PyPI`: a file of `proto-tests/clients/python` with pinned versions.
    Python(&'static str),
    /// The same, for what is used in a browser: Debian's Chromium and its driver.
    PythonInBrowser(&'static str),
    /// The npm registry: a folder of `proto-tests/clients/node` with a lock file.
    Node(&'static str),
    /// Maven Central.
    Java,
    /// The Go module proxy: a program of `proto-tests/clients/go`.
    Go(&'static str),
    /// crates.io: a program of `proto-tests/clients/rust`.
    Rust(&'static str),
    /// PostgreSQL's own programs of version 17, as Debian has them.
    Postgres17,
    /// The same, and the scripts of its regression suite, which a package of `PyPI` has in its source.
    Regression,
    /// The same of another version, as this machine has them.
    PostgresHere(u32),
    /// Packages of Debian: an interpreter and its drivers.
    Debian(&'static str),
}

/// What runs a client's program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tool {
    /// What stands before the program: an interpreter, and its arguments.
    lead: Vec<OsString>,
    /// Where the program is, where it is a file.
    folder: Option<PathBuf>,
    /// What is looked for before all else.
    path: Option<PathBuf>,
    /// A folder that the program reads, as `CLIENT_SCRIPTS`.
    scripts: Option<PathBuf>,
}

impl Tool {
    /// The command, with an environment that says nothing else.
    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let mut words = self.lead.clone();
        for (index, word) in program.iter().enumerate() {
            let file = self.folder.as_ref().filter(|_| index == 0).map(|folder| folder.join(word).into_os_string());
            words.push(file.unwrap_or_else(|| (*word).into()));
        }
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
        let path = env::var_os("PATH").unwrap_or_default();
        let all = self.path.iter().cloned().chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(all).unwrap_or(path.clone()));
        if let Some(scripts) = &self.scripts {
            command.env("CLIENT_SCRIPTS", scripts);
        }
        command
    }
}

type Had = Arc<OnceCell<Result<Tool, String>>>;

/// Installs each source once.
pub(crate) struct Installer {
    cache: PathBuf,
    had: Mutex<HashMap<Source, Had>>,
    /// A package manager has the machine for itself.
    turn: Mutex<()>,
}

impl Installer {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
        let cache = base.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        fs::create_dir_all(cache.join(OURS))?;
        Ok(Self { cache, had: Mutex::default(), turn: Mutex::default() })
    }

    pub(crate) async fn have(&self, source: &Source) -> anyhow::Result<Tool> {
        let cell = Arc::clone(self.had.lock().await.entry(*source).or_default());
        let had = cell.get_or_init(|| async {
            let _turn = self.turn.lock().await;
            self.install(*source).await.map_err(|error| format!("{error:#}"))
        });
        had.await.clone().map_err(anyhow::Error::msg)
    }

    async fn install(&self, source: Source) -> anyhow::Result<Tool> {
        match source {
            Source::Python(pins) => self.python(pins).await,
            Source::PythonInBrowser(pins) => {
                browser().await?;
                self.python(pins).await
            }
            Source::Node(pins) => self.node(pins).await,
            Source::Java => self.java().await,
            Source::Go(name) => self.go(name).await,
            Source::Rust(name) => self.rust(name).await,
            Source::Postgres17 => self.postgres_17().await,
            Source::Regression => self.regression().await,
            Source::PostgresHere(major) => postgres_here(major).await,
            Source::Debian(interpreter) => self.debian(interpreter).await,
        }
    }

    /// Our folder for a language.
    fn folder(&self, name: &str) -> PathBuf {
        self.cache.join(OURS).join(name)
    }

    /// A folder that is made anew when a file with pinned versions has changed, or the making was cut short.
    async fn made<M>(&self, name: &str, pins: &Path, make: M) -> anyhow::Result<PathBuf>
    where
        M: AsyncFnOnce(&Path) -> anyhow::Result<()>,
    {
        let (folder, wanted) = (self.folder(name), fs::read_to_string(pins)?);
        let stamp = folder.join("pins");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(folder);
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        make(&folder).await?;
        fs::write(stamp, wanted)?;
        Ok(folder)
    }

    async fn python(&self, pins: &str) -> anyhow::Result<Tool> {
        let programs = programs("python");
        let file = programs.join(pins);
        let name = format!("python-{pins}");
        let folder = self.made(&name, &file, async |folder| {
            done("python3", ["-m".as_ref(), "venv".as_ref(), folder.as_os_str()]).await?;
            let pip = folder.join("bin/pip");
            done(&pip, ["install".as_ref(), "--quiet".as_ref(), "--requirement".as_ref(), file.as_os_str()]).await
        });
        let lead = vec![folder.await?.join("bin/python").into_os_string()];
        Ok(Tool { lead, folder: Some(programs), ..Tool::default() })
    }

    async fn node(&self, pins: &str) -> anyhow::Result<Tool> {
        let programs = programs("node");
        let (own, name) = (programs.join(pins), format!("node-{pins}"));
        let lock = own.join("package-lock.json");
        let folder = self.made(&name, &lock, async |folder| {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(own.join(file), folder.join(file))?;
            }
            // Prisma's scripts would fetch a program that is not of the registry, and no other package needs its own.
            let words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"];
            done("npm", words.into_iter().chain([folder.to_string_lossy().as_ref()])).await
        });
        let folder = folder.await?;
        // A module is looked for beside the file that names it.
        for file in fs::read_dir(&programs)?.chain(fs::read_dir(&own)?) {
            let file = file?.path();
            let wanted = file.extension().is_some_and(|kind| kind == "mjs" || kind == "prisma");
            if let Some(name) = file.file_name().filter(|_| wanted) {
                fs::copy(&file, folder.join(name))?;
            }
        }
        Ok(Tool { lead: vec!["node".into()], folder: Some(folder), ..Tool::default() })
    }

    async fn java(&self) -> anyhow::Result<Tool> {
        let programs = programs("java");
        let pom = programs.join("pom.xml");
        let jars = self.made("java", &pom, async |folder| {
            let output = format!("-DoutputDirectory={}", folder.display());
            done("mvn", ["--batch-mode", "--quiet", "--file", &pom.to_string_lossy(), "dependency:copy", &output]).await
        });
        let (jars, classes) = (jars.await?, self.folder("java-classes"));
        let mut sources = Vec::new();
        for file in fs::read_dir(&programs)? {
            let file = file?.path();
            sources.extend((file.extension() == Some(OsStr::new("java"))).then(|| file.into_os_string()));
        }
        let with = |name: &str| format!("{}:{}", classes.display(), jars.join(name).display());
        let mut javac: Vec<OsString> = ["-d", &classes.to_string_lossy(), "-cp", &with("*")].map(Into::into).into();
        javac.append(&mut sources);
        done("javac", javac).await?;
        // The versions of one driver exclude each other: the program's first word is the one's name.
        let (classes, jars) = (classes.display(), jars.display());
        let path = format!("{classes}:{jars}/postgresql-$driver.jar:$(printf %s: {jars}/[!p]*.jar)");
        let script = format!("driver=$1; shift; exec java -cp \"{path}\" \"$@\"");
        Ok(Tool { lead: ["sh", "-c", &script, "java"].map(Into::into).into(), ..Tool::default() })
    }

    async fn go(&self, name: &str) -> anyhow::Result<Tool> {
        let folder = self.folder("go");
        let (programs, output) = (programs("go"), folder.join(name));
        let package = format!("./{name}");
        let words: [&OsStr; 6] =
            ["-C".as_ref(), programs.as_ref(), "build".as_ref(), "-o".as_ref(), output.as_ref(), package.as_ref()];
        done("go", words).await?;
        Ok(Tool { lead: Vec::new(), folder: Some(folder), ..Tool::default() })
    }

    async fn rust(&self, name: &str) -> anyhow::Result<Tool> {
        let (folder, manifest) = (self.folder("rust"), programs("rust").join("Cargo.toml"));
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let words: [&OsStr; 9] = [
            "build".as_ref(),
            "--quiet".as_ref(),
            "--locked".as_ref(),
            "--manifest-path".as_ref(),
            manifest.as_ref(),
            "--target-dir".as_ref(),
            folder.as_ref(),
            "--package".as_ref(),
            name.as_ref(),
        ];
        done(cargo, words).await?;
        Ok(Tool { lead: Vec::new(), folder: Some(folder.join("debug")), ..Tool::default() })
    }

    async fn postgres_17(&self) -> anyhow::Result<Tool> {
        // `.ci/run` has them in the same place.
        let root = self.cache.join("pgferry-postgresql-17");
        let (wrappers, bin) = (root.join("wrappers"), root.join("usr/lib/postgresql/17/bin"));
        if !bin.join("psql").exists() {
            debootstrapped(&root, "postgresql-17").await?;
        }
        fs::create_dir_all(&wrappers)?;
        for program in fs::read_dir(&bin)? {
            wrap(&root, &wrappers, &program?.path())?;
        }
        wrap(&root, &wrappers, &root.join("usr/lib/postgresql/17/lib/pgxs/src/test/regress/pg_regress"))?;
        Ok(Tool {
            lead: vec!["python3".into()],
            folder: Some(programs("python")),
            path: Some(wrappers),
            ..Tool::default()
        })
    }

    async fn regression(&self) -> anyhow::Result<Tool> {
        let tool = self.postgres_17().await?;
        let file = programs("python").join("regress.txt");
        let folder = self.made("regression", &file, async |folder| {
            let (file, folder) = (file.to_string_lossy(), folder.to_string_lossy());
            let words = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pglast", "--dest", &folder];
            done("python3", words.into_iter().chain(["--requirement", &file])).await?;
            let unpack = "tar --extract --gzip --strip-components=5 --wildcards '*/test/sql/postgres_regress/*.sql'";
            done("sh", ["-c", &format!("cd '{folder}' && {unpack} --file pglast-*.tar.gz")]).await
        });
        Ok(Tool { scripts: Some(folder.await?), ..tool })
    }

    async fn debian(&self, interpreter: &str) -> anyhow::Result<Tool> {
        let root = self.cache.join("pgferry-scripts");
        let stamp = root.join("packages");
        if fs::read_to_string(&stamp).map_or(true, |found| found != SCRIPTS) {
            debootstrapped(&root, SCRIPTS).await?;
            fs::write(stamp, SCRIPTS)?;
        }
        // A whole Debian has these by a package that does nothing else.
        for name in ["lib", "lib64"] {
            if !root.join(name).exists() {
                std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
            }
        }
        // The programs are seen from inside.
        let seen = root.join("clients");
        fs::create_dir_all(&seen)?;
        for file in ["ruby/cells.rb", "ruby/frameworks.rb", "php/cells.php"] {
            let file = programs(file);
            fs::copy(&file, seen.join(file.file_name().context("a name")?))?;
        }
        let root = root.into_os_string();
        Ok(Tool { lead: vec!["chroot".into(), root, interpreter.into()], ..Tool::default() })
    }
}

const OURS: &str = "pgferry-clients";
/// Debian's packages of languages that are run from a folder of their own.
const SCRIPTS: &str = "ruby-pg,ruby-activerecord,php8.4-cli,php8.4-pgsql";

/// A folder of the programs that run the clients.
fn programs(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

/// Debian packages with all that they need, in a folder of their own.
async fn debootstrapped(root: &Path, packages: &str) -> anyhow::Result<()> {
    let fresh = root.with_extension("new");
    let _ = fs::remove_dir_all(&fresh);
    let include = format!("--include={packages}");
    let fixed = ["--quiet", "--variant=extract", "--mode=root", "--dpkgopt=path-exclude=/usr/share/doc/*"];
    let words = fixed.into_iter().chain([include.as_str(), "trixie"]).map(OsStr::new);
    done("mmdebstrap", words.chain([fresh.as_os_str()])).await?;
    let _ = fs::remove_dir_all(root);
    Ok(fs::rename(fresh, root)?)
}

/// A script that runs a program of another Debian with that Debian's libraries.
fn wrap(root: &Path, wrappers: &Path, program: &Path) -> anyhow::Result<()> {
    let lib = root.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH));
    let mut loaders = fs::read_dir(&lib)?.flatten().map(|file| file.path());
    let loader = loaders.find(|file| file.to_string_lossy().contains("/ld-linux-")).context("the loader")?;
    let text = format!(
        "#!/bin/sh\nexec {} --argv0 \"$0\" --library-path {} {} \"$@\"\n",
        loader.display(),
        lib.display(),
        program.display()
    );
    let file = wrappers.join(program.file_name().context("a name")?);
    fs::write(&file, text)?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}

/// Chromium and its driver where the programs look for them.
async fn browser() -> anyhow::Result<()> {
    if Path::new("/usr/bin/chromedriver").exists() {
        return Ok(());
    }
    ensure!(rustix::process::geteuid().is_root(), "install chromium and chromium-driver");
    done("apt-get", ["install", "-yq", "--no-install-recommends", "chromium", "chromium-driver"]).await
}

/// The programs that are on PATH, if they are of that version.
async fn postgres_here(major: u32) -> anyhow::Result<Tool> {
    let output = Command::new("psql").arg("--version").output().await.context("psql")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains(&format!(" {major}.")), "this machine has {said}");
    Ok(Tool { lead: vec!["python3".into()], folder: Some(programs("python")), ..Tool::default() })
}

/// Runs a package manager; what it says is told where it fails.
async fn done<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, words: impl IntoIterator<Item = S>) -> anyhow::Result<()> {
    let name = program.as_ref().to_string_lossy().into_owned();
    let output = Command::new(program).args(words).output().await.with_context(|| name.clone())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.trim().lines().rev().take(20).collect();
    bail!("{name}: {}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
