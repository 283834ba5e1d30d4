//! Values that completion offers and the help lists, for arguments whose parser accepts more values than these or reports
//! mistakes better than clap.

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
};
use std::ffi::OsStr;

/// A parser that accepts what `parser` accepts, and offers `values` to completion and help.
pub fn offering<P: TypedValueParser>(parser: P, values: &'static [&'static str]) -> Offering<P> {
    Offering { parser, values }
}

/// Made by [`offering`].
#[derive(Debug, Clone)]
pub struct Offering<P> {
    parser: P,
    values: &'static [&'static str],
}

impl<P: TypedValueParser> TypedValueParser for Offering<P> {
    type Value = P::Value;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Self::Value, Error> {
        self.parser.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.values.iter().map(PossibleValue::new)))
    }
}
