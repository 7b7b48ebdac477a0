use std::num::NonZeroU32;

use futures_util::FutureExt as _;
use secrecy::SecretString;
use tokio::time::Instant;

use super::*;
use crate::{
    auth::scram::{Binding, First},
    upstream::Server,
};

fn upstream() -> Upstream {
    Upstream::example(Server::External { host: "shop-rw".to_owned(), others: false })
}

fn login(user: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: Some(SecretString::from("secret")),
        database: "app".to_owned(),
        superuser: false,
        source: "Secret prod/shop-app".to_owned(),
        version: "1".to_owned(),
    }
}

fn challenge(salt: &str, rounds: u32) -> Challenge {
    let first = First::new(Binding::None).expect("random bytes");
    let message = first.message();
    let (_, nonce) = message.split_once("r=").expect("a nonce");
    first.challenge(format!("r={nonce}x,s={salt},i={rounds}").as_bytes(), 1..=100_000).expect("acceptable")
}

/// Whether a login needs no core to hash on.
fn is_remembered(memory: &Memory, upstream: &Upstream, login: &Login, challenge: &Challenge) -> bool {
    memory.hashed(&Account::of(upstream, login), (login, "secret"), challenge).now_or_never().is_some()
}

async fn prove(memory: &Memory, upstream: &Upstream, login: &Login, challenge: &Challenge) {
    let account = Account::of(upstream, login);
    let keys = Hasher::default().keys(b"secret", &challenge.salt, challenge.iterations).await.expect("keys");
    memory.proven(account, Hashed::new(login, challenge, Arc::new(keys)));
}

impl Memory {
    /// Whoever hashes waits for ever.
    pub(crate) fn without_cores() -> Self {
        Self { hasher: Hasher::without_cores(), ..Self::default() }
    }
}

#[tokio::test]
async fn the_second_login_hashes_nothing() {
    let memory = Memory::without_cores();
    let (upstream, app, asked) = (upstream(), login("app"), challenge("c2FsdA==", 4096));
    assert!(!is_remembered(&memory, &upstream, &app, &asked));
    assert!(!memory.has_done_scram(&Account::of(&upstream, &app)));
    prove(&memory, &upstream, &app, &asked).await;
    assert!(is_remembered(&memory, &upstream, &app, &challenge("c2FsdA==", 4096)));
    let keys = memory.hashed(&Account::of(&upstream, &app), (&app, "secret"), &asked).await.expect("keys").keys;
    let anew = Hasher::default().keys(b"secret", b"salt", NonZeroU32::new(4096).expect("some")).await.expect("keys");
    assert_eq!((&*keys.client, &*keys.server), (&*anew.client, &*anew.server));
    let others = [
        (Upstream { meaning: 2, ..upstream.clone() }, app.clone()),
        (Upstream { credential: 2, ..upstream.clone() }, app.clone()),
        (
            Upstream { cluster: ClusterId { name: "x".to_owned(), ..upstream.cluster.clone() }, ..upstream.clone() },
            app.clone(),
        ),
        (upstream.clone(), login("other")),
        (upstream.clone(), Login { version: "2".to_owned(), ..app.clone() }),
        (upstream.clone(), Login { source: "Secret prod/x".to_owned(), ..app.clone() }),
    ];
    for (upstream, login) in others {
        assert!(!is_remembered(&memory, &upstream, &login, &asked), "{upstream:?} {login:?}");
    }
    for other in [challenge("c2FsdDI=", 4096), challenge("c2FsdA==", 4097)] {
        assert!(!is_remembered(&memory, &upstream, &app, &other));
    }
}

#[tokio::test]
async fn what_may_have_changed_is_not_kept() {
    let memory = Memory::without_cores();
    let upstream = upstream();
    let unversioned = Login { version: String::new(), ..login("app") };
    let long = challenge(&"AAAA".repeat(100), 2);
    for (login, asked) in [(unversioned, challenge("c2FsdA==", 2)), (login("long"), long)] {
        prove(&memory, &upstream, &login, &asked).await;
        assert!(!is_remembered(&memory, &upstream, &login, &asked), "{login:?}");
        assert!(memory.has_done_scram(&Account::of(&upstream, &login)));
    }
}

#[tokio::test]
async fn the_oldest_account_is_forgotten_first() {
    let memory = Memory::without_cores();
    let (upstream, asked) = (upstream(), challenge("c2FsdA==", 1));
    let known = |number: usize| memory.has_done_scram(&Account::of(&upstream, &login(&format!("role{number}"))));
    for number in 0..=MOST_ACCOUNTS {
        prove(&memory, &upstream, &login(&format!("role{number}")), &asked).await;
        // Seen again, and no longer for it.
        prove(&memory, &upstream, &login(&format!("role{number}")), &asked).await;
    }
    assert!(!known(0) && known(1) && known(MOST_ACCOUNTS));
    let held = memory.known();
    assert_eq!((held.accounts.len(), held.order.len()), (MOST_ACCOUNTS, MOST_ACCOUNTS));
}

/// By hand: `cargo test --profile fastrel --lib what_a_login_costs -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_a_login_costs() {
    let (upstream, app) = (upstream(), login("app"));
    let account = Account::of(&upstream, &app);
    for rounds in [4096, 100_000] {
        let asked = challenge("c2l4dGVlbiBieXRlcyBvaw==", rounds);
        let memory = Memory::default();
        for kept in [false, true] {
            let mut times = Vec::new();
            for _ in 0..200 {
                let began = Instant::now();
                let hashed = memory.hashed(&account, (&app, "a password of twenty"), &asked).await.expect("keys");
                times.push(began.elapsed());
                if kept {
                    memory.proven(account.clone(), hashed);
                }
            }
            times.sort_unstable();
            println!("{rounds} rounds, kept: {kept}: median {:?}, worst {:?}", times[100], times[199]);
        }
    }
}
