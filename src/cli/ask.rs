//! Asking for a password: twice and unseen at a terminal, one line from a pipe. Never on the command line, which is seen by
//! every user of the machine and kept by the shell.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd,
};

use rustix::{
    io::{Errno, retry_on_intr},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// More than anybody hashes, which whoever does it says. What is beyond is read and not kept.
const LONGEST: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// A password that was not given.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The second one is another.
    #[error("the two passwords differ")]
    Differ,
    /// What PostgreSQL's clients send is UTF-8.
    #[error("the password is not valid UTF-8")]
    NotText,
    /// By Ctrl-C.
    #[error("no password was given")]
    Cancelled,
    /// The terminal or the pipe failed.
    #[error("cannot read the password: {0}")]
    Io(#[from] io::Error),
}

/// The password that the person at standard input gives. Prompts go to standard error.
///
/// # Errors
/// Where it is not given.
pub fn password() -> Result<SecretString, AskError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return text(&line(&stdin, Keys::Literal)?);
    }
    let unseen = Unseen::begin(&stdin)?;
    let typed = |prompt: &str| {
        let mut prompts = io::stderr().lock();
        write!(prompts, "{prompt}: ")?;
        prompts.flush()?;
        let line = line(unseen.terminal, Keys::Obeyed);
        writeln!(prompts)?;
        text(&line?)
    };
    let (first, second) = (typed("Password")?, typed("The same again")?);
    if first.expose_secret() == second.expose_secret() { Ok(first) } else { Err(AskError::Differ) }
}

/// What is typed is not shown while this lives.
struct Unseen<'a, Fd: AsFd> {
    terminal: &'a Fd,
    before: Termios,
}

impl<'a, Fd: AsFd> Unseen<'a, Fd> {
    /// Keys come to us one by one, those that end a program too: it would leave the terminal as it is now. Nor is a line cut
    /// at 4095 bytes without a word.
    fn begin(terminal: &'a Fd) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl<Fd: AsFd> Drop for Unseen<'_, Fd> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// What control characters are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Part of the line.
    Literal,
    /// Keys that somebody has pressed.
    Obeyed,
}

/// Reads up to the end of a line, one byte at a time: what is behind it is not ours, and no buffer keeps a copy.
fn line(input: &impl AsFd, keys: Keys) -> Result<Zeroizing<Vec<u8>>, AskError> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0; 1]);
    loop {
        let count = retry_on_intr(|| rustix::io::read(input, byte.as_mut_slice()));
        // A pseudo-terminal whose other end is closed says so in an error.
        let ended = matches!(count, Ok(0) | Err(Errno::IO));
        count.or_else(|error| if ended { Ok(0) } else { Err(error) }).map_err(io::Error::from)?;
        let [byte] = *byte;
        match (keys, byte) {
            (Keys::Obeyed, INTERRUPT) => return Err(AskError::Cancelled),
            _ if ended => break,
            (_, b'\n') | (Keys::Obeyed, b'\r' | END) => break,
            (Keys::Obeyed, BACKSPACE | DELETE) => rub_out(&mut line),
            (Keys::Obeyed, KILL_LINE) => line.clear(),
            _ if line.len() < LONGEST => line.push(byte),
            _ => {}
        }
    }
    if keys == Keys::Literal && line.ends_with(b"\r") {
        line.pop();
    }
    Ok(line)
}

/// A character may have several bytes.
fn rub_out(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

/// A boxed string has the right size: nothing is moved when it becomes a secret.
fn text(line: &[u8]) -> Result<SecretString, AskError> {
    let text = str::from_utf8(line).map_err(|_| AskError::NotText)?;
    Ok(SecretString::from(Box::<str>::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], keys: Keys) -> Result<String, AskError> {
        let (ours, mut theirs) = io::pipe().expect("a pipe");
        theirs.write_all(bytes).expect("written");
        drop(theirs);
        text(&line(&ours, keys)?).map(|text| text.expose_secret().to_owned())
    }

    #[test]
    fn one_line_is_read() {
        for (bytes, password) in [
            (&b"secret\nmore\n"[..], "secret"),
            (b"secret", "secret"),
            (b"secret\r\n", "secret"),
            (b" s\x03e\x7f \n", " s\x03e\x7f "),
            (b"\n", ""),
            (b"", ""),
        ] {
            assert_eq!(read(bytes, Keys::Literal).expect("a line"), password);
        }
        assert!(matches!(read(b"\xff\n", Keys::Literal), Err(AskError::NotText)));
        assert_eq!(read(&[b'x'; LONGEST + 5], Keys::Literal).expect("a line").len(), LONGEST);
    }

    #[test]
    fn keys_are_obeyed() {
        for (bytes, password) in [
            (&b"secret\r"[..], "secret"),
            (b"secrt\x7fet\n", "secret"),
            ("se\u{fc}\u{fc}\u{8}\u{7f}cret\n".as_bytes(), "secret"),
            (b"\x7f\x7fwrong\x15secret\x04", "secret"),
        ] {
            assert_eq!(read(bytes, Keys::Obeyed).expect("a line"), password);
        }
        assert!(matches!(read(b"secret\x03", Keys::Obeyed), Err(AskError::Cancelled)));
    }
}
