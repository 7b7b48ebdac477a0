//! Credential plugins (`client.authentication.k8s.io`, in the Kubernetes documentation under "client-go credential
//! plugins"), run by us: once a token's life, off the async threads, with a deadline. kube would run them three
//! times for one client, on the thread that asks.

use std::{path::Path, process::Stdio, time::Duration};

use kube::config::{Cluster, ExecConfig};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::{process::Command, time::timeout};
use zeroize::Zeroizing;

use crate::k8s::api::error::K8sError;

/// A plugin's credential.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct Credential {
    pub(in crate::k8s) token: Option<SecretString>,
    /// Certificate and key, PEM.
    pub(in crate::k8s) certificate: Option<(String, SecretString)>,
    /// RFC 3339; `None` lasts until the API server refuses it.
    pub(in crate::k8s) expires: Option<std::time::SystemTime>,
}

#[derive(Deserialize)]
struct Answer {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<SecretString>,
    client_certificate_data: Option<String>,
    client_key_data: Option<SecretString>,
    expiration_timestamp: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
}

/// Login commands of plugins that people meet, by the program's name.
const LOGINS: [(&str, &str); 9] = [
    ("aws", "aws sso login"),
    ("aws-iam-authenticator", "aws sso login"),
    ("gke-gcloud-auth-plugin", "gcloud auth login"),
    ("gcloud", "gcloud auth login"),
    ("kubelogin", "az login"),
    ("kubectl-oidc_login", "kubectl oidc-login get-token"),
    ("tsh", "tsh login"),
    ("doctl", "doctl auth init"),
    ("oci", "oci session authenticate"),
];

/// The program's name, without its path: what a person knows it by.
pub(in crate::k8s) fn program(exec: &ExecConfig) -> String {
    let command = exec.command.as_deref().unwrap_or_default();
    Path::new(command).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs the plugin.
///
/// # Errors
/// Where it is missing, fails, takes longer than `limit`, or answers with something else. Its output and its errors
/// may hold anything, and are shown nowhere.
pub(in crate::k8s) async fn run(
    exec: &ExecConfig,
    cluster: Option<&Cluster>,
    context: &str,
    limit: Duration,
) -> Result<Credential, K8sError> {
    let program = program(exec);
    let login = LOGINS.iter().find(|(known, _)| *known == program);
    let failed = |why: String| K8sError::Plugin {
        context: context.to_owned(),
        command: program.clone(),
        why,
        hint: login.map(|(_, login)| format!("Log in with: {login}; then connect again")),
    };
    let output = match timeout(limit, command(exec, cluster).output()).await {
        Err(_) => return Err(failed(format!("did not finish within {} s", limit.as_secs()))),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(K8sError::Plugin {
                context: context.to_owned(),
                command: program.clone(),
                why: "is not installed, or not in PATH".to_owned(),
                hint: exec.install_hint.clone(),
            });
        }
        Ok(Err(error)) => return Err(failed(format!("could not be started: {}", error.kind()))),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    let answer: Answer = serde_json::from_slice(&Zeroizing::new(output.stdout))
        .map_err(|_| failed("answered with something that is no ExecCredential".to_owned()))?;
    let status = answer.status.ok_or_else(|| failed("answered without a credential".to_owned()))?;
    let certificate = status.client_certificate_data.zip(status.client_key_data);
    if status.token.is_none() && certificate.is_none() {
        return Err(failed("answered without a token or certificate".to_owned()));
    }
    Ok(Credential { token: status.token, certificate, expires: status.expiration_timestamp.map(|time| time.0.into()) })
}

fn command(exec: &ExecConfig, cluster: Option<&Cluster>) -> Command {
    let mut command = Command::new(exec.command.as_deref().unwrap_or_default());
    command.args(exec.args.iter().flatten()).stdin(Stdio::null()).kill_on_drop(true);
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    // Nobody can answer a question: stdin is closed.
    let mut spec = serde_json::json!({ "interactive": false });
    if exec.provide_cluster_info
        && let Some(cluster) = cluster
        && let Some(spec) = spec.as_object_mut()
    {
        spec.insert("cluster".to_owned(), cluster_info(cluster));
    }
    let info = serde_json::json!({
        "apiVersion": exec.api_version.as_deref().unwrap_or("client.authentication.k8s.io/v1"),
        "kind": "ExecCredential",
        "spec": spec,
    });
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    command
}

/// The cluster as the protocol describes it; `config` is the extension made for this.
fn cluster_info(cluster: &Cluster) -> serde_json::Value {
    const CONFIG: &str = "client.authentication.k8s.io/exec";
    let config = cluster.extensions.iter().flatten().find(|extension| extension.name == CONFIG);
    serde_json::json!({
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": cluster.certificate_authority_data,
        "proxy-url": cluster.proxy_url,
        "config": config.map(|extension| extension.extension.clone()),
    })
}
