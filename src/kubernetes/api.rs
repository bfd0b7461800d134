//! The two calls of Kubernetes' API that are made: reading and patching the annotations of a pod.
//!
//! Blocking, on a thread of their own: they are few. The `kube` crate would bring some sixty more
//! crates for them.

use super::pod_use::{Annotated, PodUse};
use crate::model::Pod;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A pod that is busy costs this; one without a cost, as every new one, costs nothing.
const BUSY_COST: &str = "100";

/// The API of the cluster that this process runs in, as its service account.
pub struct Api {
    agent: ureq::Agent,
    base: String,
    /// Read for each call: the token in it is replaced every hour.
    token: PathBuf,
    namespace: String,
}

/// Why the API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NoApi {
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("ca.crt holds no certificate: {0}")]
    Certificate(ureq::Error),
}

impl Api {
    /// The API at `host`, such as `10.96.0.1:443`, with the token, authority and namespace that the
    /// cluster puts into `folder`.
    ///
    /// # Errors
    /// When something in the folder cannot be read.
    pub fn new(host: &str, folder: &Path) -> Result<Api, NoApi> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|why| NoApi::Unreadable(path, why))
        };
        let authority =
            Certificate::from_pem(read("ca.crt")?.as_bytes()).map_err(NoApi::Certificate)?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .build();
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            // Never by way of a proxy that is meant for the world outside.
            .proxy(None)
            .max_redirects(0)
            .tls_config(tls)
            .build()
            .new_agent();
        Ok(Api {
            agent,
            base: format!("https://{host}"),
            token: folder.join("token"),
            namespace: read("namespace")?.trim().to_owned(),
        })
    }

    /// Whether this process may have a say about a pod: it is in its own namespace.
    pub fn concerns(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace
    }

    /// Makes the annotations of a pod say `load`. Another proxy may have done so already: then
    /// nothing is written.
    pub fn annotate(&self, pod: &Pod, load: PodUse) -> Annotated {
        match self.try_annotate(pod, load) {
            Ok(told) => told,
            Err(why) => {
                log::debug!(pod:% = pod, error = why; "Kubernetes was not told");
                Annotated::Failed
            }
        }
    }

    fn try_annotate(&self, pod: &Pod, load: PodUse) -> Result<Annotated, String> {
        let url = format!(
            "{}/api/v1/namespaces/{}/pods/{}",
            self.base, pod.namespace, pod.name
        );
        let wanted = annotations(load);
        let Some(found) = self.call(http::Method::GET, &url, None)? else {
            return Ok(Annotated::Gone);
        };
        let found = &found["metadata"]["annotations"];
        let same = |(name, value): (&String, &Value)| found[name.as_str()] == *value;
        if wanted.as_object().is_some_and(|all| all.iter().all(same)) {
            return Ok(Annotated::Done);
        }
        let patch = json!({ "metadata": { "annotations": wanted } });
        let patched = self.call(http::Method::PATCH, &url, Some(&patch))?;
        Ok(patched.map_or(Annotated::Gone, |_| Annotated::Done))
    }

    /// The answer; `None` when there is no such thing.
    fn call(
        &self,
        method: http::Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, String> {
        let token = std::fs::read_to_string(&self.token).map_err(|why| why.to_string())?;
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("Authorization", format!("Bearer {}", token.trim()))
            .header("Accept", "application/json")
            .header("Content-Type", "application/merge-patch+json")
            .body(body.map(Value::to_string).unwrap_or_default())
            .map_err(|why| why.to_string())?;
        let mut answer = self.agent.run(request).map_err(|why| why.to_string())?;
        let status = answer.status();
        let text = answer
            .body_mut()
            .read_to_string()
            .map_err(|why| why.to_string())?;
        match status {
            http::StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => serde_json::from_str(&text)
                .map(Some)
                .map_err(|why| why.to_string()),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// What each autoscaler reads: the ReplicaSet, Karpenter, and the cluster autoscaler. All values are
/// given, so that a patch and a comparison are the same for both loads.
fn annotations(load: PodUse) -> Value {
    let busy = load == PodUse::Busy;
    json!({
        "controller.kubernetes.io/pod-deletion-cost": if busy { BUSY_COST } else { "0" },
        "karpenter.sh/do-not-disrupt": busy.to_string(),
        "cluster-autoscaler.kubernetes.io/safe-to-evict": (!busy).to_string(),
    })
}
