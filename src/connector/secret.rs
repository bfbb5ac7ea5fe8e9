//! Values that stand somewhere else: `${env:NAME}` and `${file:/path}` in an option's value.
//!
//! A definition is shown, compared and kept, so it had better hold no password. What a reference stands for is looked up in
//! the process that needs it, when it needs it, and goes nowhere else: no message has it. `$${` is a plain `${`.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Larger files hold no secret.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An option's value that nobody is to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value as the definition has it.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// True if it stands elsewhere, at least in part.
    pub fn is_reference(&self) -> bool {
        has_references(&self.0)
    }

    /// The value itself.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid), naming the variable or the file that is not there.
    pub fn reveal(&self) -> Result<String> {
        resolve(&self.0).map(Cow::into_owned)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// True if parts of `text` stand elsewhere.
pub(super) fn has_references(text: &str) -> bool {
    text.contains("${")
}

/// `text` with what its references stand for.
pub(super) fn resolve(text: &str) -> Result<Cow<'_, str>> {
    if !has_references(text) {
        return Ok(Cow::Borrowed(text));
    }
    let (mut resolved, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("${") {
        let (before, reference) = (&rest[..start], &rest[start + 2..]);
        if let Some(plain) = before.strip_suffix('$') {
            resolved.push_str(plain);
            resolved.push_str("${");
            rest = reference;
            continue;
        }
        resolved.push_str(before);
        let help = "references are ${env:NAME} and ${file:/path}; a plain ${ is written $${";
        let Some((reference, after)) = reference.split_once('}') else {
            return Err(Error::invalid("a reference has no end").help(help));
        };
        resolved.push_str(&match reference.split_once(':') {
            Some(("env", name)) => variable(name)?,
            Some(("file", path)) => file(Path::new(path))?,
            Some((kind, _)) => return Err(Error::invalid(format!("there are no references to '{kind}:'")).help(help)),
            None => return Err(Error::invalid("a reference does not say to what").help(help)),
        });
        rest = after;
    }
    resolved.push_str(rest);
    Ok(Cow::Owned(resolved))
}

fn variable(name: &str) -> Result<String> {
    let wrong = |what| Error::invalid(format!("environment variable '{name}' {what}"));
    match std::env::var(name) {
        Ok(value) => Ok(value),
        Err(std::env::VarError::NotPresent) => Err(wrong("is not set").help("set it where the pipeline runs")),
        Err(std::env::VarError::NotUnicode(_)) => Err(wrong("is not UTF-8")),
    }
}

/// What is in a file, without the end of its last line.
fn file(path: &Path) -> Result<String> {
    let wrong = |what: String| Error::invalid(format!("file '{}' {what}", path.display()));
    let unreadable =
        |error: std::io::Error| wrong(format!("cannot be read: {error}")).help("is it where the pipeline runs?");
    let metadata = path.metadata().map_err(unreadable)?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(wrong("is too large for a value".into()));
    }
    let mut text = std::fs::read_to_string(path).map_err(unreadable)?;
    if text.ends_with('\n') {
        text.pop();
        text.truncate(text.trim_end_matches('\r').len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(text: &str, expected: &str) {
        let found = resolve(text).map_or_else(|error| format!("error: {error}"), Cow::into_owned);
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn references_are_looked_up_and_what_is_missing_is_named() {
        let path_variable = std::env::var("PATH").unwrap();
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(b"two\nlines\r\n").unwrap();
        let path = secret.path().display();
        check("plain $5 {x}", "plain $5 {x}");
        check("${env:PATH}/x", &format!("{path_variable}/x"));
        check(&format!("<${{file:{path}}}>"), "<two\nlines>");
        check("a$${b}", "a${b}");
        check("${env:NO_SUCH_THING}", "error: environment variable 'NO_SUCH_THING' is not set");
        check("${file:/no/such}", "error: file '/no/such' cannot be read: No such file or directory (os error 2)");
        check("${vault:x}", "error: there are no references to 'vault:'");
        check("secret${x", "error: a reference has no end");
        check("${hunter2}", "error: a reference does not say to what");
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret");
    }
}
