//! Filters, sort orders and projections, but only the features that the control collections use.

use bson::{Bson, Document};
use std::cmp::Ordering;

/// Whether the document matches the filter.
///
/// # Panics
/// The filter has an operator that is not implemented here.
pub fn matches(document: &Document, filter: &Document) -> bool {
    filter.iter().all(|(key, wanted)| match key.as_str() {
        "$or" => wanted
            .as_array()
            .is_some_and(|any| any.iter().filter_map(Bson::as_document).any(|it| matches(document, it))),
        // Most filters use a plain field name. This case gives the same result faster.
        key if !document.contains_key(key) && !key.contains('.') && operators(wanted).is_none() => {
            *wanted == Bson::Null
        }
        path => {
            let mut values = Vec::new();
            collect(document, path, &mut values);
            holds(&values, wanted)
        }
    })
}

/// Collects the values at a dotted path. An array inside the path stands for its elements. At the end of the path, the
/// array itself is a value, too.
fn collect<'a>(document: &'a Document, path: &str, values: &mut Vec<&'a Bson>) {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let Some(value) = document.get(key) else { return };
    match (value, rest) {
        (Bson::Array(elements), None) => {
            values.push(value);
            values.extend(elements);
        }
        (_, None) => values.push(value),
        (Bson::Document(inner), Some(rest)) => collect(inner, rest, values),
        (Bson::Array(elements), Some(rest)) => {
            elements.iter().filter_map(Bson::as_document).for_each(|element| collect(element, rest, values));
        }
        (_, Some(_)) => {}
    }
}

fn operators(wanted: &Bson) -> Option<&Document> {
    wanted.as_document().filter(|it| it.keys().next().is_some_and(|key| key.starts_with('$')))
}

fn holds(values: &[&Bson], wanted: &Bson) -> bool {
    let Some(operators) = operators(wanted) else { return equals(values, wanted) };
    operators.iter().all(|(operator, operand)| {
        let any = || operand.as_array().is_some_and(|any| any.iter().any(|it| equals(values, it)));
        let compares = |allowed: &[Ordering]| {
            values.iter().any(|value| same_type(value, operand) && allowed.contains(&order(value, operand)))
        };
        match operator.as_str() {
            "$ne" => !equals(values, operand),
            "$in" => any(),
            "$nin" => !any(),
            "$not" => !holds(values, operand),
            "$lt" => compares(&[Ordering::Less]),
            "$gte" => compares(&[Ordering::Greater, Ordering::Equal]),
            "$elemMatch" => values.iter().filter_map(|it| it.as_array()).flatten().any(|it| is_element(it, operand)),
            other => panic!("the filter operator {other} is not known in memory"),
        }
    })
}

fn is_element(element: &Bson, wanted: &Bson) -> bool {
    matches!((element, wanted), (Bson::Document(element), Bson::Document(wanted)) if matches(element, wanted))
}

fn equals(values: &[&Bson], wanted: &Bson) -> bool {
    (*wanted == Bson::Null && values.is_empty()) || values.iter().any(|value| is_same(value, wanted))
}

fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(n) => Some(f64::from(*n)),
        #[allow(clippy::cast_precision_loss, reason = "only for tests, with small numbers")]
        Bson::Int64(n) => Some(*n as f64),
        Bson::Double(n) => Some(*n),
        _ => None,
    }
}

fn is_same(a: &Bson, b: &Bson) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

fn rank(value: &Bson) -> u8 {
    match value {
        Bson::Null => 1,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => 2,
        Bson::String(_) => 3,
        Bson::Boolean(_) => 4,
        Bson::Timestamp(_) => 5,
        _ => 6,
    }
}

fn same_type(a: &Bson, b: &Bson) -> bool {
    rank(a) == rank(b)
}

/// Compares two values as the server does, but only of the types that are used here.
pub fn order(a: &Bson, b: &Bson) -> Ordering {
    match (a, b) {
        (Bson::String(a), Bson::String(b)) => a.cmp(b),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        (Bson::Timestamp(a), Bson::Timestamp(b)) => a.cmp(b),
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => rank(a).cmp(&rank(b)),
        },
    }
}

/// Sorts by the fields of `by`, each ascending (1) or descending (-1). `$natural` is the order of insertion.
pub fn sort(documents: &mut [Document], by: &Document) {
    let descends = |direction: &Bson| number(direction).is_some_and(|n| n < 0.0);
    if let Some(direction) = by.get("$natural") {
        if descends(direction) {
            documents.reverse();
        }
        return;
    }
    documents.sort_by(|a, b| {
        let field = |(key, direction): (&String, &Bson)| {
            let value = |document: &Document| document.get(key).cloned().unwrap_or(Bson::Null);
            let found = order(&value(a), &value(b));
            if descends(direction) { found.reverse() } else { found }
        };
        by.iter().map(field).find(|found| found.is_ne()).unwrap_or(Ordering::Equal)
    });
}

/// Returns the requested fields, and `_id` unless it is excluded.
pub fn project(document: &Document, fields: &Document) -> Document {
    let mut projected = Document::new();
    for (key, value) in document {
        match fields.get(key).map(|asked| (asked, operators(asked))) {
            None if key == "_id" => drop(projected.insert(key, value.clone())),
            None => {}
            Some((_, Some(operators))) => {
                let wanted = operators.get("$elemMatch").cloned().unwrap_or(Bson::Null);
                let first = value.as_array().and_then(|all| all.iter().find(|it| is_element(it, &wanted)));
                if let Some(first) = first {
                    projected.insert(key, vec![first.clone()]);
                }
            }
            Some((asked, None)) if number(asked).is_some_and(|n| n > 0.0) => drop(projected.insert(key, value.clone())),
            Some(_) => {}
        }
    }
    projected
}

/// Returns the fields that the filter compares with `=` to a value. A document that an upsert inserts gets them.
pub fn equalities(filter: &Document) -> Document {
    let plain =
        filter.iter().filter(|(key, value)| !key.contains('.') && !key.starts_with('$') && operators(value).is_none());
    plain.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns the index of the array element that made the document match. It replaces `$` in an update's path.
pub fn position(document: &Document, filter: &Document, array: &str) -> Option<usize> {
    let elements = document.get_array(array).ok()?;
    filter.iter().find_map(|(key, wanted)| {
        if key == array {
            let wanted = wanted.as_document()?.get("$elemMatch")?;
            return elements.iter().position(|element| is_element(element, wanted));
        }
        let inner = key.strip_prefix(array)?.strip_prefix('.')?;
        let wanted = Bson::from(bson::doc! { inner: wanted.clone() });
        elements.iter().position(|element| is_element(element, &wanted))
    })
}
