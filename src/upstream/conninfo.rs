//! How a client came in, in libpq's words: a hint is the client's own connection with another name in it.

/// Where a client connected to, and where in its startup packet the target stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conninfo {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    /// The port, of a Unix socket, too.
    pub port: u16,
    /// Where the target stands.
    pub form: Form,
}

/// Where a startup packet names its target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Nowhere: the listener is bound to it.
    Bound,
    /// Nowhere: the database is the user's name, as clients send it where a person gave none.
    Nowhere,
    /// In the database.
    Database {
        /// The user, where the person chose one.
        user: Option<String>,
        /// The database behind the target.
        database: Option<String>,
    },
    /// In the user, behind the role.
    User {
        /// The role; empty for the default login.
        role: String,
        /// The database, where there is one.
        database: Option<String>,
    },
    /// In the option `pgferry.target`.
    Option {
        /// The user, where the person chose one.
        user: Option<String>,
        /// The database, where there is one.
        database: Option<String>,
    },
}

impl Conninfo {
    /// The same connection, to this target: something to type.
    #[must_use]
    pub fn to(&self, target: &str) -> String {
        let psql = format!("psql -h {} -p {}", word(&self.host), self.port);
        let user = |user: &Option<String>| user.as_ref().map(|user| format!(" -U {}", word(user))).unwrap_or_default();
        match &self.form {
            Form::Bound => format!("listen.bindings.{} = \"{target}\"", self.port),
            Form::Nowhere => format!("{psql} {}", word(target)),
            Form::Database { user: given, database } => {
                let behind = database.as_ref().map(|database| format!("/{database}")).unwrap_or_default();
                format!("{psql}{} {}", user(given), word(&format!("{target}{behind}")))
            }
            Form::User { role, database } => {
                let database = database.as_ref().map(|database| format!(" {}", word(database))).unwrap_or_default();
                format!("{psql} -U {}{database}", word(&format!("{role}@{target}")))
            }
            Form::Option { user: given, database } => {
                let database = database.as_ref().map(|database| format!(" {}", word(database))).unwrap_or_default();
                format!("PGOPTIONS={} {psql}{}{database}", word(&format!("-c pgferry.target={target}")), user(given))
            }
        }
    }

    /// The same with the target in the user: then any database can be opened.
    #[must_use]
    pub fn with_role(&self, role: &str, database: Option<&str>) -> Self {
        let form = Form::User { role: role.to_owned(), database: database.map(str::to_owned) };
        Self { form, ..self.clone() }
    }
}

/// One word for a shell.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:/+,=%".contains(c);
    let inside = |c: char| plain(c) || c == '~';
    if text.starts_with(plain) && text.chars().all(inside) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_own_form_stays() {
        let to = |form| Conninfo { host: "localhost".to_owned(), port: 21102, form }.to("shop.prod:ro");
        let some = |text: &str| Some(text.to_owned());
        let psql = "psql -h localhost -p 21102";
        for (form, typed) in [
            (Form::Nowhere, format!("{psql} shop.prod:ro")),
            (Form::Database { user: None, database: None }, format!("{psql} shop.prod:ro")),
            (
                Form::Database { user: some("app"), database: some("my books") },
                format!("{psql} -U app 'shop.prod:ro/my books'"),
            ),
            (Form::User { role: "app".to_owned(), database: None }, format!("{psql} -U app@shop.prod:ro")),
            (
                Form::User { role: "o'neil".to_owned(), database: some("~x") },
                format!("{psql} -U 'o'\\''neil@shop.prod:ro' '~x'"),
            ),
            (
                Form::Option { user: some("app"), database: some("books") },
                format!("PGOPTIONS='-c pgferry.target=shop.prod:ro' {psql} -U app books"),
            ),
            (Form::Bound, "listen.bindings.21102 = \"shop.prod:ro\"".to_owned()),
        ] {
            assert_eq!(to(form), typed);
        }
    }
}
