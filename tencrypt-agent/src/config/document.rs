//! A parsed TOML document whose values know their line and their field.

use std::{fmt, ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{ConfigError, line_after};

/// Longest list: comparing each entry with all others stays within milliseconds.
const MAX_LIST: usize = 1_024;

/// The text and the file it is from.
#[derive(Clone, Copy)]
pub(super) struct Document<'d> {
    pub(super) text: &'d str,
    pub(super) path: &'d Path,
}

impl<'d> Document<'d> {
    pub(super) fn parse(self) -> Result<Spanned<DeTable<'d>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let at = error.span().unwrap_or(0..0);
            // A repeated key is named by its span.
            let named = self.text.get(at.clone()).unwrap_or_default();
            let is_key = error.message().contains("duplicate key")
                && named.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.\"'".contains(&byte));
            self.error(at, if is_key { named } else { "" }, error.message().replace('\n', ", "))
        })
    }

    fn error(self, at: Range<usize>, field: &str, reason: impl fmt::Display) -> ConfigError {
        let before = self.text.as_bytes().get(..at.start).unwrap_or(self.text.as_bytes());
        ConfigError::new(self.path, line_after(before), field, reason)
    }
}

/// A table whose keys are all known.
pub(super) struct Section<'d> {
    document: Document<'d>,
    name: String,
    at: Range<usize>,
    table: Option<&'d DeTable<'d>>,
}

impl<'d> Section<'d> {
    pub(super) fn root(
        document: Document<'d>,
        table: &'d DeTable<'d>,
        keys: &[&str],
    ) -> Result<Self, ConfigError> {
        Self { document, name: String::new(), at: 0..0, table: Some(table) }.with_keys(keys)
    }

    fn with_keys(self, keys: &[&str]) -> Result<Self, ConfigError> {
        for (key, _) in self.table.into_iter().flatten() {
            let known = keys.contains(&key.get_ref().as_ref());
            if !known {
                let field = self.field(key.get_ref());
                let reason = format!("unknown key; known here: {}", keys.join(", "));
                return Err(self.document.error(key.span(), &field, reason));
            }
        }
        Ok(self)
    }

    /// The table at `key`, an empty one if it is absent.
    pub(super) fn section(&self, key: &str, keys: &[&str]) -> Result<Self, ConfigError> {
        match self.value(key) {
            Some(value) => value.section(keys),
            None => {
                Ok(Self { document: self.document, name: self.field(key), at: self.at.clone(), table: None })
            }
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<Value<'d>> {
        let (_, value) = self.table?.iter().find(|(known, _)| known.get_ref() == key)?;
        Some(Value { document: self.document, field: self.field(key), value })
    }

    /// The value at `key`, which must be there.
    pub(super) fn required(&self, key: &str) -> Result<Value<'d>, ConfigError> {
        self.value(key).ok_or_else(|| self.document.error(self.at.clone(), &self.field(key), "missing"))
    }

    /// Every element of the array at `key`, none if it is absent.
    pub(super) fn elements(&self, key: &str) -> Result<Vec<Value<'d>>, ConfigError> {
        self.value(key).map_or(Ok(Vec::new()), |value| value.elements())
    }

    /// As [`elements`](Self::elements), for a list each of whose entries is compared with all others.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Value<'d>>, ConfigError> {
        let elements = self.elements(key)?;
        match elements.get(MAX_LIST) {
            Some(value) => Err(value.refuse(format_args!("more than {MAX_LIST} entries"))),
            None => Ok(elements),
        }
    }

    fn field(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// A value, its line and its field.
pub(super) struct Value<'d> {
    document: Document<'d>,
    field: String,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    /// An error about this value.
    pub(super) fn refuse(&self, reason: impl fmt::Display) -> ConfigError {
        self.document.error(self.value.span(), &self.field, reason)
    }

    pub(super) fn string(&self) -> Result<&'d str, ConfigError> {
        self.value.get_ref().as_str().ok_or_else(|| self.mistyped("a string"))
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.mistyped("true or false"))
    }

    /// A port, which is never 0.
    pub(super) fn port(&self) -> Result<u16, ConfigError> {
        let expected = "a port from 1 to 65535";
        let integer = self.value.get_ref().as_integer().ok_or_else(|| self.mistyped(expected))?;
        match u16::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(port @ 1..) => Ok(port),
            _ => Err(self.refuse(format_args!("expected {expected}, found {integer}"))),
        }
    }

    /// A number of events a second, which is never 0: that would be a way to turn something off by mistake.
    pub(super) fn rate(&self) -> Result<u32, ConfigError> {
        let expected = "a number a second from 1 to 1000000";
        let integer = self.value.get_ref().as_integer().ok_or_else(|| self.mistyped(expected))?;
        match u32::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(rate @ 1..=1_000_000) => Ok(rate),
            _ => Err(self.refuse(format_args!("expected {expected}, found {integer}"))),
        }
    }

    /// An integer of at most 64 bits; larger ones count as the largest.
    pub(super) fn integer(&self) -> Result<i64, ConfigError> {
        let integer = self.value.get_ref().as_integer().ok_or_else(|| self.mistyped("a number"))?;
        Ok(i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i64::MAX))
    }

    /// One of the words in `choices`.
    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let word = self.string()?;
        choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.refuse(format_args!("expected {}, found {word:?}", names.join(" or ")))
        })
    }

    pub(super) fn elements(&self) -> Result<Vec<Self>, ConfigError> {
        let array = self.value.get_ref().as_array().ok_or_else(|| self.mistyped("an array"))?;
        Ok((1..)
            .zip(array.iter())
            .map(|(number, value): (usize, _)| Self {
                document: self.document,
                field: format!("{}[{number}]", self.field),
                value,
            })
            .collect())
    }

    /// The table this is, whose keys are all in `keys`.
    pub(super) fn section(&self, keys: &[&str]) -> Result<Section<'d>, ConfigError> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.mistyped("a table"))?;
        let (document, at) = (self.document, self.value.span());
        Section { document, name: self.field.clone(), at, table: Some(table) }.with_keys(keys)
    }

    /// The keys and values of the table this is, whatever the keys.
    pub(super) fn entries(&self) -> Result<Vec<(&'d str, Self)>, ConfigError> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.mistyped("a table"))?;
        Ok(table
            .iter()
            .map(|(key, value)| {
                let field = format!("{}.{}", self.field, key.get_ref());
                (key.get_ref().as_ref(), Self { document: self.document, field, value })
            })
            .collect())
    }

    fn mistyped(&self, expected: &str) -> ConfigError {
        self.refuse(format_args!("expected {expected}, found {}", self.value.get_ref().type_str()))
    }
}
