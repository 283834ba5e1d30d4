//! Canonical Extended JSON as the original writes it: its number formats, escapes and layout (docs/format.md A.3.4).

use super::json;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bson::{Bson, Document};

/// Returns the document in one line without spaces.
#[must_use]
pub fn compact(doc: &Document) -> String {
    let mut out = String::new();
    push_document(&mut out, doc);
    out
}

/// Returns the document in several lines. Each level is indented by two spaces. There is no line break at the end.
#[must_use]
pub fn indented(doc: &Document) -> String {
    json::indent(&compact(doc), "  ")
}

/// Reads canonical or relaxed Extended JSON. Plain whole numbers become `Int32` if they fit, and `Int64` otherwise.
///
/// # Errors
/// The text is not a JSON object, or a `$` key has a value that does not fit its type.
pub fn parse(text: &[u8]) -> serde_json::Result<Document> {
    serde_json::from_slice(text)
}

fn push_document(out: &mut String, doc: &Document) {
    out.push('{');
    for (i, (key, value)) in doc.iter().enumerate() {
        json::push_comma(out, i);
        json::push_string(out, key);
        out.push(':');
        push_value(out, value);
    }
    out.push('}');
}

fn push_array(out: &mut String, array: &[Bson]) {
    out.push('[');
    for (i, value) in array.iter().enumerate() {
        json::push_comma(out, i);
        push_value(out, value);
    }
    out.push(']');
}

/// Appends one value.
pub(super) fn push_value(out: &mut String, value: &Bson) {
    match value {
        Bson::Document(v) => push_document(out, v),
        Bson::Array(v) => push_array(out, v),
        Bson::String(v) => json::push_string(out, v),
        Bson::Boolean(v) => out.push_str(if *v { "true" } else { "false" }),
        Bson::Null => out.push_str("null"),
        Bson::Int32(v) => push_text(out, "$numberInt", &v.to_string()),
        Bson::Int64(v) => push_text(out, "$numberLong", &v.to_string()),
        Bson::Double(v) => push_text(out, "$numberDouble", &double(*v)),
        Bson::Decimal128(v) => push_text(out, "$numberDecimal", &v.to_string()),
        Bson::ObjectId(v) => push_text(out, "$oid", &v.to_hex()),
        Bson::Symbol(v) => push_text(out, "$symbol", v),
        Bson::JavaScriptCode(v) => push_text(out, "$code", v),
        Bson::JavaScriptCodeWithScope(v) => {
            out.push_str("{\"$code\":");
            json::push_string(out, &v.code);
            out.push_str(",\"$scope\":");
            push_document(out, &v.scope);
            out.push('}');
        }
        Bson::DateTime(v) => {
            out.push_str(&format!("{{\"$date\":{{\"$numberLong\":\"{}\"}}}}", v.timestamp_millis()));
        }
        Bson::Timestamp(v) => {
            out.push_str(&format!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", v.time, v.increment));
        }
        Bson::Binary(v) => {
            let base64 = BASE64_STANDARD.encode(&v.bytes);
            let subtype = u8::from(v.subtype);
            out.push_str(&format!("{{\"$binary\":{{\"base64\":\"{base64}\",\"subType\":\"{subtype:02x}\"}}}}"));
        }
        Bson::RegularExpression(v) => {
            let mut options: Vec<char> = v.options.as_str().chars().collect();
            options.sort_unstable();
            out.push_str("{\"$regularExpression\":{\"pattern\":");
            json::push_string(out, v.pattern.as_str());
            out.push_str(",\"options\":");
            json::push_string(out, &options.into_iter().collect::<String>());
            out.push_str("}}");
        }
        Bson::MinKey => out.push_str("{\"$minKey\":1}"),
        Bson::MaxKey => out.push_str("{\"$maxKey\":1}"),
        Bson::Undefined => out.push_str("{\"$undefined\":true}"),
        // The fields of this type are private. Its own JSON form is the canonical one.
        Bson::DbPointer(_) => out.push_str(&serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())),
    }
}

fn push_text(out: &mut String, key: &str, text: &str) {
    out.push_str(&format!("{{\"{key}\":"));
    json::push_string(out, text);
    out.push('}');
}

/// Returns the shortest text that reads back as the same number: with a decimal point from 1e-4 to below 1e6, and
/// otherwise with an exponent of at least two digits.
fn double(v: f64) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{v:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}E{sign}{:02}", exponent.abs());
    }
    let text = v.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::{compact, double, indented, parse};
    use bson::{Binary, Bson, Document, Regex, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};

    fn everything() -> Document {
        doc! {
            "s": "<b> & \"q\"", "k<": true, "null": Bson::Null, "i": -7_i32, "l": i64::MIN, "d": 1.0, "inf": f64::INFINITY,
            "dec": Bson::Decimal128("1.50".parse().unwrap()), "oid": ObjectId::from_bytes([7; 12]),
            "sym": Bson::Symbol("y".into()), "js": Bson::JavaScriptCode("f()".into()),
            "jss": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope { code: "g".into(), scope: doc! { "a": 1 } }),
            "date": bson::DateTime::from_millis(-1), "ts": Timestamp { time: u32::MAX, increment: 2 },
            "bin": Binary { subtype: BinarySubtype::Uuid, bytes: vec![1, 2] },
            "re": Bson::RegularExpression(Regex { pattern: "a\"&".try_into().unwrap(), options: "im".try_into().unwrap() }),
            "min": Bson::MinKey, "max": Bson::MaxKey, "un": Bson::Undefined,
            "arr": [1, [], {}], "validator": { "a": { "$exists": true, "$type": "string" } },
        }
    }

    #[test]
    fn every_type_is_written() {
        assert_eq!(
            compact(&everything()),
            concat!(
                r#"{"s":"\u003cb\u003e \u0026 \"q\"","k\u003c":true,"null":null,"i":{"$numberInt":"-7"},"#,
                r#""l":{"$numberLong":"-9223372036854775808"},"d":{"$numberDouble":"1.0"},"#,
                r#""inf":{"$numberDouble":"Infinity"},"dec":{"$numberDecimal":"1.50"},"#,
                r#""oid":{"$oid":"070707070707070707070707"},"sym":{"$symbol":"y"},"js":{"$code":"f()"},"#,
                r#""jss":{"$code":"g","$scope":{"a":{"$numberInt":"1"}}},"date":{"$date":{"$numberLong":"-1"}},"#,
                r#""ts":{"$timestamp":{"t":4294967295,"i":2}},"bin":{"$binary":{"base64":"AQI=","subType":"04"}},"#,
                r#""re":{"$regularExpression":{"pattern":"a\"\u0026","options":"im"}},"min":{"$minKey":1},"#,
                r#""max":{"$maxKey":1},"un":{"$undefined":true},"arr":[{"$numberInt":"1"},[],{}],"#,
                r#""validator":{"a":{"$exists":true,"$type":"string"}}}"#,
            )
        );
    }

    #[test]
    fn reads_back_what_it_writes() {
        assert_eq!(parse(compact(&everything()).as_bytes()).unwrap(), everything());
        assert_eq!(parse(indented(&everything()).as_bytes()).unwrap(), everything());
    }

    #[test]
    fn db_pointers_keep_their_form() {
        let text = r#"{"p":{"$dbPointer":{"$ref":"a.b","$id":{"$oid":"070707070707070707070707"}}}}"#;
        assert_eq!(compact(&parse(text.as_bytes()).unwrap()), text);
    }

    #[test]
    fn relaxed_numbers_are_accepted() {
        let doc = parse(br#"{"i":1,"d":0.5}"#).unwrap();
        assert_eq!((doc.get_i32("i").unwrap(), doc.get_f64("d").unwrap()), (1, 0.5));
        assert!(parse(br#"{"i":{"$numberInt":"x"}}"#).is_err());
    }

    #[test]
    fn doubles() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (-200.0, "-200.0"),
            (0.5, "0.5"),
            (0.0001, "0.0001"),
            (0.00001, "1E-05"),
            (999_999.0, "999999.0"),
            (123_456.75, "123456.75"),
            (1e6, "1E+06"),
            (1_234_567.5, "1.2345675E+06"),
            (-1.5e-7, "-1.5E-07"),
            (f64::MAX, "1.7976931348623157E+308"),
            (5e-324, "5E-324"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(value), text);
        }
    }
}
