//! Servers outside Kubernetes.

use crate::{
    error::{Report, SqlState},
    upstream::ClusterId,
};

/// Which servers outside Kubernetes may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// Any that a connection Secret names.
    Any,
    /// These hosts and ports.
    Only(Vec<(String, u16)>),
}

impl Default for External {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl External {
    /// An error where this server may not be dialled.
    pub(super) fn permits(&self, id: &ClusterId, host: &str, port: u16) -> Result<(), Report> {
        let allowed = match self {
            Self::Any => true,
            Self::Only(servers) => servers.iter().any(|(name, at)| name.eq_ignore_ascii_case(host) && *at == port),
        };
        if allowed {
            return Ok(());
        }
        Err(Report::fatal(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("{id} is outside Kubernetes, at {host}:{port}, and pgferry is not to connect there"),
        )
        .hint(format!(
            "To let it connect there directly: kubernetes.external = [\"{host}:{port}\"] \
             (PGFERRY__KUBERNETES__EXTERNAL={host}:{port}), or true for any server that a Secret names"
        )))
    }
}
