//! Path and query parameters: between flat structs and `name=value` pairs.
//!
//! Not `serde_urlencoded`, because that neither reads nor writes a parameter given several times,
//! and does not say which parameter is wrong.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::value::{SeqDeserializer, StringDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    Visitor,
};
use serde_json::Value;

/// What stays as it is in a path segment: RFC 3986 `unreserved`.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A parameter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParamError {
    pub(crate) field: Option<String>,
    pub(crate) reason: String,
}

impl ParamError {
    fn of(mut self, field: &str) -> Self {
        self.field.get_or_insert_with(|| field.to_owned());
        self
    }
}
impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
impl std::error::Error for ParamError {}
impl serde::de::Error for ParamError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { field: None, reason: reason.to_string() }
    }
}

/// Reads a flat struct from decoded pairs.
pub(crate) fn parse<T: DeserializeOwned>(pairs: Vec<(String, String)>) -> Result<T, ParamError> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in pairs {
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => groups.push((name, vec![value])),
        }
    }
    T::deserialize(Parameters { groups: groups.into_iter(), current: None })
}

/// Reads a flat struct from a query string.
pub(crate) fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, ParamError> {
    let pairs = serde_urlencoded::from_str(query).map_err(ParamError::custom)?;
    parse(pairs)
}

/// A flat struct as pairs: absent fields left out, a `Vec` as a repeated parameter.
pub(crate) fn pairs<T: Serialize>(params: &T) -> Result<Vec<(String, String)>, String> {
    let value = serde_json::to_value(params).map_err(|error| error.to_string())?;
    let Value::Object(fields) = value else {
        return Err("parameters must be a struct".to_owned());
    };
    let mut pairs = Vec::new();
    for (name, value) in fields {
        let values = match value {
            Value::Array(values) => values,
            single => vec![single],
        };
        for value in values {
            match value {
                Value::Null => {}
                Value::String(text) => pairs.push((name.clone(), text)),
                Value::Bool(_) | Value::Number(_) => pairs.push((name.clone(), value.to_string())),
                Value::Array(_) | Value::Object(_) => {
                    return Err(format!("parameter `{name}` must be flat"));
                }
            }
        }
    }
    Ok(pairs)
}

/// `/v1/vms/{vm}` with its parameters filled in and percent-encoded.
pub(crate) fn fill_path<T: Serialize>(template: &str, params: &T) -> Result<String, String> {
    let pairs = pairs(params)?;
    let mut path = String::with_capacity(template.len() + 32);
    for segment in template.split('/').skip(1) {
        path.push('/');
        let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            path.push_str(segment);
            continue;
        };
        let value = pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        match value {
            // `.` and `..` would be resolved away by whoever reads the URL, encoded or not.
            None | Some("" | "." | "..") => {
                return Err(format!("`{}` cannot be the {name} in a path", value.unwrap_or("")));
            }
            Some(value) => path.extend(utf8_percent_encode(value, SEGMENT)),
        }
    }
    Ok(path)
}

struct Parameters {
    groups: std::vec::IntoIter<(String, Vec<String>)>,
    current: Option<(String, Vec<String>)>,
}

impl<'de> Deserializer<'de> for Parameters {
    type Error = ParamError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_map(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de> MapAccess<'de> for Parameters {
    type Error = ParamError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ParamError> {
        let Some(group) = self.groups.next() else { return Ok(None) };
        let (name, _) = self.current.insert(group);
        let key: StringDeserializer<ParamError> = name.clone().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.of(name))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ParamError> {
        let (name, values) =
            self.current.take().ok_or_else(|| ParamError::custom("a value before its name"))?;
        seed.deserialize(Values(values)).map_err(|error| error.of(&name))
    }
}

/// The values of one parameter.
struct Values(Vec<String>);

impl Values {
    fn single(mut self) -> Result<String, ParamError> {
        match (self.0.pop(), self.0.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => Err(ParamError::custom("is given more than once")),
        }
    }

    fn parsed<T: FromStr>(self, expected: &str) -> Result<T, ParamError> {
        let text = self.single()?;
        text.parse()
            .map_err(|_| ParamError::custom(format!("`{}` is not {expected}", text.escape_debug())))
    }

    fn natural<T: FromStr>(self) -> Result<T, ParamError> {
        self.parsed("a whole number in its range")
    }
}

impl IntoDeserializer<'_, ParamError> for Values {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Values {
    type Error = ParamError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_string(self.single()?)
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match self.single()?.as_str() {
            // `?follow` alone means yes.
            "true" | "1" | "" => visitor.visit_bool(true),
            "false" | "0" => visitor.visit_bool(false),
            _ => Err(ParamError::custom("must be `true` or `false`")),
        }
    }
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_u8(self.natural()?)
    }
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_u16(self.natural()?)
    }
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_u32(self.natural()?)
    }
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_u64(self.natural()?)
    }
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_i32(self.natural()?)
    }
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_i64(self.natural()?)
    }
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_f64(self.parsed("a number")?)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_some(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        let single = |value| Self(vec![value]);
        visitor.visit_seq(SeqDeserializer::new(self.0.into_iter().map(single)))
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        let variant: StringDeserializer<ParamError> = self.single()?.into_deserializer();
        variant.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct map
        struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Query {
        #[serde(default)]
        limit: Option<u32>,
        #[serde(default)]
        label: Vec<String>,
        #[serde(default)]
        follow: bool,
        #[serde(default)]
        mode: Option<Mode>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
    }

    #[derive(Debug, Serialize)]
    struct Path {
        vm: String,
    }

    #[test]
    fn what_is_written_is_read_back() {
        let query = Query {
            limit: Some(5),
            label: vec!["a=b&c".to_owned(), "d=ü +".to_owned()],
            follow: true,
            mode: Some(Mode::Fast),
        };
        let text = serde_urlencoded::to_string(pairs(&query).unwrap()).unwrap();
        assert_eq!(parse_query::<Query>(&text).unwrap(), query);
        assert_eq!(parse_query::<Query>("").unwrap(), Query::default());
        assert!(parse_query::<Query>("follow").unwrap().follow);
    }

    #[test]
    fn an_error_names_the_parameter() {
        let check = |query: &str, field: &str, reason: &str| {
            let error = parse_query::<Query>(query).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{query}");
            assert!(error.reason.contains(reason), "{query}: {error}");
        };
        check("limit=-1", "limit", "whole number");
        check("limit=5000000000", "limit", "whole number");
        check("limit=1&limit=2", "limit", "more than once");
        check("limt=1", "limt", "unknown field `limt`");
        check("follow=yes", "follow", "`true` or `false`");
        check("mode=slow", "mode", "unknown variant `slow`");
    }

    #[test]
    fn path_parameters_cannot_leave_their_segment() {
        let fill = |vm: &str| fill_path("/v1/vms/{vm}/start", &Path { vm: vm.to_owned() });
        assert_eq!(fill("web01").unwrap(), "/v1/vms/web01/start");
        assert_eq!(fill("a/../b?c#d%").unwrap(), "/v1/vms/a%2F..%2Fb%3Fc%23d%25/start");
        for bad in ["", ".", ".."] {
            assert!(fill(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives_a_query(label in proptest::collection::vec(".*", 0..4)) {
            let query = Query { label, ..Query::default() };
            let text = serde_urlencoded::to_string(pairs(&query).unwrap()).unwrap();
            assert_eq!(parse_query::<Query>(&text).unwrap(), query);
        }

        #[test]
        fn no_text_leaves_its_path_segment(vm in ".*") {
            if let Ok(path) = fill_path("/v1/vms/{vm}/start", &Path { vm }) {
                assert_eq!(path.matches('/').count(), 4, "{path}");
                assert!(!path.contains(['?', '#', ' ', '\n']), "{path}");
            }
        }

        #[test]
        fn no_query_is_too_strange(query in ".*") {
            let _ = parse_query::<Query>(&query);
        }
    }
}
