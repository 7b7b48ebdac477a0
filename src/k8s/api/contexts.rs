//! The contexts of the kubeconfig (or the cluster that we run in), each with one client that is built once, shared,
//! and renewed when the kubeconfig changes, the login ends, or the machine has slept.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tracing::debug;

use crate::{
    k8s::api::{
        client::Context,
        connection::{ClientParams, Shared, WRITTEN},
        error::K8sError,
        kubeconfig::{Stamp, files, in_cluster, just_changed, read, stamps},
        plugin::For,
        suggest::nearest,
        suspend::Clock,
    },
    upstream::Progress,
};

/// The name of the one context inside a cluster.
const IN_CLUSTER: &str = "in-cluster";

/// All contexts.
#[derive(Debug)]
pub struct Contexts {
    params: Arc<ClientParams>,
    clock: Arc<Clock>,
    files: Vec<PathBuf>,
    /// The current context of the first kubeconfig that could be read.
    fixed: Mutex<Option<String>>,
    open: Mutex<HashMap<String, Arc<Shared>>>,
    /// Parsing a large kubeconfig takes longer than all else in a connection.
    names: Mutex<Option<(Vec<Stamp>, Vec<String>)>>,
}

impl Contexts {
    /// Reads nothing yet: a laptop's network, VPN or kubeconfig may come later. To be called inside a runtime.
    #[must_use]
    pub fn new(params: ClientParams) -> Self {
        Self::by_clock(params, Clock::start())
    }

    fn by_clock(params: ClientParams, clock: Arc<Clock>) -> Self {
        let files = files(params.kubeconfig.as_ref());
        let fixed = params.context.clone();
        Self {
            params: Arc::new(params),
            clock,
            files,
            fixed: Mutex::new(fixed),
            open: Mutex::default(),
            names: Mutex::default(),
        }
    }

    /// Whether a context, or a short name of one, is called so.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.params.short_names.contains_key(name) || self.names().iter().any(|known| known == name)
    }

    /// All contexts of the kubeconfig.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let stamps = stamps(&self.files);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.as_ref() {
            Some((of, names)) if *of == stamps => names.clone(),
            before => {
                let now = self.read_names();
                match before {
                    // A file that is being written holds less for a moment.
                    Some((_, before)) if now.is_empty() && just_changed(&self.files) => before.clone(),
                    _ => names.insert((stamps, now)).1.clone(),
                }
            }
        }
    }

    fn read_names(&self) -> Vec<String> {
        match read(&self.files) {
            Ok(Some(kubeconfig)) => kubeconfig.contexts.into_iter().map(|context| context.name).collect(),
            Ok(None) if in_cluster() => vec![IN_CLUSTER.to_owned()],
            _ => Vec::new(),
        }
    }

    /// The context that an unqualified name means, as the person writes it.
    ///
    /// # Errors
    /// Where no kubeconfig says.
    pub fn default_name(&self) -> Result<String, K8sError> {
        let mut fixed = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = fixed.as_ref() {
            return Ok(self.short(name));
        }
        let name = match read(&self.files)? {
            Some(kubeconfig) => {
                kubeconfig.current_context.filter(|name| !name.is_empty()).ok_or(K8sError::NoContext)?
            }
            None if in_cluster() => IN_CLUSTER.to_owned(),
            None => return Err(K8sError::NoKubeconfig),
        };
        Ok(self.short(fixed.insert(name)))
    }

    fn short(&self, name: &str) -> String {
        let short = self.params.short_names.iter().find(|(_, real)| *real == name).map(|(short, _)| short);
        short.map_or_else(|| name.to_owned(), Clone::clone)
    }

    /// The client of a context (`None`: the default one) for an identity. Somebody waits for it, and may be asked to log
    /// in.
    ///
    /// # Errors
    /// Where the context is unknown, its kubeconfig unusable, or the login fails.
    pub async fn get(&self, context: Option<&str>, progress: Option<&Progress>) -> Result<Context, K8sError> {
        self.client(context, (For::Client, progress)).await
    }

    /// The same for work in the background, such as watches: nobody is asked to log in by it again and again, neither
    /// here nor by a call of this client.
    ///
    /// # Errors
    /// As for [`Self::get`]; the last login's failure, until a client has logged in.
    pub async fn get_quietly(&self, context: Option<&str>) -> Result<Context, K8sError> {
        self.client(context, (For::Background, None)).await
    }

    /// What work in the background does after an error: it waits so long, but no longer than until a client has logged
    /// in, where the login is what failed.
    pub(in crate::k8s) async fn rest(&self, context: &str, error: &K8sError, pause: Duration) {
        match self.shared(context) {
            Ok(shared) => shared.rest(error, pause).await,
            Err(_) => sleep(pause).await,
        }
    }

    async fn client(
        &self,
        context: Option<&str>,
        (wanted, progress): (For, Option<&Progress>),
    ) -> Result<Context, K8sError> {
        let shared = loop {
            match context
                .map_or_else(|| self.default_name(), |name| Ok(name.to_owned()))
                .and_then(|name| self.shared(&name))
            {
                // As in `build`: one that was just truncated has no contexts.
                Err(K8sError::Kubeconfig(_) | K8sError::NoContext | K8sError::UnknownContext { .. })
                    if just_changed(&self.files) =>
                {
                    debug!(context, "the kubeconfig has no such context; it may still be being written");
                    sleep(WRITTEN).await;
                }
                shared => break shared?,
            }
        };
        let built = shared.ready(wanted, progress).await?;
        Ok(Context::new(shared, built, wanted))
    }

    /// Whether a context still means this one of its clusters, and reaches it with this one of its credentials; no where
    /// the kubeconfig has changed and was not read yet.
    #[must_use]
    pub fn still_holds(&self, name: &str, meaning: u64, credential: u64) -> bool {
        self.shared(name).is_ok_and(|shared| {
            let current = shared.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.as_ref().is_some_and(|built| {
                (built.meaning, built.credential) == (meaning, credential) && !built.sources.have_changed()
            })
        })
    }

    fn shared(&self, name: &str) -> Result<Arc<Shared>, K8sError> {
        let real = self.params.short_names.get(name).map_or(name, String::as_str);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = open.get(real) {
            return Ok(Arc::clone(shared));
        }
        let names = self.names();
        if names.is_empty() {
            // Says why there are none.
            read(&self.files)?.ok_or(K8sError::NoKubeconfig)?;
        }
        if !names.iter().any(|known| known == real) {
            let candidates = names.iter().chain(self.params.short_names.keys()).map(String::as_str);
            let nearest = nearest(name, candidates).into_iter().map(str::to_owned).collect();
            let known = names.iter().chain(self.params.short_names.keys()).cloned().collect();
            return Err(K8sError::UnknownContext { name: name.to_owned(), nearest, known });
        }
        let made_of = (Arc::clone(&self.params), Arc::clone(&self.clock), self.files.clone());
        let shared = Arc::new(Shared::new((self.short(real), real), made_of));
        open.insert(real.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }
}

#[cfg(test)]
#[path = "contexts_tests.rs"]
mod tests;
