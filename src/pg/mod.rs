//! PostgreSQL's wire protocol without I/O (chapter "Frontend/Backend Protocol" of its documentation).
//!
//! Every length is checked before it is used; whatever the bytes, the answer is a value or a [`PacketError`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use crate::error::{ClientFacing, Report, SqlState};

pub mod backend;
pub mod cancel;
pub mod encode;
pub mod frame;
pub mod frontend;
pub mod options;
pub mod startup;
pub mod walk;

#[cfg(test)]
mod corpus;

/// Bytes that are no message, or not the one that was due.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A length field below the smallest or beyond the largest that its place allows.
    #[error("invalid length of packet")]
    Length,
    /// More than the place allows.
    #[error("a packet of {length} bytes is longer than the limit of {limit}")]
    TooLong {
        /// What it claims to be.
        length: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A string without its terminating zero, or bytes behind the last one.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Unterminated,
    /// The same startup parameter twice.
    #[error("startup parameter \"{0}\" is given twice")]
    Duplicate(String),
    /// A protocol that is not 3.
    #[error("unsupported frontend protocol {major}.{minor}: pgferry supports 3.0 to 3.2")]
    Version {
        /// What the client speaks.
        major: u16,
        /// What the client speaks.
        minor: u16,
    },
    /// A cancel key shorter than 4 bytes or longer than 256.
    #[error("invalid length of cancel key")]
    CancelKey,
    /// A message whose content does not fit its type.
    #[error("malformed message of type \"{0}\"")]
    Malformed(char),
}

impl ClientFacing for PacketError {
    fn report(&self) -> Report {
        let code = match self {
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            _ => SqlState::PROTOCOL_VIOLATION,
        };
        let report = Report::fatal(code, self.to_string());
        match self {
            Self::Length | Self::TooLong { .. } => {
                report.hint("This port speaks the PostgreSQL protocol; connect with psql or another PostgreSQL client")
            }
            _ => report,
        }
    }
}

/// What ReadyForQuery says about the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// None is open.
    Idle,
    /// One is open.
    InTransaction,
    /// One is open and has failed.
    Failed,
}

impl TransactionStatus {
    /// From the byte in ReadyForQuery.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// The 32-bit big-endian number at `at`, if it is there.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    bytes.get(at..end)?.try_into().ok().map(u32::from_be_bytes)
}

/// Splits a zero-terminated string off; `None` where the zero is missing.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|byte| *byte == 0)?;
    let (string, rest) = bytes.split_at(zero);
    Some((string, rest.get(1..)?))
}
