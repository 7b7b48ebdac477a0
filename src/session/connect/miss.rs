//! How one try to connect failed, and whether another can help.

use crate::{
    session::refusal::Refusal,
    upstream::{Failure, Login, Retry},
};

/// How one try failed.
pub(super) enum Miss {
    /// For good.
    Final(Refusal),
    /// The server that was resolved does not serve: another look may find the one that does.
    Stale(Refusal),
    /// The login was refused.
    Login { refused: Box<Login>, refusal: Refusal },
    /// The server wants it said another way: on a fresh stream, with the habit that is now remembered.
    Again(Box<Login>),
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        match failure.retry {
            Retry::Resolve => Self::Stale(failure.into()),
            Retry::No => Self::Final(failure.into()),
        }
    }
}

/// A [`Failure`] that a stream's `io::Error` carries, however deep.
pub(in crate::session) fn failure_inside(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Some(failure.clone());
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}
