//! The limits on sessions, and that spare ones keep nobody out.

use super::{
    Sessions,
    connect::Connected,
    registry::Permit,
    spare::{Likeness, Yielded},
};
use crate::error::Report;

impl Sessions {
    /// A place among the sessions, and perhaps the session itself. A spare one never keeps a client out: it goes to who
    /// is like it, or ends for who is not.
    pub(super) async fn admit(&self, likeness: Option<&Likeness>) -> Result<(Permit, Option<Box<Connected>>), Report> {
        let Some(spares) = &self.spares else {
            return Ok((self.registry.admit()?, None));
        };
        if let Some(likeness) = likeness
            && let Some(given) = spares.take(likeness).await
        {
            return Ok(given.parts());
        }
        loop {
            let full = match self.registry.admit() {
                Ok(permit) => return Ok((permit, None)),
                Err(full) => full,
            };
            match spares.yield_one(likeness).await {
                Yielded::Given(given) => return Ok(given.parts()),
                Yielded::Ended => {}
                Yielded::None => return Err(full),
            }
        }
    }
}
