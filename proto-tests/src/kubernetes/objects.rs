//! The objects of the fake API, and what watches hear of them.

use serde_json::{Value, json};

use super::{
    FakeKubernetes,
    store::{Backend, END, ERROR, Order},
};

impl FakeKubernetes {
    /// Makes a custom resource exist.
    pub fn serve_crd(&self, group: &str, version: &str, plural: &str) {
        self.shared.store().resources.insert(format!("{plural}.{group}"), version.to_owned());
    }

    /// How many objects a page holds at the most.
    pub fn page(&self, size: usize) {
        self.shared.store().page = size;
    }

    /// Where a pod's port leads.
    pub fn backend(&self, namespace: &str, pod: &str, port: u16, backend: Backend) {
        self.shared.store().backends.insert((namespace.to_owned(), pod.to_owned(), port), backend);
    }

    /// Creates or replaces an object.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut store = self.shared.store();
        store.version += 1;
        let version = store.version;
        let meta = object["metadata"].as_object_mut().expect("metadata");
        meta.insert("resourceVersion".to_owned(), json!(version.to_string()));
        let text = |meta: &serde_json::Map<String, Value>, name: &str| meta[name].as_str().unwrap_or("").to_owned();
        let plural = store.resource(plural);
        let key = (plural.clone(), text(meta, "namespace"), text(meta, "name"));
        let known = store.objects.get(&key).map(|known| known["metadata"]["uid"].clone());
        let uid = known.clone().unwrap_or_else(|| json!(format!("uid-{version}")));
        meta.entry("uid").or_insert(uid);
        let event = if known.is_some() { "MODIFIED" } else { "ADDED" };
        store.objects.insert(key, object.clone());
        let _ = store.events.send((version, event, with_plural(&plural, object)));
    }

    /// Changes an object in place.
    pub fn change(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(plural, namespace, name).expect("the object");
        change(&mut object);
        self.put(plural, object);
    }

    #[must_use]
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let store = self.shared.store();
        let key = (store.resource(plural), namespace.to_owned(), name.to_owned());
        store.objects.get(&key).cloned()
    }

    /// Removes an object; a pod's tunnels end.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut store = self.shared.store();
        store.version += 1;
        let version = store.version;
        let resource = store.resource(plural);
        let key = (resource.clone(), namespace.to_owned(), name.to_owned());
        if let Some(mut object) = store.objects.remove(&key) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let _ = store.events.send((version, "DELETED", with_plural(&resource, object)));
        }
        drop(store);
        if plural == "pods" {
            let _ = self.shared.orders.send(Order::End(format!("{namespace}/{name}")));
        }
    }

    /// Ends every watch as etcd's compaction does: with 410 inside the stream.
    pub fn expire_watches(&self) {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410});
        let store = self.shared.store();
        let _ = store.events.send((store.version, ERROR, gone));
    }

    /// Ends every watch as an API server does after some minutes.
    pub fn end_watches(&self) {
        let store = self.shared.store();
        let _ = store.events.send((store.version, END, Value::Null));
    }
}

fn with_plural(plural: &str, mut object: Value) -> Value {
    object["__plural"] = json!(plural);
    object
}
