//! Values as TOML and variables write them.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Deserializer, de};

use super::keys::External;

/// An empty string is "not set".
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(text(deserializer)?.map(PathBuf::from))
}

/// An address and a port, of IPv6 in brackets. Names are none: which of their addresses would it be?
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let Some(text) = text(deserializer)? else { return Ok(None) };
    let wrong = || de::Error::custom(format!("\"{text}\" is no address and port such as 127.0.0.1:9187"));
    text.parse().map(Some).map_err(|_| wrong())
}

/// A moment as RFC 3339 writes it. In a file it may stand without quotes, as TOML's own type.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Moment {
        Text(String),
        Toml(toml::value::Datetime),
    }
    let Some(moment) = Option::<Moment>::deserialize(deserializer)? else { return Ok(None) };
    let text = match moment {
        Moment::Text(text) => text,
        Moment::Toml(moment) => moment.to_string(),
    };
    let wrong = || de::Error::custom(format!("\"{text}\" is no moment such as 2026-12-01T00:00:00Z"));
    humantime::parse_rfc3339(&text).map(Some).map_err(|_| wrong())
}

/// `name:value,name:value`, as Zalando's operator writes labels.
pub(super) fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    pairs.map(|one| pair(one).ok_or_else(|| de::Error::custom(format!("\"{one}\" is no label:value")))).collect()
}

impl<'de> Deserialize<'de> for External {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Servers;
        impl<'de> de::Visitor<'de> for Servers {
            type Value = External;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a list of \"host:port\"")
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<External, E> {
                Ok(External::All(all))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<External, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(External::Only)
            }
        }
        deserializer.deserialize_any(Servers)
    }
}

/// TOML's keys are strings.
pub(super) fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u16, String>, D::Error> {
    let named = BTreeMap::<String, String>::deserialize(deserializer)?;
    let parse = |(port, target): (String, String)| match port.parse() {
        Ok(0) | Err(_) => Err(de::Error::custom(format!("\"{port}\" is no port"))),
        Ok(port) => Ok((port, target)),
    };
    named.into_iter().map(parse).collect()
}
