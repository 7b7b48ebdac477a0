//! Logins that failed, counted by where they came from: a line for each would let whoever guesses passwords fill the disk, or
//! the queue that everybody's sessions wait for.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::event::{Client, Event, Text};

/// How long failures are counted before they are written.
pub(super) const MINUTE: Duration = Duration::from_mins(1);
/// Addresses that are counted by themselves: as many lines a minute, and a few megabytes.
const ADDRESSES: usize = 10_000;
/// Names and methods of one address: a person's typing errors, not a dictionary.
const FEW: usize = 4;

/// Whose failures are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    /// A subscriber of IPv6 has at least so much, and a new address for each try.
    Network(Ipv6Addr),
    /// All beyond [`ADDRESSES`].
    Others,
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Address(address.into()),
            IpAddr::V6(address) if address.is_loopback() => Self::Address(address.into()),
            IpAddr::V6(address) => Self::Network(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        }
    }

    fn client(self) -> Option<Client> {
        match self {
            Self::Address(address) => Some(Client::at(address.to_string())),
            Self::Network(network) => Some(Client::at(format!("{network}/64"))),
            Self::Others => None,
        }
    }
}

struct Failures {
    count: u64,
    since: SystemTime,
    methods: Vec<Text>,
    names: Vec<Text>,
}

#[derive(Default)]
struct State {
    by_source: HashMap<Source, Failures>,
    /// Somebody will come and take them.
    awaited: bool,
}

/// The failures since they were last taken.
#[derive(Default)]
pub(super) struct FailedLogins(Mutex<State>);

impl FailedLogins {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one. Whether the caller must see to it that they are taken in a minute: nobody does yet.
    pub(super) fn add(&self, address: IpAddr, method: &str, name: Option<&str>) -> bool {
        let mut state = self.state();
        let mut source = Source::of(address);
        if state.by_source.len() >= ADDRESSES && !state.by_source.contains_key(&source) {
            source = Source::Others;
        }
        let failures = state.by_source.entry(source).or_insert_with(|| Failures {
            count: 0,
            since: SystemTime::now(),
            methods: Vec::new(),
            names: Vec::new(),
        });
        failures.count += 1;
        remember(&mut failures.methods, method);
        if let Some(name) = name {
            remember(&mut failures.names, name);
        }
        !std::mem::replace(&mut state.awaited, true)
    }

    /// All of them, as events.
    pub(super) fn take(&self) -> impl Iterator<Item = Event> + use<> {
        let taken = std::mem::take(&mut self.state().by_source);
        taken.into_iter().map(|(source, Failures { count, since, methods, names })| Event::LoginFailed {
            client: source.client(),
            count,
            since,
            methods,
            names,
        })
    }

    /// Whoever took them asks whether to come again.
    pub(super) fn go_on(&self) -> bool {
        let mut state = self.state();
        state.awaited = !state.by_source.is_empty();
        state.awaited
    }
}

fn remember(few: &mut Vec<Text>, text: &str) {
    if few.len() < FEW {
        let text = Text::from(text);
        if !few.contains(&text) {
            few.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(logins: &FailedLogins) -> Vec<(Option<String>, u64)> {
        let mut found: Vec<_> = logins
            .take()
            .map(|event| match event {
                Event::LoginFailed { client, count, .. } => (client.map(|client| client.address), count),
                other => panic!("{other:?}"),
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn addresses_are_counted_and_ipv6_by_network() {
        let logins = FailedLogins::default();
        let mut asked = 0;
        for address in
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2:3:4:5", "2001:db8:1::", "::1"]
        {
            asked += u32::from(logins.add(address.parse().expect("an address"), "login", None));
        }
        assert_eq!(asked, 1, "one caller comes back");
        let expected = [("192.0.2.1", 2), ("192.0.2.2", 1), ("2001:db8:1::/64", 1), ("2001:db8::/64", 2), ("::1", 1)];
        assert_eq!(counts(&logins), expected.map(|(address, count)| (Some(address.to_owned()), count)));
        assert!(!logins.go_on());
        assert!(logins.add([192, 0, 2, 1].into(), "login", None), "the next caller does");
        assert!(logins.go_on());
    }

    #[test]
    fn a_flood_of_addresses_is_one_entry() {
        let logins = FailedLogins::default();
        for address in 0..20_000_u32 {
            logins.add(IpAddr::from(address.to_be_bytes()), "login", None);
        }
        logins.add([0, 0, 0, 0].into(), "login", None);
        let found = counts(&logins);
        assert_eq!(found.len(), ADDRESSES + 1);
        assert_eq!(found[0], (None, 10_000));
        assert_eq!(found[1], (Some("0.0.0.0".to_owned()), 2));
    }

    #[test]
    fn a_few_names_are_kept_each_once() {
        let logins = FailedLogins::default();
        for name in ["a", "a", "b", "c", "d", "e", "f"] {
            logins.add([192, 0, 2, 1].into(), "login", Some(name));
        }
        let Some(Event::LoginFailed { names, methods, count, .. }) = logins.take().next() else { panic!("none") };
        assert_eq!(names, ["a", "b", "c", "d"].map(Text::from));
        assert_eq!((methods, count), (vec![Text::from("login")], 7));
    }
}
