//! Sizes in bytes, written as people write them: `512MiB`, `8GiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};

/// A number of bytes. JSON answers carry the number; requests may also use text such as `"8GiB"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ByteSize(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("`{0}` is not a size; write a number and a unit, such as 512MiB or 8GiB")]
    Syntax(String),
    #[error("`{0}` is larger than the 16 EiB a size can be")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
];

impl ByteSize {
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let syntax = || SizeError::Syntax(text.escape_debug().to_string());
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(syntax)?.1;
        if number.is_empty() {
            return Err(syntax());
        }
        let too_large = || SizeError::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(factor).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that says it exactly, else one decimal of the largest that fits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SCALE: [(&str, u64); 5] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let (unit, factor) =
            SCALE.into_iter().find(|(_, factor)| self.0 >= *factor).unwrap_or(("B", 1));
        if self.0.is_multiple_of(factor) {
            return f.pad(&format!("{}{unit}", self.0 / factor));
        }
        let tenths = u128::from(self.0) * 10 / u128::from(factor);
        f.pad(&format!("{}.{}{unit}", tenths / 10, tenths % 10))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size in bytes, or text such as \"8GiB\"")]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl utoipa::__dev::ComposeSchema for ByteSize {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::from_iter([
                Type::Integer,
                Type::String,
            ]))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .description(Some("Bytes. Requests may also use text such as \"8GiB\"."))
            .into()
    }
}
impl ToSchema for ByteSize {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, bytes| assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        check("0", 0);
        check("512MiB", 512 << 20);
        check("8 gib", 8 << 30);
        check("2G", 2 << 30);
        check("1kb", 1000);
        for bad in ["", "GiB", "-1", "1.5GiB", "8 apples", "99999999999999999999", "17000000TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_fitting_unit() {
        let check = |bytes, text: &str| assert_eq!(ByteSize(bytes).to_string(), text);
        check(0, "0B");
        check(1023, "1023B");
        check(8 << 30, "8GiB");
        check(1536, "1.5KiB");
        check((5 << 30) + 1, "5.0GiB");
        check(u64::MAX, "16777215.9TiB");
    }

    #[test]
    fn json_takes_numbers_and_text() {
        assert_eq!(serde_json::from_str::<ByteSize>("\"1GiB\"").unwrap(), ByteSize::gib(1));
        assert_eq!(serde_json::from_str::<ByteSize>("5").unwrap(), ByteSize(5));
        assert!(serde_json::from_str::<ByteSize>("-5").is_err());
    }
}
