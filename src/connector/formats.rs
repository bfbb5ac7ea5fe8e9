//! How a definition chooses a format and sets it: the options that start with its name.

use super::options::{Named, OptionSpec, Options, Preset, Takes};
use crate::error::Result;
use crate::format::Format;

/// What a format says of itself.
#[derive(Debug, Clone, Copy)]
pub struct FormatSpec {
    /// Its name, as `'format' = '…'` has it.
    pub name: &'static str,
    /// What a record is, in a sentence without its full stop.
    pub about: &'static str,
    /// Its own options.
    pub options: &'static [&'static OptionSpec],
}

/// The formats that come with Highwater.
pub const FORMATS: &[FormatSpec] = &[
    FormatSpec {
        name: "raw",
        about: "The record is the value of the one column, STRING or BYTES; also called `text`",
        options: &[],
    },
    FormatSpec {
        name: "json",
        about: "An object a record, columns by name",
        options: &[&JSON_NULLS, &JSON_TIMESTAMPS],
    },
    FormatSpec { name: "csv", about: "Fields by position", options: &[&CSV_DELIMITER, &CSV_NULL] },
];

// not `Required`: where records have two parts, each part's own option will do
pub(in crate::connector) const FORMAT: OptionSpec = OptionSpec::both(
    "format",
    Takes::Name("format", &["json", "csv", "raw", "text"]),
    Preset::None(""),
    "how records are written",
);

const JSON_NULLS: OptionSpec = OptionSpec::writing(
    "json.encode.nulls",
    Takes::Flag,
    Preset::Is("true"),
    "whether NULL is written, rather than left out",
);

const JSON_TIMESTAMPS: OptionSpec = OptionSpec::writing(
    "json.timestamp-format.standard",
    Takes::Choice(&["SQL", "ISO-8601"]),
    Preset::Is("SQL"),
    "how timestamps are written: with a space or a `T` in the middle",
);

const CSV_DELIMITER: OptionSpec = OptionSpec::both(
    "csv.delimiter",
    Takes::Form("a character"),
    Preset::Is(","),
    "what stands between fields; `\\t` is a tab",
);

const CSV_NULL: OptionSpec = OptionSpec::both("csv.null", Takes::Text, Preset::Is(""), "the text that stands for NULL");

/// The options that choose and set a format where its names start with `prefix`.
pub(super) fn declared(prefix: &str) -> impl Iterator<Item = Named<'static>> {
    // the parts of a record need a format each only if its connector says so
    let own = FORMATS.iter().flat_map(|format| format.options).copied();
    [&FORMAT].into_iter().chain(own).map(move |spec| spec.under(prefix))
}

impl Options {
    /// True if the format that option `{prefix}format` names is given.
    pub fn has_format(&self, prefix: &str) -> bool {
        self.is_given(FORMAT.under(prefix))
    }

    /// The format that option `{prefix}format` names, with its settings from `{prefix}json.…` and `{prefix}csv.…`; the
    /// prefix is empty, or `key.` or `value.` where a record has two parts.
    pub fn format(&self, prefix: &str) -> Result<Format> {
        let name = self.required(FORMAT.under(prefix))?;
        FORMAT.takes.check(name).map_err(|error| self.misvalued(FORMAT.under(prefix), error))?;
        let mut format = Format::named(name)?;
        match &mut format {
            Format::Raw => {}
            Format::Json(json) => {
                json.nulls = self.flag(JSON_NULLS.under(prefix))?;
                json.iso_timestamps = self.choice(JSON_TIMESTAMPS.under(prefix))? == "ISO-8601";
            }
            Format::Csv(csv) => {
                csv.delimiter = match self.required(CSV_DELIMITER.under(prefix))?.as_bytes() {
                    br"\t" => b'\t',
                    [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
                    _ => {
                        let reason = "not one ASCII character other than a quote or a newline";
                        return Err(self.wrong(CSV_DELIMITER.under(prefix), reason));
                    }
                };
                csv.null = self.required(CSV_NULL.under(prefix))?.to_owned();
            }
        }
        Ok(format)
    }
}
