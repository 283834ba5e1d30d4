//! As much of mongosh as the guide needs: calls on `db`, on a database and on a collection, with literals as arguments.

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use serde_json::Value;

/// One statement: `db.getSiblingDB("shop").orders.drop()`.
#[derive(Debug, PartialEq)]
pub struct Statement {
    database: String,
    collection: Option<String>,
    method: String,
    arguments: Vec<Value>,
}

/// The statements of a block. Lines that begin with `//` are comments, `use NAME` changes the database. Of the answer of an
/// insert `.acknowledged` is printed.
pub fn read_statements(text: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut database = "test".to_owned();
    let mut whole = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        if let Some(name) = line.strip_prefix("use ") {
            name.trim().clone_into(&mut database);
            continue;
        }
        whole.push_str(line);
        whole.push('\n');
        let depth = whole.matches('(').count().cast_signed() - whole.matches(')').count().cast_signed();
        if depth == 0 && !whole.trim().is_empty() {
            found.push(read_statement(whole.trim().trim_end_matches(".acknowledged"), &database));
            whole.clear();
        }
    }
    assert!(whole.trim().is_empty(), "a statement has no end: {whole}");
    found
}

fn read_statement(text: &str, database: &str) -> Statement {
    let parts = || {
        let rest = text.strip_suffix(')')?.strip_prefix("db.")?;
        // The arguments of the last call: its parenthesis is the first one after an optional getSiblingDB("...").
        let skipped = if rest.starts_with("getSiblingDB(") { rest.find(')')? + 1 } else { 0 };
        let at = rest[skipped..].find('(')? + skipped;
        Some((&rest[..at], &rest[at + 1..]))
    };
    let (head, arguments) = parts().unwrap_or_else(|| panic!("the tests' mongosh does not know '{text}'"));
    let (database, names) = match head.strip_prefix("getSiblingDB(\"").and_then(|it| it.split_once("\").")) {
        Some((database, names)) => (database, names),
        None => (database, head),
    };
    let (collection, method) = match names.rsplit_once('.') {
        Some((collection, method)) => (Some(collection.to_owned()), method),
        None => (None, names),
    };
    let arguments =
        serde_json::from_str(&format!("[{}]", to_json(arguments))).unwrap_or_else(|e| panic!("{e}: {arguments}"));
    Statement { database: database.to_owned(), collection, method: method.to_owned(), arguments }
}

/// A literal of JavaScript as JSON: keys get their quotes, `passwordPrompt()` the password of all examples.
fn to_json(text: &str) -> String {
    let text = text.replace("passwordPrompt()", "\"secret\"");
    let mut out = String::new();
    let mut name = String::new();
    let mut inside = false;
    for letter in text.chars() {
        if inside || !(letter.is_alphanumeric() || letter == '_' || letter == '$') {
            if !name.is_empty() {
                let is_key = letter == ':' && name.starts_with(|it: char| !it.is_ascii_digit());
                out.push_str(&if is_key { format!("\"{name}\"") } else { name.clone() });
                name.clear();
            }
            out.push(letter);
            inside ^= letter == '"';
        } else {
            name.push(letter);
        }
    }
    out + &name
}

fn to_bson(value: &Value) -> Document {
    mongodb::bson::serialize_to_document(value).unwrap_or_else(|e| panic!("{e}: {value}"))
}

impl Statement {
    /// Does it, and returns what mongosh prints, as far as the guide shows it.
    pub async fn run(&self, client: &Client) -> String {
        let db = client.database(&self.database);
        let argument =
            |n: usize| self.arguments.get(n).cloned().unwrap_or_else(|| panic!("{self:?}: too few arguments"));
        match (&self.collection, self.method.as_str()) {
            (None, method @ ("createUser" | "createRole")) => {
                let mut command =
                    doc! { method: argument(0)[if method == "createUser" { "user" } else { "role" }].as_str() };
                command.extend(to_bson(&argument(0)).into_iter().filter(|(key, _)| key != "user" && key != "role"));
                run_command(&db, command).await
            }
            (Some(name), "insertMany") => {
                let documents: Vec<Document> = argument(0).as_array().expect("a list").iter().map(to_bson).collect();
                db.collection(name).insert_many(documents).await.map(drop).expect(name);
                "true".to_owned()
            }
            (Some(name), "drop") => {
                db.collection::<Document>(name).drop().await.expect(name);
                "true".to_owned()
            }
            (Some(name), "countDocuments") => {
                db.collection::<Document>(name).count_documents(doc! {}).await.expect(name).to_string()
            }
            (None, "dropDatabase") => {
                db.drop().await.expect(&self.database);
                format!("{{ ok: 1, dropped: '{}' }}", self.database)
            }
            _ => panic!("the tests' mongosh does not know {self:?}"),
        }
    }
}

async fn run_command(db: &Database, mut command: Document) -> String {
    command.insert("writeConcern", doc! { "w": "majority" });
    db.run_command(command.clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"));
    "{ ok: 1 }".to_owned()
}

#[test]
fn statements_are_read() {
    let text = "// a comment\nuse admin\ndb.createUser({\n  user: \"a:b\", // no comment here\n  n: 1,\n  roles: [{ role: \"x\" }]\n})\n\
                db.getSiblingDB(\"shop\").orders.countDocuments()"
        .replace(" // no comment here", "");
    let found = read_statements(&text);
    assert_eq!(found[0].database, "admin");
    assert_eq!((found[0].method.as_str(), &found[0].collection), ("createUser", &None));
    assert_eq!(found[0].arguments[0], serde_json::json!({ "user": "a:b", "n": 1, "roles": [{ "role": "x" }] }));
    assert_eq!((found[1].database.as_str(), found[1].collection.as_deref()), ("shop", Some("orders")));
    assert_eq!(found[1].method, "countDocuments");
}
