//! An execution provider of ONNX Runtime's, as a model's configuration asks for it.

use crate::features::PROVIDERS;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;
use std::collections::BTreeMap;
use std::fmt;

/// One of a model's `providers`. In JSON also its name alone.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    pub name: String,
    /// Whether the model fails to load if it cannot be used, rather than go on with the next one.
    pub required: bool,
    /// ONNX Runtime's own keys for it.
    pub options: BTreeMap<String, ProviderOption>,
}

/// What an option is set to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ProviderOption {
    Flag(bool),
    Number(Number),
    Text(String),
}

impl ProviderConfig {
    /// Nothing but the name.
    pub fn bare(name: &str) -> Self {
        ProviderConfig { name: name.into(), required: false, options: BTreeMap::new() }
    }
}

impl Serialize for ProviderConfig {
    /// As short as it may be said.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            name: &'a str,
            required: bool,
            options: &'a BTreeMap<String, ProviderOption>,
        }
        if *self == ProviderConfig::bare(&self.name) {
            return to.serialize_str(&self.name);
        }
        Whole { name: &self.name, required: self.required, options: &self.options }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for ProviderConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            name: String,
            #[serde(default)]
            required: bool,
            #[serde(default)]
            options: BTreeMap<String, ProviderOption>,
        }
        struct ProviderVisitor;
        impl<'de> Visitor<'de> for ProviderVisitor {
            type Value = ProviderConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a provider's name, or an object with its \"name\"")
            }

            fn visit_str<E>(self, name: &str) -> Result<ProviderConfig, E> {
                Ok(ProviderConfig::bare(name))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ProviderConfig, A::Error> {
                if !PROVIDERS.built {
                    return Err(A::Error::custom(PROVIDERS.missing()));
                }
                let Whole { name, required, options } = Whole::deserialize(MapAccessDeserializer::new(map))?;
                if options.keys().any(|key| key.is_empty() || key.contains('\0')) {
                    return Err(A::Error::custom("a key of \"options\" is empty, or has a NUL in it"));
                }
                Ok(ProviderConfig { name, required, options })
            }
        }
        from.deserialize_any(ProviderVisitor)
    }
}

impl<'de> Deserialize<'de> for ProviderOption {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OptionVisitor;
        impl Visitor<'_> for OptionVisitor {
            type Value = ProviderOption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, true or false")
            }

            fn visit_bool<E>(self, flag: bool) -> Result<ProviderOption, E> {
                Ok(ProviderOption::Flag(flag))
            }

            fn visit_u64<E>(self, number: u64) -> Result<ProviderOption, E> {
                Ok(ProviderOption::Number(number.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<ProviderOption, E> {
                Ok(ProviderOption::Number(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<ProviderOption, E> {
                Number::from_f64(number)
                    .map(ProviderOption::Number)
                    .ok_or_else(|| E::custom("must be finite"))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ProviderOption, E> {
                if text.contains('\0') {
                    return Err(E::custom("has a NUL in it"));
                }
                Ok(ProviderOption::Text(text.into()))
            }
        }
        from.deserialize_any(OptionVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<ProviderConfig>, String> {
        let mut from = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut from).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_objects_may_be_mixed() {
        let json =
            r#"[{"name":"cuda","required":true,"options":{"device_id":1,"use_tf32":false,"x":"y"}},"cpu"]"#;
        let providers = read(json).unwrap();
        assert_eq!(providers[1], ProviderConfig::bare("cpu"));
        assert!(providers[0].required && providers[0].name == "cuda");
        assert_eq!(providers[0].options["device_id"], ProviderOption::Number(1.into()));
        assert_eq!(providers[0].options["use_tf32"], ProviderOption::Flag(false));
        assert_eq!(providers[0].options["x"], ProviderOption::Text("y".into()));
        let written = serde_json::to_value(&providers).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).unwrap());
        let plain = read(r#"[{"name":"cuda"}]"#).unwrap();
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"["cuda"]"#);
    }

    #[test]
    fn errors_name_the_path() {
        for (json, path) in [
            (r#"["cpu", 5]"#, "[1]: "),
            (r#"[null]"#, "[0]: "),
            (r#"[["cuda"]]"#, "[0]: "),
            (r#"[{}]"#, "[0]: missing field `name`"),
            (r#"[{"name": "cuda", "option": {}}]"#, "[0].option: "),
            (r#"[{"name": "cuda", "required": 1}]"#, "[0].required: "),
            (r#"[{"name": "cuda", "options": []}]"#, "[0].options: "),
            (r#"[{"name": "cuda", "options": {"a": null}}]"#, "[0].options.a: "),
            (r#"[{"name": "cuda", "options": {"a": [1]}}]"#, "[0].options.a: "),
            (r#"[{"name": "cuda", "options": {"a": {"b": 1}}}]"#, "[0].options.a: "),
            (r#"[{"name": "cuda", "options": {"a": "b\u0000"}}]"#, "[0].options.a: "),
            (r#"[{"name": "cuda", "options": {"": 1}}]"#, "[0]: "),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.starts_with(path), "{json}: {message}");
        }
    }
}
