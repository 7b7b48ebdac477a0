use std::time::Duration;

use super::*;
use crate::settings::variables::LISTS;

fn from(text: &str, variables: &[(&str, &str)], flags: Vec<Flag>) -> Result<Loaded, SettingsError> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.toml");
    fs::write(&file, text).expect("written");
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&Sources { file: Some(file), environment, flags })
}

fn origin<'a>(loaded: &'a Loaded, key: &str) -> &'a str {
    &loaded.origins.iter().find(|origin| origin.key == key).expect("the key").from
}

#[test]
fn the_defaults_are_valid_and_complete() {
    let loaded = load(&Sources::default()).expect("valid");
    assert_eq!(loaded.settings.listen.port, 10000);
    assert_eq!(loaded.settings.sessions.drain, Duration::from_secs(10));
    assert_eq!(loaded.settings.kubernetes.dead_after, Duration::from_secs(90));
    assert_eq!(origin(&loaded, "listen.port"), "default");
    toml::from_str::<Settings>(DEFAULTS).expect("every key is known");
}

#[test]
fn the_later_wins() {
    let file = "[listen]\nport = 1\n[sessions]\ndrain = \"3s\"\n";
    let variables = [("PGFERRY__LISTEN__PORT", "2"), ("PGFERRY__SESSIONS__CONNECT_TIMEOUT", "9s")];
    let loaded = from(file, &variables, vec![]).expect("valid");
    assert_eq!(loaded.settings.listen.port, 2);
    assert_eq!(loaded.settings.sessions.drain, Duration::from_secs(3));
    assert_eq!(origin(&loaded, "listen.port"), "PGFERRY__LISTEN__PORT");
    assert!(origin(&loaded, "sessions.drain").ends_with("config.toml"));
    let flags: Vec<Flag> = vec![("listen.port", "--port", Value::from(3))];
    let loaded = from(file, &variables, flags).expect("valid");
    assert_eq!((loaded.settings.listen.port, origin(&loaded, "listen.port")), (3, "--port"));
}

#[test]
fn what_kubernetes_injects_is_not_ours() {
    let injected = [("PGFERRY_PORT", "tcp://10.0.0.1:10000"), ("PGFERRY_SERVICE_HOST", "10.0.0.1")];
    assert_eq!(from("", &injected, vec![]).expect("valid").settings.listen.port, 10000);
}

#[test]
fn an_empty_variable_is_unset_and_a_string_stays_one() {
    let loaded = from("", &[("PGFERRY__LISTEN__PORT", ""), ("PGFERRY__KUBERNETES__CONTEXT", "0123")], vec![]);
    let settings = loaded.expect("valid").settings;
    assert_eq!((settings.listen.port, settings.kubernetes.context.as_deref()), (10000, Some("0123")));
}

#[test]
fn unknown_keys_are_errors_wherever_they_stand() {
    let error = from("[listen]\nprt = 1\n", &[], vec![]).expect_err("unknown").to_string();
    assert!(error.contains("line 2") && error.contains("prt") && error.contains("port"), "{error}");
    let error = from("", &[("PGFERRY__LISTEN__PRT", "1")], vec![]).expect_err("unknown").to_string();
    assert!(error.contains("prt"), "{error}");
}

#[test]
fn wrong_types_say_where() {
    let error = from("", &[("PGFERRY__LISTEN__PORT", "many")], vec![]).expect_err("wrong").to_string();
    assert!(error.contains("listen.port"), "{error}");
    let error = from("[sessions]\ndrain = 10\n", &[], vec![]).expect_err("wrong").to_string();
    assert!(error.contains("line 2"), "{error}");
}

/// `[101]` was no uid, and `101,102` was shown as one text.
#[test]
fn lists_in_a_variable_have_one_syntax() {
    let defaults: toml::Table = toml::from_str(DEFAULTS).expect("valid");
    for (section, keys) in &defaults {
        for (key, _) in keys.as_table().into_iter().flatten().filter(|(_, value)| value.is_array()) {
            assert!(LISTS.contains(&format!("{section}.{key}").as_str()), "{section}.{key} is a list");
        }
    }
    for (key, commas, toml, shown) in [
        ("listen.addresses", "127.0.0.1, ::1", "[\"127.0.0.1\", \"::1\"]", "[\"127.0.0.1\", \"::1\"]"),
        ("listen.allowed_uids", "101,102", "[101, 102]", "[101, 102]"),
        (
            "kubernetes.external",
            "db:5432,[2001:db8::1]:5433",
            "['db:5432', '[2001:db8::1]:5433']",
            "[\"db:5432\", \"[2001:db8::1]:5433\"]",
        ),
        (
            "kubernetes.external_names",
            "db.prod , cache.other,",
            "['db.prod', 'cache.other']",
            "[\"db.prod\", \"cache.other\"]",
        ),
    ] {
        let variable = format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
        for text in [commas, toml] {
            let loaded = from("", &[(&variable, text)], vec![]).expect(text);
            let origin = loaded.origins.iter().find(|origin| origin.key == key).expect("the key");
            assert_eq!((origin.value.as_str(), origin.from.as_str()), (shown, variable.as_str()), "{text}");
        }
    }
    let error = from("", &[("PGFERRY__LISTEN__ALLOWED_UIDS", "101;102")], vec![]).expect_err("wrong").to_string();
    assert!(error.contains("allowed_uids") && error.contains("101;102"), "{error}");
    for (text, all) in [("true", true), ("false", false)] {
        let loaded = from("", &[("PGFERRY__KUBERNETES__EXTERNAL", text)], vec![]).expect(text);
        assert_eq!(loaded.settings.kubernetes.external, External::All(all));
    }
}

#[test]
fn an_alias_is_a_name_that_a_client_can_send() {
    for alias in ["\"\"", "\"a\\u0000b\""] {
        let error = from(&format!("[names.aliases]\n{alias} = \"shop\"\n"), &[], vec![]).expect_err(alias).to_string();
        assert!(error.contains("names.aliases"), "{error}");
    }
    let kept = from("[names.aliases]\n\"My.Reports\" = \"shop\"\n", &[], vec![]).expect("valid").settings.names.aliases;
    assert!(kept.contains_key("My.Reports"), "{kept:?}");
}

#[test]
fn all_problems_at_once() {
    let text = "[listen]\naddresses = [\"0.0.0.0\"]\ntls = \"files\"\n[sessions]\nmax_connections = 0\n\
                [kubernetes]\ndead_after = \"25s\"\n";
    let error = from(text, &[], vec![]).expect_err("invalid").to_string();
    for part in ["0.0.0.0", "tls_cert", "max_connections", "dead_after"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn http_is_an_address_of_its_own() {
    let listen = |text: &str| from(&format!("[http]\nlisten = \"{text}\"\n"), &[], vec![]);
    for text in ["", "127.0.0.1:9187", "0.0.0.0:9187", "[::1]:9187", "127.0.0.1:0"] {
        let found = listen(text).expect(text).settings.http.listen;
        assert_eq!(found.map(|address| address.to_string()).unwrap_or_default(), text);
    }
    for text in ["9187", ":9187", "localhost:9187", "::1:9187", "127.0.0.1", "127.0.0.1:10000"] {
        let error = listen(text).expect_err(text).to_string();
        assert!(error.contains("listen"), "{text}: {error}");
    }
    let text = "[http]\nlisten = \"127.0.0.1:10001\"\n[listen.bindings]\n10001 = \"shop\"\n";
    let error = from(text, &[], vec![]).expect_err("taken").to_string();
    assert!(error.contains("http.listen: port 10001"), "{error}");
}

#[test]
fn the_examples_are_valid() {
    for example in [
        "config/example.laptop.toml",
        "config/example.bastion.toml",
        "config/example.verified.toml",
        "examples/unknown-operator/config.toml",
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(example);
        let loaded = load(&Sources { file: Some(file), ..Sources::default() }).expect(example);
        assert!(!loaded.origins.is_empty());
    }
}

#[test]
fn servers_outside_are_all_none_or_a_list() {
    let external = |text: &str| from(&format!("[kubernetes]\nexternal = {text}\n"), &[], vec![]);
    assert_eq!(external("true").expect("valid").settings.kubernetes.external, External::All(true));
    let listed = External::Only(vec!["db.example.com:5432".to_owned(), "[2001:db8::1]:5433".to_owned()]);
    let list = external("[\"db.example.com:5432\", \"[2001:db8::1]:5433\"]").expect("valid");
    assert_eq!(list.settings.kubernetes.external, listed);
    for text in ["[\"db.example.com\"]", "[\"db.example.com:0\"]", "[\":5432\"]", "\"maybe\"", "7"] {
        let error = external(text).expect_err(text).to_string();
        assert!(error.contains("external"), "{text}: {error}");
    }
    let variable = |text: &str| from("", &[("PGFERRY__KUBERNETES__EXTERNAL", text)], vec![]);
    assert_eq!(variable("true").expect("valid").settings.kubernetes.external, External::All(true));
    let list = variable("db.example.com:5432, [2001:db8::1]:5433").expect("valid");
    assert_eq!(list.settings.kubernetes.external, listed);
    assert_eq!(host_and_port("[2001:db8::1]:5433"), Some(("2001:db8::1", 5433)));
}

#[test]
fn load_balancers_are_networks() {
    let with = |list: &str, methods: &str| {
        let tls = "tls = \"files\"\ntls_cert = \"a\"\ntls_key = \"b\"\n";
        from(&format!("[listen]\n{tls}proxy_protocol = {list}\n[auth]\nmethods = {methods}\n"), &[], vec![])
    };
    let tokens = "[\"kubernetes\"]";
    for text in ["10.0.0.0/8", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32", "::1/128", "::/0"] {
        let settings = with(&format!("[\"{text}\"]"), tokens).expect(text).settings;
        assert_eq!(settings.listen.proxy_protocol, [text]);
        assert!(network(text).is_some(), "{text}");
    }
    let wrong = [
        "10.0.0.0",
        "10.0.0.7/8",
        "10.0.0.0/33",
        "10.0.0/8",
        "::/129",
        "::1/64",
        "::ffff:10.0.0.0/104",
        "lb.example.com/8",
        "10.0.0.0/-1",
        "",
        "/",
    ];
    for text in wrong {
        let error = with(&format!("[\"{text}\"]"), tokens).expect_err(text).to_string();
        assert!(error.contains("listen.proxy_protocol") && error.contains(&format!("\"{text}\"")), "{error}");
    }
    let error = with("[\"10.0.0.0/8\"]", "[]").expect_err("nobody proves anything").to_string();
    assert!(error.contains("listen.proxy_protocol needs auth.methods"), "{error}");
    let variables = [
        ("PGFERRY__LISTEN__PROXY_PROTOCOL", "10.0.0.0/8, fd00::/8"),
        ("PGFERRY__AUTH__METHODS", "kubernetes"),
        ("PGFERRY__LISTEN__TLS", "files"),
        ("PGFERRY__LISTEN__TLS_CERT", "a"),
        ("PGFERRY__LISTEN__TLS_KEY", "b"),
    ];
    let settings = from("", &variables, vec![]).expect("valid").settings;
    assert_eq!(settings.listen.proxy_protocol, ["10.0.0.0/8", "fd00::/8"]);
}

#[test]
fn lists_of_names_in_a_variable() {
    let variable = |text: &str| from("", &[("PGFERRY__KUBERNETES__EXTERNAL_NAMES", text)], vec![]);
    let names = variable("db.prod, cache.other").expect("valid").settings.kubernetes.external_names;
    assert_eq!(names, ["db.prod", "cache.other"]);
    let error = variable("db").expect_err("no namespace").to_string();
    assert!(error.contains("external_names") && error.contains("SERVICE.NAMESPACE"), "{error}");
}

#[test]
fn an_alias_may_name_a_system() {
    let text = "[names.aliases]\nplain = \"shop.prod/app\"\nlower = { target = \"shop.prod\", system = \"service\" }\n";
    let aliases = from(text, &[], vec![]).expect("valid").settings.names.aliases;
    assert_eq!(aliases.get("plain"), Some(&Alias::Target("shop.prod/app".to_owned())));
    let lower = AliasOf { target: "shop.prod".to_owned(), system: "service".to_owned() };
    assert_eq!(aliases.get("lower"), Some(&Alias::Of(lower)));
    let error = from("[names.aliases]\nx = { target = \"shop\" }\n", &[], vec![]).expect_err("half").to_string();
    assert!(error.contains("system = "), "{error}");
}

#[test]
fn what_a_cluster_may_ask_for() {
    let text = "[clusters.\"old.prod\"]\nauth = \"md5\"\nsecret = \"login\"\nscram_iterations = 200000\n";
    let loaded = from(text, &[], vec![]).expect("valid");
    let old = loaded.settings.clusters.get("old.prod").expect("the cluster");
    assert_eq!(
        (old.auth, old.secret.as_deref(), old.scram_iterations),
        (Some(ClusterAuth::Md5), Some("login"), Some(200_000))
    );
    for (text, part) in [("auth = \"peer\"", "auth"), ("scram_iterations = 0", "scram_iterations")] {
        let error = from(&format!("[clusters.x]\n{text}\n"), &[], vec![]).expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
    }
}
