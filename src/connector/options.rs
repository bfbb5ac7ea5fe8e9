//! What WITH (…) may say, each option declared once.
//!
//! An [`OptionSpec`] has an option's name, what it takes, what holds without it, and what it is for. From the same
//! declaration come the value that a connector reads, the refusal of a misspelt name or value, and the tables in docs/.
//!
//! ```text
//! const SPLITS: OptionSpec = OptionSpec::both("splits", Takes::Whole(1, 1024), Preset::Is("4"), "how many …");
//!
//! definition ─▶ Options ── check(declared): names and values ──▶ errors, all of them
//!                      └── whole(&SPLITS): the value or the preset ──▶ connector ── unused(…): what nobody read
//! ```
//! A value may refer to the environment or a file (see [`Secret`](super::Secret)); who reads an option gets what that stands
//! for. One definition may be both read and written, so an option may be there for the sake of the other side.

use super::secret::{has_references, resolve};
use crate::error::{Error, Excerpt, Result, nearest};
use crate::time::Micros;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// One option of a table, or one setting.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Its name. One `*` in it stands for a column's name, or for what another system calls its own options.
    pub name: &'static str,
    /// What its value may be.
    pub takes: Takes,
    /// What holds without it.
    pub preset: Preset,
    /// Which use of a table asks for it.
    pub side: Side,
    /// What it is for: a part of a sentence, in Markdown, for documents and for help.
    pub about: &'static str,
}

impl OptionSpec {
    /// An option that both sides of a table read.
    pub const fn both(name: &'static str, takes: Takes, preset: Preset, about: &'static str) -> Self {
        OptionSpec { name, takes, preset, side: Side::Both, about }
    }

    /// An option of tables that are read.
    pub const fn reading(name: &'static str, takes: Takes, preset: Preset, about: &'static str) -> Self {
        OptionSpec { name, takes, preset, side: Side::Read, about }
    }

    /// An option of tables that are written.
    pub const fn writing(name: &'static str, takes: Takes, preset: Preset, about: &'static str) -> Self {
        OptionSpec { name, takes, preset, side: Side::Written, about }
    }

    /// This option for `part`, which takes the place of its `*`.
    pub fn of<'s>(&'s self, part: &str) -> Named<'s> {
        Named { spec: self, name: self.name.replacen('*', part, 1).into() }
    }

    /// This option with `prefix` before its name.
    pub fn under<'s>(&'s self, prefix: &str) -> Named<'s> {
        Named { spec: self, name: format!("{prefix}{}", self.name).into() }
    }
}

/// What an option's value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Takes {
    /// Any text.
    Text,
    /// Text that nobody is to see: references in it are left to who uses it, see [`Secret`](super::Secret).
    Secret,
    /// Text of a form that whoever reads it checks; this is what it is called: `a tick`.
    Form(&'static str),
    /// A whole number from the first to the second.
    Whole(i128, i128),
    /// A number.
    Real,
    /// A number of bytes like `4096`, `64 KiB` or `128MB`; units are powers of 1,024.
    Bytes,
    /// A duration like `100 ms`, `5s` or `1min`.
    Duration,
    /// A duration, or `off` for none.
    DurationOrOff,
    /// `true` or `false`.
    Flag,
    /// A moment like `2026-01-01T00:00:00Z`.
    Time,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these names of things of this kind: a `format`.
    Name(&'static str, &'static [&'static str]),
}

impl Takes {
    /// Refuses a value that is not of this kind; whoever reads the option may want more of it.
    pub fn check(&self, text: &str) -> Result<()> {
        match *self {
            Takes::Text | Takes::Secret | Takes::Form(_) => Ok(()),
            Takes::Whole(least, most) => whole(text, least, most).map(drop),
            Takes::Real => real(text).map(drop),
            Takes::Bytes => bytes(text).map(drop),
            Takes::Duration => duration(text).map(drop),
            Takes::DurationOrOff => duration_or_off(text).map(drop),
            Takes::Flag => flag(text).map(drop),
            Takes::Time => time(text).map(drop),
            Takes::Choice(choices) => choice(text, choices).map(drop),
            Takes::Name(kind, names) => match names.contains(&text) {
                true => Ok(()),
                false => Err(near(kind, text, names)),
            },
        }
    }
}

/// What holds when an option is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Nothing: it must be given.
    Required,
    /// This value.
    Is(&'static str),
    /// No value; what then happens, in words, perhaps none.
    None(&'static str),
}

/// Which use of a table asks for an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Reading it.
    Read,
    /// Writing it.
    Written,
    /// Both.
    Both,
}

/// An option by the name that it has in a definition.
#[derive(Debug, Clone)]
pub struct Named<'s> {
    /// The declaration.
    pub spec: &'s OptionSpec,
    /// The name, complete.
    pub name: Cow<'s, str>,
}

impl<'s> From<&'s OptionSpec> for Named<'s> {
    fn from(spec: &'s OptionSpec) -> Self {
        Named { spec, name: Cow::Borrowed(spec.name) }
    }
}

impl Named<'_> {
    /// What stands for the `*` in `given`, or nothing without a `*`; none if `given` is another option.
    fn part<'g>(&self, given: &'g str) -> Option<&'g str> {
        match self.name.split_once('*') {
            None => (*self.name == *given).then_some(""),
            Some((before, after)) => given.strip_prefix(before)?.strip_suffix(after).filter(|part| !part.is_empty()),
        }
    }

    /// The name that somebody may have meant who wrote `given`: where there is a `*`, with the part of `given` that is there.
    fn meant(&self, given: &str) -> Cow<'_, str> {
        let Some((_, after)) = self.name.split_once('*') else { return Cow::Borrowed(&self.name) };
        let part = given.split_once('.').map(|(_, rest)| rest).and_then(|rest| match after.is_empty() {
            true => Some(rest),
            false => rest.rsplit_once('.').map(|(part, _)| part),
        });
        part.map_or(Cow::Borrowed(&self.name), |part| Cow::Owned(self.name.replacen('*', part, 1)))
    }
}

/// An option as it is given, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionText {
    /// The value.
    pub text: String,
    /// Where the name and the value stand; none when they come from a program.
    pub places: Option<(Excerpt, Excerpt)>,
}

impl From<&str> for OptionText {
    fn from(text: &str) -> Self {
        OptionText { text: text.to_owned(), places: None }
    }
}

/// A table's options, and which of them somebody has asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    given: BTreeMap<String, OptionText>,
    /// The values of options that have references, once they were looked up.
    resolved: BTreeMap<String, OnceCell<String>>,
    /// Clones share it.
    asked: Rc<RefCell<BTreeSet<String>>>,
    /// True if they are settings of the pipeline.
    settings: bool,
}

impl Options {
    /// The options as the definition gives them.
    pub fn new(given: impl IntoIterator<Item = (String, OptionText)>) -> Self {
        let given: BTreeMap<String, OptionText> = given.into_iter().collect();
        let refers = given.iter().filter(|(_, option)| has_references(&option.text));
        let resolved = refers.map(|(name, _)| (name.clone(), OnceCell::new())).collect();
        Options { given, resolved, ..Options::default() }
    }

    /// Settings of the pipeline, which messages call so.
    pub fn settings(given: impl IntoIterator<Item = (String, OptionText)>) -> Self {
        Options { settings: true, ..Options::new(given) }
    }

    fn noun(&self) -> &'static str {
        if self.settings { "setting" } else { "option" }
    }

    /// The value that is given for option `name`, with what its references stand for.
    fn look_up(&self, name: &str) -> Result<Option<&str>> {
        let text = self.given.get(name).map(|option| option.text.as_str());
        let (Some(text), Some(resolved)) = (text, self.resolved.get(name)) else { return Ok(text) };
        if resolved.get().is_none() {
            let value = resolve(text)?.into_owned();
            resolved.get_or_init(|| value);
        }
        Ok(resolved.get().map(String::as_str))
    }

    /// The same for somebody who asks for it; as it is written if it cannot be looked up, which [`Options::check`] refuses.
    fn given(&self, name: &str) -> Option<&str> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.look_up(name).unwrap_or_else(|_| self.given.get(name).map(|option| option.text.as_str()))
    }

    /// `error` about the value of option `name`, which must not be repeated if it stands elsewhere.
    fn hide(&self, name: &str, error: Error) -> Error {
        match self.given.get(name).filter(|_| self.resolved.contains_key(name)) {
            Some(option) => Error::invalid(format!("what '{}' stands for is not what it takes", option.text)),
            None => error,
        }
    }

    /// True if the definition gives `option` itself.
    pub fn is_given<'s>(&self, option: impl Into<Named<'s>>) -> bool {
        self.given.contains_key(&*option.into().name)
    }

    /// The text of `option`, as it is given or preset.
    pub fn text<'s>(&self, option: impl Into<Named<'s>>) -> Option<&str> {
        let Named { spec, name } = option.into();
        self.given(&name).or(match spec.preset {
            Preset::Is(text) => Some(text),
            Preset::Required | Preset::None(_) => None,
        })
    }

    /// The text of `option`, if the definition gives it itself.
    pub fn text_if_given<'s>(&self, option: impl Into<Named<'s>>) -> Option<&str> {
        self.given(&option.into().name)
    }

    /// The text of `option`, which must be there.
    pub fn required<'s>(&self, option: impl Into<Named<'s>>) -> Result<&str> {
        let option = option.into();
        self.look_up(&option.name).map_err(|error| self.misvalued(option.clone(), error))?;
        self.text(option.clone()).ok_or_else(|| missing(&option))
    }

    /// What `read` makes of `option` if it is given.
    pub fn if_given<'a, 's, T>(
        &'a self,
        option: impl Into<Named<'s>>,
        read: impl Fn(&'a Self, Named<'s>) -> Result<T>,
    ) -> Result<Option<T>> {
        let option = option.into();
        self.is_given(option.clone()).then(|| read(self, option)).transpose()
    }

    fn read<'a, 's, T>(&'a self, option: Named<'s>, parse: impl Fn(&'a str) -> Result<T>) -> Result<T> {
        let text = self.required(option.clone())?;
        parse(text).map_err(|error| self.misvalued(option.clone(), self.hide(&option.name, error)))
    }

    /// `option` as a whole number.
    pub fn whole<'s, T: TryFrom<i128>>(&self, option: impl Into<Named<'s>>) -> Result<T> {
        let option = option.into();
        let (least, most) = match option.spec.takes {
            Takes::Whole(least, most) => (least, most),
            _ => (i64::MIN.into(), i64::MAX.into()),
        };
        let too_large = |text: &str| Error::internal(format!("'{text}' does not fit its option"));
        self.read(option, |text| T::try_from(whole(text, least, most)?).map_err(|_| too_large(text)))
    }

    /// `option` as a number.
    pub fn real<'s>(&self, option: impl Into<Named<'s>>) -> Result<f64> {
        self.read(option.into(), real)
    }

    /// `option` as true or false.
    pub fn flag<'s>(&self, option: impl Into<Named<'s>>) -> Result<bool> {
        self.read(option.into(), flag)
    }

    /// `option` as a duration.
    pub fn duration<'s>(&self, option: impl Into<Named<'s>>) -> Result<Duration> {
        self.read(option.into(), duration)
    }

    /// `option` as a duration, none if it is `off`.
    pub fn duration_or_off<'s>(&self, option: impl Into<Named<'s>>) -> Result<Option<Duration>> {
        self.read(option.into(), duration_or_off)
    }

    /// `option` as a number of bytes.
    pub fn bytes<'s>(&self, option: impl Into<Named<'s>>) -> Result<u64> {
        self.read(option.into(), bytes)
    }

    /// `option` as a moment.
    pub fn time<'s>(&self, option: impl Into<Named<'s>>) -> Result<Micros> {
        self.read(option.into(), time)
    }

    /// `option` as one of the words that it takes.
    pub fn choice<'s>(&self, option: impl Into<Named<'s>>) -> Result<&'static str> {
        let option = option.into();
        let Takes::Choice(choices) = option.spec.takes else {
            return Err(Error::internal(format!("option '{}' has no choices", option.name)));
        };
        self.read(option, |text| choice(text, choices))
    }

    /// The given options that are `spec` with something for its `*`: that, and the value. They count as asked for.
    pub fn each<'a>(&'a self, spec: &'a OptionSpec) -> impl Iterator<Item = (&'a str, &'a OptionText)> {
        self.given.iter().filter_map(move |(name, option)| {
            let part = Named::from(spec).part(name)?;
            self.asked.borrow_mut().insert(name.clone());
            Some((part, option))
        })
    }

    /// All that are given, as they are written.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &OptionText)> {
        self.given.iter().map(|(name, option)| (name.as_str(), option))
    }

    /// What stands for the `*` of `spec` in the names that are given.
    pub fn parts<'a>(&'a self, spec: &'a OptionSpec) -> impl Iterator<Item = &'a str> {
        self.given.keys().filter_map(move |name| Named::from(spec).part(name))
    }

    /// An error about the value of `option`, with its place.
    pub fn wrong<'s>(&self, option: impl Into<Named<'s>>, reason: impl Into<String>) -> Error {
        self.misvalued(option, Error::invalid(reason))
    }

    /// An error about an option's name, with its place.
    pub fn misnamed<'s>(&self, option: impl Into<Named<'s>>, error: Error) -> Error {
        self.at_name(&option.into().name, error)
    }

    /// `error`, which is about the value of `option`, with the option's name, its place and what the option is for.
    pub fn misvalued<'s>(&self, option: impl Into<Named<'s>>, error: Error) -> Error {
        let option = option.into();
        let error = match (error.advice(), option.spec.takes) {
            (None, Takes::Choice(_)) if !option.spec.about.is_empty() => {
                let about = option.spec.about.replace('`', "'");
                error.help(about)
            }
            _ => error,
        };
        // "unknown format 'jsn'" needs no option's name
        match option.spec.takes {
            Takes::Name(..) => self.at_value(option, error),
            _ => {
                let about = format!("{} '{}'", self.noun(), option.name);
                self.at_value(option, error.about(about))
            }
        }
    }

    /// `error` at the place of the value of `option`.
    pub(super) fn at_value<'s>(&self, option: impl Into<Named<'s>>, error: Error) -> Error {
        let option = option.into();
        match self.given.get(&*option.name).and_then(|given| given.places.as_ref()) {
            Some((_, value)) => error.at(value.clone()),
            None => error,
        }
    }

    fn at_name(&self, name: &str, error: Error) -> Error {
        match self.given.get(name).and_then(|given| given.places.as_ref()) {
            Some((place, _)) => error.at(place.clone()),
            None => error,
        }
    }

    /// What is wrong with the names and values that are given, and what both sides need and is not: all of it.
    pub fn check(&self, declared: &[Named]) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut meant = BTreeSet::new();
        for (name, given) in &self.given {
            // a declared name before a pattern that it happens to fit
            let exact = declared.iter().find(|option| option.name == *name);
            let option = exact.or_else(|| declared.iter().find(|option| option.part(name).is_some()));
            match option {
                Some(option) => {
                    let named = Named { spec: option.spec, name: Cow::Borrowed(name) };
                    let checked = match option.spec.takes {
                        Takes::Secret => Ok(()),
                        takes => self.look_up(name).and_then(|text| {
                            takes.check(text.unwrap_or(&given.text)).map_err(|error| self.hide(name, error))
                        }),
                    };
                    errors.extend(checked.err().map(|error| self.misvalued(named, error)));
                }
                None => {
                    let candidates: Vec<Cow<str>> = declared.iter().map(|option| option.meant(name)).collect();
                    let error = Error::invalid(format!("unknown {} '{name}'", self.noun()));
                    let error = match nearest(name, candidates.iter().map(AsRef::as_ref)) {
                        Some(near) => {
                            meant.insert(near.to_owned());
                            error.help(format!("did you mean '{near}'?"))
                        }
                        None => {
                            let names: Vec<&str> = declared.iter().map(|option| option.name.as_ref()).collect();
                            error.help(format!("the {}s here are {}", self.noun(), names.join(", ")))
                        }
                    };
                    errors.push(self.at_name(name, error));
                }
            }
        }
        if self.settings {
            return errors;
        }
        let needed = |option: &&Named| option.spec.preset == Preset::Required && option.spec.side == Side::Both;
        let absent = declared.iter().filter(needed).filter(|option| !self.given.contains_key(&*option.name));
        errors.extend(absent.filter(|option| !meant.contains(&*option.name)).map(missing));
        errors
    }

    /// Options of a side that is used for which nobody asked: with the others as they are they change nothing.
    pub fn unused(&self, declared: &[Named], read: bool, written: bool) -> Vec<Error> {
        let asked = self.asked.borrow();
        let unasked = self.given.keys().filter(|name| !asked.contains(*name));
        let unused = unasked.filter_map(|name| {
            let option = declared.iter().find(|option| option.part(name).is_some())?;
            let used = match option.spec.side {
                Side::Read => read,
                Side::Written => written,
                Side::Both => read || written,
            };
            let about = option.spec.about.split(';').next().unwrap_or_default().replace('`', "'");
            let error = Error::invalid(format!("option '{name}' changes nothing here"));
            used.then(|| {
                self.at_name(
                    name,
                    error.help(format!("nothing asks for it, with the other options as they are: {about}")),
                )
            })
        });
        unused.collect()
    }
}

fn missing(option: &Named) -> Error {
    let name = &option.name;
    let about = option.spec.about.split(';').next().unwrap_or_default().replace('`', "'");
    let value = match option.spec.takes {
        Takes::Choice([first, ..]) | Takes::Name(_, [first, ..]) => first,
        _ => "…",
    };
    Error::invalid(format!("option '{name}' is missing")).help(match about.is_empty() {
        true => format!("add '{name}' = '{value}' to WITH"),
        false => format!("add '{name}' = '{value}' to WITH: {about}"),
    })
}

fn near(kind: &str, text: &str, names: &[&str]) -> Error {
    let error = Error::invalid(format!("unknown {kind} '{text}'"));
    match nearest(text, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("the {kind}s are {}", names.join(", "))),
    }
}

fn whole(text: &str, least: i128, most: i128) -> Result<i128> {
    let number: Option<i128> = text.replace('_', "").parse().ok();
    let number = number.ok_or_else(|| Error::invalid(format!("'{text}' is not a whole number")))?;
    match (least..=most).contains(&number) {
        true => Ok(number),
        false if most >= i64::MAX.into() => Err(Error::invalid(format!("'{text}' is less than {least}"))),
        false => Err(Error::invalid(format!("'{text}' is not from {least} to {most}"))),
    }
}

fn real(text: &str) -> Result<f64> {
    let number: Option<f64> = text.replace('_', "").parse().ok();
    number.filter(|number| number.is_finite()).ok_or_else(|| Error::invalid(format!("'{text}' is not a number")))
}

fn flag(text: &str) -> Result<bool> {
    text.parse().map_err(|_| Error::invalid(format!("'{text}' is not 'true' or 'false'")))
}

/// A duration such as `5s`.
pub fn duration(text: &str) -> Result<Duration> {
    humantime::parse_duration(text)
        .map_err(|_| Error::invalid(format!("'{text}' is not a duration")).help("write one such as '5s' or '100 ms'"))
}

fn duration_or_off(text: &str) -> Result<Option<Duration>> {
    match text.eq_ignore_ascii_case("off") {
        true => Ok(None),
        false => duration(text).map(Some),
    }
}

/// A number of bytes such as `64 MiB`.
pub fn bytes(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let power = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => Some(0),
        "k" | "kb" | "kib" => Some(1),
        "m" | "mb" | "mib" => Some(2),
        "g" | "gb" | "gib" => Some(3),
        _ => None,
    };
    let number = || text[..digits].replace('_', "").parse::<u64>().ok();
    let bytes = power.and_then(|power| number()?.checked_mul(1 << (10 * power)));
    bytes.ok_or_else(|| {
        Error::invalid(format!("'{text}' is not a number of bytes")).help("write one such as '4096' or '64 MiB'")
    })
}

fn time(text: &str) -> Result<Micros> {
    let nanos = string_to_timestamp_nanos(text).map_err(|_| {
        Error::invalid(format!("'{text}' is not a moment")).help("write one such as '2026-01-01T00:00:00Z'")
    })?;
    Ok(nanos.div_euclid(1000))
}

fn choice(text: &str, choices: &'static [&'static str]) -> Result<&'static str> {
    choices.iter().find(|choice| **choice == text).copied().ok_or_else(|| {
        let error = Error::invalid(format!("'{text}' is not one of {}", choices.join(", ")));
        match nearest(text, choices.iter().copied()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: OptionSpec = OptionSpec::both("topic", Takes::Text, Preset::Required, "where the records are");
    const ROWS: OptionSpec = OptionSpec::reading("rows", Takes::Whole(1, 9), Preset::Is("4"), "how many");
    const KIND: OptionSpec = OptionSpec::reading("fields.*.kind", Takes::Choice(&["a", "b"]), Preset::Is("a"), "");
    const OTHERS: OptionSpec = OptionSpec::both("properties.*", Takes::Secret, Preset::None(""), "");

    /// Each error as `message / help`.
    fn check(given: &[(&str, &str)], expected: &[&str]) {
        let options = Options::new(given.iter().map(|(name, text)| ((*name).to_owned(), OptionText::from(*text))));
        let declared: Vec<Named> = [&TOPIC, &ROWS, &KIND, &OTHERS].map(Named::from).into();
        let errors = options.check(&declared);
        let errors: Vec<String> =
            errors.iter().map(|error| format!("{error} / {}", error.advice().unwrap_or_default())).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn a_misspelt_name_is_said_once_even_if_the_option_is_required() {
        check(&[("topc", "words")], &["unknown option 'topc' / did you mean 'topic'?"]);
        check(&[], &["option 'topic' is missing / add 'topic' = '…' to WITH: where the records are"]);
        let help = "the options here are topic, rows, fields.*.kind, properties.*";
        check(&[("topic", "a"), ("zebra", "b")], &[&format!("unknown option 'zebra' / {help}")]);
    }

    #[test]
    fn a_star_stands_for_a_part_of_the_name() {
        check(&[("topic", "a"), ("fields.f.kind", "b"), ("properties.a.b", "x")], &[]);
        check(
            &[("topic", "a"), ("fields.f.knd", "b")],
            &["unknown option 'fields.f.knd' / did you mean 'fields.f.kind'?"],
        );
        check(
            &[("topic", "a"), ("propertes.x.y", "b")],
            &["unknown option 'propertes.x.y' / did you mean 'properties.x.y'?"],
        );
    }

    #[test]
    fn a_value_may_stand_elsewhere_and_is_not_repeated() {
        check(
            &[("topic", "${env:PATH}"), ("rows", "$${"), ("properties.x", "${env:NO_SUCH}")],
            &["option 'rows': what '$${' stands for is not what it takes / "],
        );
        check(
            &[("topic", "${env:NO_SUCH}")],
            &["option 'topic': environment variable 'NO_SUCH' is not set / set it where the pipeline runs"],
        );
        let text = OptionText::from("${env:PATH}-x");
        let options = Options::new([("topic".to_owned(), text)]);
        assert_eq!(options.required(&TOPIC).unwrap(), format!("{}-x", std::env::var("PATH").unwrap()));
    }

    #[test]
    fn values_are_read_as_what_the_option_takes() {
        check(&[("topic", "a"), ("rows", "many")], &["option 'rows': 'many' is not a whole number / "]);
        check(&[("topic", "a"), ("rows", "10")], &["option 'rows': '10' is not from 1 to 9 / "]);
        check(
            &[("topic", "a"), ("fields.x.kind", "c")],
            &["option 'fields.x.kind': 'c' is not one of a, b / did you mean 'a'?"],
        );
        let options = Options::new([]);
        assert_eq!(options.whole::<u64>(&ROWS).unwrap(), 4);
        assert_eq!(options.choice(KIND.of("f")).unwrap(), "a");
        assert_eq!((bytes("64 KiB").unwrap(), bytes("1_000").unwrap()), (65536, 1000));
        assert!(bytes("99999999999 GiB").is_err() && bytes("KiB").is_err());
        assert_eq!(time("1970-01-01T00:00:01Z").unwrap(), 1_000_000);
    }

    #[test]
    fn what_nobody_asks_for_is_named() {
        let given = [("topic", "a"), ("rows", "3")];
        let options = Options::new(given.map(|(name, text)| (name.to_owned(), OptionText::from(text))));
        let declared = [&TOPIC, &ROWS].map(Named::from);
        options.required(&TOPIC).unwrap();
        assert!(options.unused(&declared, false, true).is_empty(), "it is there for the other side");
        let unused = options.unused(&declared, true, false);
        assert_eq!(unused[0].to_string(), "option 'rows' changes nothing here");
        options.whole::<u64>(&ROWS).unwrap();
        assert!(options.unused(&declared, true, false).is_empty());
    }
}
