//! Users of the fake API, and the files that name them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::FakeKubernetes;

impl FakeKubernetes {
    /// A user with a bearer token; may do everything that is not denied.
    #[must_use]
    pub fn user(&self, name: &str) -> String {
        let token = crate::secrets::make("token");
        self.shared.store().tokens.insert(token.clone(), name.to_owned());
        token
    }

    /// The token is not valid any more.
    pub fn revoke(&self, token: &str) {
        self.shared.store().tokens.remove(token);
    }

    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A directory for this test's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A kubeconfig whose user is as given (`{"token": ...}`), in this directory.
    #[must_use]
    pub fn kubeconfig_with(&self, context: &str, namespace: Option<&str>, user: Value, cluster: Value) -> PathBuf {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(self.authority.pem());
        let mut about = json!({
            "server": format!("https://127.0.0.1:{}", self.address.port()),
            "certificate-authority-data": authority,
        });
        for (name, value) in cluster.as_object().into_iter().flatten() {
            about[name] = value.clone();
        }
        let mut inside = json!({"cluster": "c", "user": "u"});
        if let Some(namespace) = namespace {
            inside["namespace"] = json!(namespace);
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "c", "cluster": about}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": context, "context": inside}],
        });
        self.write("kubeconfig", &config.to_string())
    }

    /// Writes a private file.
    #[must_use]
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        file
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_with("fake", None, json!({"token": self.token}), json!({}))
    }
}
