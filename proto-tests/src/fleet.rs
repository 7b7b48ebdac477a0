//! A large installation: many clusters of several systems among many pods that are none of theirs.

use serde_json::json;

use crate::{
    kubernetes::FakeKubernetes,
    systems::{self, CloudNativePg, Crunchy, KubeDb, State, System, Zalando, bare_pod},
};

/// What is in it.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    pub clusters: usize,
    pub namespaces: usize,
    /// Pods that are no database.
    pub others: usize,
    /// Custom resources that pgferry does not know.
    pub foreign: usize,
}

impl Fleet {
    /// As large as installations get.
    pub const LARGE: Self = Self { clusters: 2000, namespaces: 200, others: 20_000, foreign: 36 };
}

/// Servers a cluster.
pub const SERVERS: usize = 3;
/// An operator's pod, with all that injectors and volumes add to it.
const POD_BYTES: usize = 12_000;

/// The systems whose clusters it has.
#[must_use]
pub fn present() -> [Box<dyn System>; 4] {
    [Box::new(CloudNativePg), Box::new(Zalando), Box::new(Crunchy), Box::new(KubeDb)]
}

/// Puts it into the API.
pub fn build(api: &FakeKubernetes, fleet: Fleet) {
    let systems = present();
    for (group, version, plural) in systems.iter().flat_map(|system| system.resources()) {
        api.serve_crd(group, version, plural);
    }
    for number in 0..fleet.foreign {
        api.serve_crd(&format!("group{number}.example.com"), "v1", "things");
    }
    for number in 0..fleet.clusters {
        let system = &systems[number % systems.len()];
        let state = state(format!("ns{:03}", number % fleet.namespaces), format!("c{number:04}"));
        for (plural, object) in system.objects(&state) {
            api.put(plural, object);
        }
        for server in 0..SERVERS {
            let mut pod = systems::pod(&**system, &state, server);
            let size = pod.to_string().len();
            pod["spec"]["volumes"] = json!([{"name": "x".repeat(POD_BYTES.saturating_sub(size))}]);
            api.put("pods", pod);
        }
    }
    for number in 0..fleet.others {
        let namespace = format!("ns{:03}", number % fleet.namespaces);
        api.put("pods", bare_pod(&namespace, &format!("web-{number}"), &json!({"app": "web"}), 8080));
    }
}

fn state(namespace: String, name: String) -> State {
    let text = || "x".to_owned();
    State {
        namespace,
        name,
        servers: SERVERS,
        leader: 0,
        labelled: vec![0],
        password: text(),
        other_password: text(),
        superuser: text(),
        pooler: false,
        authority: text(),
        certificate: (text(), text()),
        client: (text(), text()),
    }
}
