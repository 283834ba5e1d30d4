//! The configuration that takes effect: the settings, and the defaults of keys that are not set.

use super::{
    ConfigError, mask, paths,
    schema::{self, KEYS},
    to_document, with_defaults,
};
use crate::model::config::Config;
use bson::Document;
use serde_json::Value;
use std::collections::BTreeMap;

/// The configuration with every default. Secrets are hidden.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    pub value: Value,
    /// The values that come from a default, by their dotted keys. A value has a remark if it does not explain itself.
    pub defaults: BTreeMap<&'static str, &'static str>,
}

/// Adds the defaults of keys that are not set. Of the storage types, only the one in use gets its defaults.
///
/// # Errors
/// The configuration can't be converted to a document.
pub fn effective(config: &Config) -> Result<Effective, ConfigError> {
    let document = |config: &Config| to_document(config).map_err(|error| ConfigError::Document(error.to_string()));
    let (set, full) = (document(config)?, document(&with_defaults(config.clone()))?);
    let storage = format!("storage.{}.", config.storage.kind);
    let (mut doc, mut defaults) = (Document::new(), BTreeMap::new());
    for key in KEYS {
        let here = !key.path.starts_with("storage.") || key.path.starts_with(&storage);
        let preset = key.default.filter(|_| here);
        let default = preset.and_then(|preset| key.kind.parse(preset.value?).ok());
        let Some(value) = paths::lookup(&full, key.path).cloned().or_else(|| default.clone()) else { continue };
        if preset.is_some() && (paths::lookup(&set, key.path).is_none() || default.as_ref() == Some(&value)) {
            defaults.insert(key.path, preset.map_or("", |preset| preset.words));
        }
        paths::put(&mut doc, key.path, value);
    }
    Ok(Effective { value: mask::masked(&doc, ""), defaults })
}

impl Effective {
    /// Returns the configuration as YAML. A comment marks each default.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut out = String::new();
        self.write(&self.value, "", &mut out);
        out.trim_end().to_owned()
    }

    fn write(&self, value: &Value, at: &str, out: &mut String) {
        let depth = if at.is_empty() { 0 } else { at.split('.').count() };
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            let head = format!("{}{}:", "  ".repeat(depth), scalar(&Value::from(name.as_str())));
            match value {
                // The entries of a map are not treated as groups, because their names may contain dots.
                Value::Object(map) if schema::find(&path).is_some() && !map.is_empty() => {
                    out.push_str(&format!("{head}\n"));
                    for (name, value) in map {
                        let name = scalar(&Value::from(name.as_str()));
                        out.push_str(&format!("{}{name}: {}\n", "  ".repeat(depth + 1), scalar(value)));
                    }
                }
                Value::Object(map) if !map.is_empty() => {
                    out.push_str(&format!("{head}\n"));
                    self.write(value, &path, out);
                }
                value => {
                    let remark = match self.defaults.get(path.as_str()).copied() {
                        None => String::new(),
                        Some("") => "  # default".to_owned(),
                        Some(words) => format!("  # default: {words}"),
                    };
                    out.push_str(&format!("{head} {}{remark}\n", scalar(value)));
                }
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    // The value is written in one line, whatever it contains. JSON is valid YAML.
    match serde_norway::to_string(value) {
        Ok(text) if text.trim_end().lines().count() == 1 => text.trim_end().to_owned(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> Effective {
        effective(&super::super::load(yaml).expect("a good file")).expect("effective")
    }

    #[test]
    fn defaults_are_filled_in_and_marked() {
        let it = of("storage: {type: filesystem, filesystem: {path: /b}}\nbackup: {compression: zstd}\n\
                     pitr: {enabled: true, priority: {h:1: 2}}");
        let filesystem = &it.value["storage"]["filesystem"];
        assert_eq!((&filesystem["path"], &filesystem["maxObjSizeGB"]), (&"/b".into(), &5018.into()));
        assert!(it.value["storage"]["s3"].is_null());
        assert_eq!((&it.value["pitr"]["oplogSpanMin"], &it.value["pitr"]["compression"]), (&10.into(), &"zstd".into()));
        let yaml = it.yaml();
        for line in [
            "    path: /b\n",
            "    maxObjSizeGB: 5018  # default\n",
            "  enabled: true\n",
            "  oplogSpanMin: 10  # default\n",
            "  priority:\n    h:1: 2\n",
            "  compression: zstd  # default: as backup.compression\n",
            "  oplogSpanMin: 0  # default: as pitr.oplogSpanMin\n",
            "  compression: zstd\n",
            "    startingStatus: 33  # default\n",
            "  batchSize: 100000  # default\n",
        ] {
            assert!(yaml.contains(line), "{line}\n{yaml}");
        }
        let plain: serde_norway::Value = serde_norway::from_str(&yaml).expect("YAML");
        assert_eq!(serde_json::to_value(plain).expect("JSON"), it.value);
        super::super::load(&yaml).expect("what is shown can be applied");
    }

    #[test]
    fn secrets_stay_hidden() {
        let it = of(
            "storage: {type: s3, s3: {bucket: b, credentials: {access-key-id: hunter1, secret-access-key: hunter2}}}",
        );
        let yaml = it.yaml();
        assert!(yaml.contains("secret-access-key: '***'") && !yaml.contains("hunter"), "{yaml}");
        assert!(yaml.contains("region: us-east-1  # default\n"), "{yaml}");
        assert!(yaml.contains("minRetryDelay: 200000000  # default: 200ms\n"), "{yaml}");
    }
}
