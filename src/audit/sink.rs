//! One place where lines go, the queue before it, and the thread that writes: a disk or a pipe that blocks must block
//! nothing else.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tracing::{error, warn};

use super::{event::Event, health::Health, line::Noted};

/// What cannot be written is tried again: soon enough for a client that waits two seconds, and nothing to a full disk.
const RETRY: Duration = Duration::from_millis(100);

/// Where lines go.
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, which is appended to; only this user may read it where it is made anew.
    File(PathBuf),
    /// Somewhere else.
    Writer(Box<dyn Write + Send>),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Sink {
    fn name(&self) -> String {
        match self {
            Self::Stdout => "standard output".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Writer(_) => "a writer".to_owned(),
        }
    }

    fn open(self) -> io::Result<Out> {
        match self {
            // A descriptor of its own: what is written is written, and no buffer is in between.
            Self::Stdout => Ok(Out::Stream(Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))),
            Self::File(path) => {
                let file = open(&path)?;
                Ok(Out::File { path, file: Some(file) })
            }
            Self::Writer(writer) => Ok(Out::Stream(writer)),
        }
    }
}

/// Ready to be written to.
enum Out {
    Stream(Box<dyn Write + Send>),
    File { path: PathBuf, file: Option<File> },
}

impl Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Stream(stream) => {
                let written = stream.write(bytes)?;
                stream.flush()?;
                written
            }
            Self::File { path, file } => match file {
                Some(file) => file.write(bytes)?,
                None => file.insert(open(path)?).write(bytes)?,
            },
        };
        if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
    }

    /// Forgets the file, so that the next line finds the one that has its name now.
    fn close(&mut self) {
        if let Self::File { file, .. } = self {
            *file = None;
        }
    }
}

/// Opens a file for appending, at the begin of a line.
fn open(path: &Path) -> io::Result<File> {
    // A pipe that nobody reads would block here otherwise, before anything can say so.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nonblocking).open(path)?;
    let about = file.metadata()?;
    if about.permissions().mode() & 0o007 != 0 && about.is_file() {
        warn!(path = %path.display(), "everybody on this machine may read or write the audit log");
    }
    // A process that died in mid-line has left half of one.
    if about.is_file() && about.len() > 0 && !ends_with_a_line(path)? {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn ends_with_a_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// What the thread is handed.
struct Item {
    /// How many lines were lost for want of room, right before this one.
    lost: u64,
    /// `None`: only the acknowledgement is wanted.
    noted: Option<Arc<Noted>>,
    /// Told when this and all before it is written.
    written: Option<oneshot::Sender<()>>,
}

/// A sink, as those see it who have lines for it.
pub(super) struct Lane {
    name: Arc<str>,
    queue: mpsc::Sender<Item>,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    health: Health,
    thread: thread::Thread,
}

impl Lane {
    /// Opens the sink and starts its thread, which ends with the lane.
    pub(super) fn start(sink: Sink, room: usize, process: &str, health: &Health) -> io::Result<Self> {
        let name: Arc<str> = sink.name().into();
        let (queue, items) = mpsc::channel(room);
        let (lost, reopen) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let writer = Writer {
            name: Arc::clone(&name),
            out: sink.open()?,
            process: process.to_owned(),
            seq: 0,
            items,
            lost: Arc::clone(&lost),
            reopen: Arc::clone(&reopen),
            health: health.clone(),
        };
        let handle = thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { name, queue, lost, reopen, health: health.clone(), thread: handle.thread().clone() })
    }

    /// Queues a line if there is room for it.
    pub(super) fn note(&self, noted: &Arc<Noted>) {
        if !self.put_now(Some(Arc::clone(noted))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.trouble("the queue is full");
        }
    }

    /// Whether the line was written by then. Where the sink is known to be in trouble nothing is waited for: the thread goes
    /// on trying, and says when it has succeeded.
    pub(super) async fn record(&self, noted: &Arc<Noted>, deadline: Instant) -> bool {
        if self.health.is_troubled(&self.name) {
            self.note(noted);
            return false;
        }
        let Ok(Some(written)) = timeout_at(deadline, self.put(Some(Arc::clone(noted)))).await else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.trouble("the queue is full");
            return false;
        };
        let done = timeout_at(deadline, written).await.is_ok_and(|written| written.is_ok());
        if !done {
            self.trouble("it blocks");
        }
        done
    }

    /// Waits until the line is written, however long that takes; without one, until all before it are.
    pub(super) async fn deliver(&self, noted: Option<Arc<Noted>>) {
        if let Some(written) = self.put(noted).await {
            let _ = written.await;
        }
    }

    /// Has the file opened anew.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        self.put_now(None);
        self.thread.unpark();
    }

    fn trouble(&self, why: &str) {
        self.health.trouble(&self.name, why);
        // Who says so here may be late: the thread answers with how it is, as soon as it has come to this. Where there is no
        // room, it has something to come to.
        self.put_now(None);
    }

    fn put_now(&self, noted: Option<Arc<Noted>>) -> bool {
        match self.queue.try_reserve() {
            Ok(place) => {
                place.send(Item { lost: self.lost.swap(0, Ordering::Relaxed), noted, written: None });
                true
            }
            Err(_) => false,
        }
    }

    /// Waits for room. `None` where the thread is gone.
    async fn put(&self, noted: Option<Arc<Noted>>) -> Option<oneshot::Receiver<()>> {
        let place = self.queue.reserve().await.ok()?;
        let (sender, written) = oneshot::channel();
        place.send(Item { lost: self.lost.swap(0, Ordering::Relaxed), noted, written: Some(sender) });
        Some(written)
    }
}

/// The thread's side.
struct Writer {
    name: Arc<str>,
    out: Out,
    process: String,
    seq: u64,
    items: mpsc::Receiver<Item>,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    health: Health,
}

impl Writer {
    fn run(mut self) {
        while let Some(Item { lost, noted, written }) = self.items.blocking_recv() {
            self.reopen();
            self.write_lost(lost);
            if let Some(noted) = noted {
                self.write(&noted);
            }
            if self.items.is_empty() {
                // Nothing may ever come that could carry this along.
                let lost = self.lost.swap(0, Ordering::Relaxed);
                self.write_lost(lost);
            }
            // Half empty at the least: a queue that is full again with the next line has not recovered.
            if self.items.len() * 2 <= self.items.max_capacity() {
                self.health.recovered(&self.name);
            }
            if let Some(written) = written {
                // Who waited may have given up.
                let _ = written.send(());
            }
        }
    }

    fn write_lost(&mut self, count: u64) {
        if count > 0 {
            self.write(&Noted::now(Event::Lost { count }));
        }
    }

    /// Writes a line, and tries until it is written. A line goes on where it was interrupted: half of one is in a file only
    /// while the other half has no room.
    fn write(&mut self, noted: &Noted) {
        let line = match noted.line(&self.process, self.seq + 1) {
            Ok(line) => line,
            Err(error) => return error!(%error, "an audit event could not be written as JSON"),
        };
        self.seq += 1;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // A pipe that is full for a moment is no trouble; who waits for a line notices when it stays so.
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.health.trouble(&self.name, &error.to_string());
                    }
                    if self.items.is_closed() {
                        return;
                    }
                    thread::park_timeout(RETRY);
                    if self.reopen() {
                        rest = &line;
                    }
                }
            }
        }
    }

    /// Whether the next byte goes into a file that was opened anew.
    fn reopen(&mut self) -> bool {
        let wanted = self.reopen.swap(false, Ordering::AcqRel);
        if wanted {
            self.out.close();
        }
        wanted
    }
}
