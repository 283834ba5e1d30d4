//! Updates, but only the operators that the control collections use.

use super::query;
use bson::{Bson, Document};

/// Applies an update to a document that matched `filter`, or to one that an upsert inserts.
///
/// # Panics
/// The update has an operator that is not implemented here, or an invalid path.
pub fn apply(document: &mut Document, update: &Document, filter: &Document, inserts: bool) {
    let before = document.clone();
    for (operator, fields) in update {
        let fields = fields.as_document().expect("an update operator has fields");
        for (path, operand) in fields {
            let path = resolved(&before, path, filter);
            match operator.as_str() {
                "$set" => *place(document, &path) = operand.clone(),
                "$setOnInsert" => {
                    if inserts {
                        *place(document, &path) = operand.clone();
                    }
                }
                "$unset" => unset(document, &path),
                "$max" => {
                    let there = place(document, &path);
                    if *there == Bson::Null || query::order(operand, there).is_gt() {
                        *there = operand.clone();
                    }
                }
                "$inc" => {
                    let there = place(document, &path);
                    *there = Bson::Int64(whole(there) + whole(operand));
                }
                "$push" => array(document, &path).extend(each(operand)),
                "$addToSet" => {
                    let there = array(document, &path);
                    for new in each(operand) {
                        if !there.contains(&new) {
                            there.push(new);
                        }
                    }
                }
                "$pull" => array(document, &path).retain(|element| element != operand),
                other => panic!("the update operator {other} is not known in memory"),
            }
        }
    }
}

fn resolved(document: &Document, path: &str, filter: &Document) -> String {
    let Some((array, inner)) = path.split_once(".$.") else { return path.to_owned() };
    let at = query::position(document, filter, array).expect("the filter names an element of the array");
    format!("{array}.{at}.{inner}")
}

/// Returns the value at a dotted path. It is created if it is missing.
fn place<'a>(document: &'a mut Document, path: &str) -> &'a mut Bson {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let value = document.entry(key.to_owned()).or_insert(Bson::Null);
    match rest {
        Some(rest) => inside(value, rest),
        None => value,
    }
}

fn inside<'a>(value: &'a mut Bson, path: &str) -> &'a mut Bson {
    if let Bson::Array(elements) = value {
        let (at, rest) = path.split_once('.').expect("a path into an element");
        let element = elements.get_mut(at.parse::<usize>().expect("an index")).expect("an element");
        return inside(element, rest);
    }
    if *value == Bson::Null {
        *value = Bson::Document(Document::new());
    }
    place(value.as_document_mut().expect("a document on the path"), path)
}

fn unset(document: &mut Document, path: &str) {
    match path.rsplit_once('.') {
        None => drop(document.remove(path)),
        Some((parents, key)) => {
            let parent = parents.split('.').try_fold(document, |at, parent| at.get_document_mut(parent));
            if let Ok(parent) = parent {
                parent.remove(key);
            }
        }
    }
}

fn array<'a>(document: &'a mut Document, path: &str) -> &'a mut Vec<Bson> {
    let value = place(document, path);
    if *value == Bson::Null {
        *value = Bson::Array(Vec::new());
    }
    value.as_array_mut().expect("an array")
}

fn each(operand: &Bson) -> Vec<Bson> {
    let many = operand.as_document().and_then(|it| it.get_array("$each").ok());
    many.cloned().unwrap_or_else(|| vec![operand.clone()])
}

fn whole(value: &Bson) -> i64 {
    value.as_i64().or_else(|| value.as_i32().map(i64::from)).unwrap_or(0)
}
