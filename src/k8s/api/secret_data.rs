//! What a Secret holds: wiped when it is dropped, and never shown.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use zeroize::Zeroizing;

/// A Secret's keys and values.
#[derive(Clone, Default)]
pub(in crate::k8s) struct Data(BTreeMap<String, Value>);

impl Data {
    /// A key's bytes.
    pub(in crate::k8s) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|value| value.0.as_slice())
    }

    /// All keys and their bytes.
    pub(in crate::k8s) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.0.as_slice()))
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

#[derive(Clone)]
struct Value(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Option::<k8s_openapi::ByteString>::deserialize(deserializer)
            .map_err(|_| de::Error::custom("a value that is not base64"))?;
        Ok(Self(Zeroizing::new(bytes.map(|bytes| bytes.0).unwrap_or_default())))
    }
}
