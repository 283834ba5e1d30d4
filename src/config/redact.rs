//! Removes secrets from documents and texts that leave the cluster, such as reports that users send to others.
//!
//! [`super::mask`] hides the secrets of a configuration by their keys. Here the place of a secret is unknown: errors in
//! the log quote connection strings and answers of stores. So three things are hidden: strings under the name of a
//! secret key, wherever the name occurs; every known secret value, wherever it occurs; and text that looks like a
//! password in a URI or in its options.

use super::schema;
use bson::{Bson, Document};

const HIDDEN: &str = "***";
/// Shorter values are not hidden in texts, because there they are often parts of ordinary words.
const SHORTEST: usize = 4;
/// If a secret has several lines (a private key), each line of at least this length is also a secret.
const LONG_LINE: usize = 16;
/// Names of secrets in addition to those of the configuration, in lower case.
const NAMES: &[&str] = &[
    "password",
    "pwd",
    "passwd",
    "secret",
    "token",
    "sig",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "aws_session_token",
    "tlscertificatekeyfilepassword",
    "sslclientcertificatekeypassword",
    "key",
];
/// In groups of this name, every setting is secret unless the configuration knows it as not secret.
const FOLDER: &str = "credentials";

/// The known secret values.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    values: Vec<String>,
}

impl Secrets {
    /// Adds every secret in the document of a configuration, a storage, a backup or a command.
    pub fn learn(&mut self, doc: &Document) {
        self.learn_below(doc, false);
    }

    fn learn_below(&mut self, doc: &Document, inside: bool) {
        for (name, value) in doc {
            let inside = inside || name == FOLDER;
            match value {
                Bson::Document(inner) => self.learn_below(inner, inside),
                Bson::Array(items) => {
                    items.iter().filter_map(Bson::as_document).for_each(|inner| self.learn_below(inner, inside));
                }
                Bson::String(text) if is_secret_key(name, inside) => self.add(text),
                _ => {}
            }
        }
    }

    /// Adds the password of a connection string, both in its encoded and in its decoded form.
    pub fn learn_uri(&mut self, uri: &str) {
        let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if let Some((_, password)) = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')) {
            self.add(password);
            self.add(&decoded(password));
        }
    }

    fn add(&mut self, value: &str) {
        if value.len() < SHORTEST || value == HIDDEN {
            return;
        }
        self.values.push(value.to_owned());
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= LONG_LINE && *line != value);
        self.values.extend(lines.map(str::to_owned));
        // The longest values come first, because one may be a part of another.
        self.values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        self.values.dedup();
    }

    /// Returns a text with all secrets hidden.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for value in &self.values {
            if out.contains(value.as_str()) {
                out = out.replace(value.as_str(), HIDDEN);
            }
        }
        options(&uris(&out))
    }

    /// Returns a document with all secrets hidden.
    #[must_use]
    pub fn document(&self, doc: &Document) -> Document {
        self.below(doc, false)
    }

    fn below(&self, doc: &Document, inside: bool) -> Document {
        doc.iter().map(|(name, value)| (name.clone(), self.value(name, value, inside || name == FOLDER))).collect()
    }

    fn value(&self, name: &str, value: &Bson, inside: bool) -> Bson {
        match value {
            Bson::String(text) if !text.is_empty() && is_secret_key(name, inside) => HIDDEN.into(),
            Bson::String(text) => self.text(text).into(),
            Bson::Document(inner) => self.below(inner, inside).into(),
            Bson::Array(items) => Bson::Array(items.iter().map(|item| self.value(name, item, inside)).collect()),
            other => other.clone(),
        }
    }
}

fn is_secret_key(name: &str, inside: bool) -> bool {
    NAMES.contains(&name.to_ascii_lowercase().as_str())
        || schema::is_secret_name(name)
        || (inside && name != FOLDER && !schema::is_open_name(name))
}

/// Whether the character certainly ends a URI or the value of one of its options.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\')
}

/// Hides `password` in `scheme://user:password@host`.
fn uris(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let word = &after[..after.find(ends_word).unwrap_or(after.len())];
        let authority = word.find(['/', '?', '#']).map_or(word, |end| &word[..end]);
        // If a password contains an @ that should have been encoded, everything up to the last @ of a connection string
        // belongs to it.
        let whole = before.trim_end_matches("://").ends_with("mongodb");
        let user = authority.rfind('@').or_else(|| word.rfind('@').filter(|_| whole)).map(|end| &word[..end]);
        match user {
            Some(user) => {
                if let Some((name, _)) = user.split_once(':') {
                    out.push_str(name);
                    out.push(':');
                }
                out.push_str(HIDDEN);
                rest = &after[user.len()..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

/// Hides values in `name=value` if the name is that of a secret, as in the options of URIs.
fn options(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        let name = before[..at].rsplit(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).next();
        let name = name.unwrap_or_default();
        let end = after.find(|c| ends_word(c) || matches!(c, '&' | ',' | ';' | ')')).unwrap_or(after.len());
        let secret = is_secret_key(name, false) || name.eq_ignore_ascii_case("authMechanismProperties");
        if secret && end > 0 {
            out.push_str(HIDDEN);
            rest = &after[end..];
        } else {
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Decodes codes such as `%2F` to `/`. Other text does not change.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code =
            text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        secrets.learn(&doc! {
            "storage": { "type": "s3", "s3": {
                "bucket": "bucket", "credentials": { "access-key-id": "AKIDEXAMPLE", "secret-access-key": "hunter22/x" },
            } },
        });
        secrets.learn_uri("mongodb://pbm:p%40ss%2Fword@h1:1,h2:2/?authSource=admin");
        secrets
    }

    #[test]
    fn known_values_are_hidden_wherever_they_occur() {
        let secrets = secrets();
        assert_eq!(secrets.text("refused for AKIDEXAMPLE at bucket"), "refused for *** at bucket");
        assert_eq!(secrets.text("signed with hunter22/x."), "signed with ***.");
        assert_eq!(secrets.text("tried p@ss/word and p%40ss%2Fword"), "tried *** and ***");
        let doc = doc! { "error": "no hunter22/x", "list": [{ "secret-access-key": "other" }, "AKIDEXAMPLE"], "n": 1 };
        assert_eq!(
            secrets.document(&doc),
            doc! { "error": "no ***", "list": [{ "secret-access-key": "***" }, "***"], "n": 1 }
        );
    }

    #[test]
    fn what_looks_like_a_secret_is_hidden_too() {
        let secrets = Secrets::default();
        for (text, want) in [
            ("connect mongodb://u:topsecret@h:1/?w=1 failed", "connect mongodb://u:***@h:1/?w=1 failed"),
            ("mongodb://u:with/slash@h:1", "mongodb://u:***@h:1"),
            ("http://token@h/a and https://u:p@h2/", "http://***@h/a and https://u:***@h2/"),
            ("https://h/path?email=a@b", "https://h/path?email=a@b"),
            ("GET https://h/c?sv=1&sig=abc%3D&se=2", "GET https://h/c?sv=1&sig=***&se=2"),
            ("tlsCertificateKeyFilePassword=x&tls=true", "tlsCertificateKeyFilePassword=***&tls=true"),
            ("authMechanismProperties=AWS_SESSION_TOKEN:abc&x=1", "authMechanismProperties=***&x=1"),
            ("no secret = here, key= none", "no secret = here, key= none"),
            ("plain", "plain"),
        ] {
            assert_eq!(secrets.text(text), want);
        }
    }

    #[test]
    fn each_line_of_a_long_secret_is_one() {
        let mut secrets = Secrets::default();
        secrets.learn(&doc! { "privateKey": "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n" });
        assert_eq!(secrets.text(r"bad key: MIIEvQIBADANBgkq\n"), r"bad key: ***\n");
        secrets.learn(&doc! { "credentials": { "new-kind": "unknown-secret", "type": "static" } });
        assert_eq!(secrets.text("unknown-secret, static"), "***, static", "in this folder what is not known is secret");
        secrets.learn(&doc! { "secret-access-key": "abc" });
        assert_eq!(secrets.text("abc"), "abc", "too short to be looked for");
    }
}
