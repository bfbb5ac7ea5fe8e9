//! A service on the web that is asked for the row of a key: `GET` of an address with the key in it.
//!
//! ```text
//! 'url' = 'https://crm.example.com/customers/{name}'      {name} stands for the value of column `name`, percent-encoded
//! ```
//! An answer is one record in the table's format; 404 and 410 say that there is no row. Where nobody answers in time, or the service
//! says that it cannot now (408, 429, 5xx), it is asked again after a while, each time a longer one. Any other answer ends the run. No message has
//! what references in the address stand for.

use super::registry::told;
use super::{Asker, Asking, Context, Lookup, OptionSpec, Preset, Secret, Table, Takes};
use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::format::{Decode, Format};
use crate::time::Clock;
use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use reqwest::{StatusCode, Url};
use std::sync::Arc;
use std::time::Duration;

/// Where the rows are.
pub const URL: OptionSpec = OptionSpec::both(
    "url",
    Takes::Secret,
    Preset::Required,
    "the address of a row; `{column}` in it stands for the value of that column, by which the table is looked up in",
);

/// What the service is told of who asks.
pub const AUTHORIZATION: OptionSpec = OptionSpec::both(
    "http.authorization",
    Takes::Secret,
    Preset::None(""),
    "what the header `Authorization` says, best by reference: `Bearer ${env:TOKEN}`",
);

/// How many keys are remembered.
pub const CACHE_ROWS: OptionSpec = OptionSpec::both(
    "lookup.cache.max-rows",
    Takes::Whole(0, 100_000_000),
    Preset::Is("10000"),
    "how many keys each worker remembers with their rows, those without one included",
);

/// And how long.
pub const CACHE_TTL: OptionSpec = OptionSpec::both(
    "lookup.cache.ttl",
    Takes::DurationOrOff,
    Preset::Is("1 min"),
    "how long a key is remembered; with `off` until there is no room",
);

/// How many questions are under way.
pub const PARALLELISM: OptionSpec = OptionSpec::both(
    "lookup.parallelism",
    Takes::Whole(1, 256),
    Preset::Is("8"),
    "how many questions each worker may have under way at once",
);

/// How long an answer is waited for.
pub const TIMEOUT: OptionSpec =
    OptionSpec::both("lookup.timeout", Takes::Duration, Preset::Is("5 s"), "how long an answer is waited for");

/// How often it is asked for again.
pub const RETRIES: OptionSpec = OptionSpec::both(
    "lookup.retries",
    Takes::Whole(0, 1000),
    Preset::Is("5"),
    "how often a question is asked again before the pipeline fails, at first after 0.1 s, then twice as long each time up to 10 s",
);

/// All of them.
pub const OPTIONS: &[&OptionSpec] = &[&URL, &AUTHORIZATION, &CACHE_ROWS, &CACHE_TTL, &PARALLELISM, &TIMEOUT, &RETRIES];

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A larger answer is none.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The checked definition.
pub struct HttpLookup {
    schema: SchemaRef,
    key: Vec<usize>,
    service: Arc<Service>,
    asking: Asking,
}

/// What all that ask it know.
struct Service {
    schema: SchemaRef,
    key: Vec<usize>,
    /// The columns that answers have, by index into `schema`.
    values: Vec<usize>,
    format: Format,
    /// As the definition has it.
    url: String,
    parts: Vec<Part>,
    authorization: Option<Secret>,
    timeout: Duration,
    retries: u32,
}

/// A piece of an address as it is written.
enum Piece {
    Text(String),
    /// The name in braces, and whether it stands before `?`.
    Name(String, bool),
}

/// A piece of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The value of this column of the key. In a path it must be a name; behind `?` it may be anything.
    Key {
        place: usize,
        in_path: bool,
    },
}

impl HttpLookup {
    /// The columns `columns` of `table` are wanted, and those of its key are needed.
    pub fn new(table: &Table, columns: &[usize]) -> Result<Self> {
        let options = &table.options;
        let written = |option: &OptionSpec| {
            let found = options.all().find(|(name, _)| *name == option.name);
            options.text(option).and(found.map(|(_, option)| option.text.clone()))
        };
        let Some(url) = written(&URL) else { return Err(options.misnamed(&URL, Error::invalid("'url' is missing"))) };
        let wrong = |reason: &str| options.wrong(&URL, reason);
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(wrong("it does not begin with http:// or https://"));
        }
        if url[8..].split(['/', '?']).next().is_some_and(|host| host.contains('@')) {
            return Err(wrong("a password in an address is for all to see").help("use 'http.authorization'"));
        }
        let pieces =
            pieces(&url).map_err(|reason| wrong(&reason).help("write {column}, and nothing else in braces"))?;
        let mut wanted: Vec<usize> = columns.to_vec();
        let mut named = Vec::new();
        for piece in &pieces {
            let Piece::Name(name, _) = piece else { continue };
            let Ok(column) = table.schema.index_of(name) else {
                let names = table.schema.fields().iter().map(|field| field.name().as_str());
                let error = wrong(&format!("the table has no column '{name}'"));
                return Err(match nearest(name, names) {
                    Some(near) => error.help(format!("did you mean {{{near}}}?")),
                    None => error.help("in braces stands the name of a column"),
                });
            };
            if !has_one_text(table.schema.field(column).data_type()) {
                return Err(wrong(&format!("column '{name}' is not text, a whole number, a BOOLEAN or a DATE")));
            }
            wanted.push(column);
            if !named.contains(&column) {
                named.push(column);
            }
        }
        if named.is_empty() {
            return Err(wrong("no column stands in it, so every row would get the same answer")
                .help("put the key there: 'http://host/customers/{name}'"));
        }
        wanted.sort_unstable();
        wanted.dedup();
        let schema: SchemaRef = Arc::new(table.schema.project(&wanted).map_err(from_arrow)?);
        let place = |column: &usize| wanted.iter().position(|other| other == column).expect("it is wanted");
        let key: Vec<usize> = named.iter().map(place).collect();
        let part = |piece: Piece| match piece {
            Piece::Text(text) => Part::Text(text),
            Piece::Name(name, in_path) => {
                let known = "columns were found before";
                let column = table.schema.index_of(&name).expect(known);
                Part::Key { place: named.iter().position(|other| *other == column).expect(known), in_path }
            }
        };
        let format = options.format("")?;
        if format.changes() {
            return Err(options.wrong(&super::formats::FORMAT, "an answer is a row, not a change of one"));
        }
        let values: Vec<usize> = (0..schema.fields().len()).filter(|column| !key.contains(column)).collect();
        let service = Service {
            schema: Arc::clone(&schema),
            key: key.clone(),
            values,
            format,
            parts: pieces.into_iter().map(part).collect(),
            url,
            authorization: written(&AUTHORIZATION).map(Secret::new),
            timeout: options.duration(&TIMEOUT)?,
            retries: options.whole(&RETRIES)?,
        };
        // what the format says of the columns is said now
        service.decoder()?;
        let asking = Asking {
            parallelism: options.whole(&PARALLELISM)?,
            keys_max: 1,
            cache_rows: options.whole(&CACHE_ROWS)?,
            cache_ttl: options.duration_or_off(&CACHE_TTL)?,
        };
        Ok(HttpLookup { schema, key, service: Arc::new(service), asking })
    }
}

impl Lookup for HttpLookup {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn key(&self) -> &[usize] {
        &self.key
    }

    fn asking(&self) -> Asking {
        self.asking
    }

    fn open(&self, context: &Context) -> Result<Box<dyn Asker>> {
        let service = Arc::clone(&self.service);
        let secret = |part: &Part| match part {
            Part::Text(text) => Ok(Part::Text(Secret::new(text.as_str()).reveal()?)),
            key => Ok(key.clone()),
        };
        let parts = service.parts.iter().map(secret).collect::<Result<_>>()?;
        let authorization = service.authorization.as_ref().map(Secret::reveal).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = reqwest::Client::builder().timeout(service.timeout).build();
        Ok(Box::new(HttpAsker {
            parts,
            authorization,
            decoder: service.decoder()?,
            runtime: runtime.map_err(|error| Error::unavailable(format!("cannot ask: {error}")))?,
            client: client.map_err(|error| Error::unavailable(told(&error)))?,
            clock: Arc::clone(&context.clock),
            service,
        }))
    }
}

impl Service {
    fn decoder(&self) -> Result<Box<dyn Decode>> {
        self.format.decoder(&self.schema, &self.values)
    }
}

/// Asks, one key after the other.
struct HttpAsker {
    service: Arc<Service>,
    /// With what references stand for.
    parts: Vec<Part>,
    authorization: Option<String>,
    decoder: Box<dyn Decode>,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
}

/// Why there is no answer.
enum Failure {
    /// Asked again it may come.
    Passing(String),
    Lasting(Error),
}

impl Asker for HttpAsker {
    fn ask(&mut self, keys: &Batch) -> Result<Vec<Batch>> {
        (0..keys.num_rows()).map(|row| self.ask_for(&keys.slice(row, 1))).collect()
    }
}

impl HttpAsker {
    fn ask_for(&mut self, key: &Batch) -> Result<Batch> {
        let values = texts(key)?;
        let service = Arc::clone(&self.service);
        let place = |error: Error| error.within(format!("GET {} for {}", service.url, described(key, &values)));
        let Some(url) = self.address(&values) else { return Ok(Batch::new_empty(Arc::clone(&self.service.schema))) };
        let url = Url::parse(&url).map_err(|error| place(Error::invalid(format!("it is not an address: {error}"))))?;
        let mut asked = 0;
        let body = loop {
            match self.ask_once(url.clone()) {
                Ok(body) => break body,
                Err(Failure::Lasting(error)) => return Err(place(error)),
                Err(Failure::Passing(_)) if asked < self.service.retries => {
                    self.clock.sleep(PAUSE_MIN.saturating_mul(1 << asked.min(10)).min(PAUSE_MAX));
                    asked += 1;
                }
                Err(Failure::Passing(why)) => {
                    let times = if asked == 0 { "once".to_owned() } else { format!("{} times", asked + 1) };
                    return Err(place(Error::unavailable(format!("{why}, asked {times}"))
                        .help("look whether the service answers; 'lookup.retries' and 'lookup.timeout' say how patient the table is")));
                }
            }
        };
        self.row(key, body).map_err(place)
    }

    /// The row of an answer.
    fn row(&mut self, key: &Batch, body: Option<Vec<u8>>) -> Result<Batch> {
        let schema = Arc::clone(&self.service.schema);
        let Some(body) = body else { return Ok(Batch::new_empty(schema)) };
        let record = BinaryArray::from_iter_values([body.trim_ascii()]);
        self.decoder.prepare(&record)?;
        let row = self.decoder.decode(&record);
        let row = row.map_err(|bad| {
            let help = "an answer is one record of the table's 'format'";
            Error::new(ErrorKind::Data, format!("the answer cannot be read: {}", bad.reason)).help(help)
        })?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; schema.fields().len()];
        for (place, column) in self.service.key.iter().enumerate() {
            columns[*column] = Some(Arc::clone(key.column(place)));
        }
        for (place, column) in self.service.values.iter().enumerate() {
            columns[*column] = Some(Arc::clone(row.column(place)));
        }
        let columns = columns.into_iter().map(|column| column.expect("a column is of the key or of the answer"));
        batch_of(schema, columns.collect(), 1)
    }

    /// Where the row of a key is; none if no address can name it.
    fn address(&self, values: &[String]) -> Option<String> {
        let mut url = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => url.push_str(text),
                // a path has no empty names, and these two stand for others
                Part::Key { place, in_path: true } if matches!(values[*place].as_str(), "" | "." | "..") => {
                    return None;
                }
                Part::Key { place, .. } => encode(&values[*place], &mut url),
            }
        }
        Some(url)
    }

    /// What is answered; none if there is no row.
    fn ask_once(&self, url: Url) -> std::result::Result<Option<Vec<u8>>, Failure> {
        // the error's own text has the address
        let passing = |error: reqwest::Error| Failure::Passing(told(&error.without_url()));
        self.runtime.block_on(async {
            let mut request = self.client.get(url);
            if let Some(authorization) = &self.authorization {
                request = request.header("authorization", authorization);
            }
            let mut response = request.send().await.map_err(passing)?;
            let status = response.status();
            let passes = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            match status {
                StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::NO_CONTENT => return Ok(None),
                _ if status.is_server_error() || passes => return Err(Failure::Passing(status.to_string())),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let error = Error::invalid(format!("it refuses to answer: {status}"));
                    return Err(Failure::Lasting(error.help("look at 'http.authorization'")));
                }
                _ if !status.is_success() => {
                    return Err(Failure::Lasting(
                        Error::invalid(format!("no answer but {status}")).help("look at 'url'"),
                    ));
                }
                _ => {}
            }
            let mut body = Vec::new();
            while let Some(more) = response.chunk().await.map_err(passing)? {
                body.extend_from_slice(&more);
                if body.len() > ANSWER_BYTES_MAX {
                    let error = Error::data(format!("its answer has more than {ANSWER_BYTES_MAX} bytes"));
                    return Err(Failure::Lasting(error));
                }
            }
            Ok(Some(body))
        })
    }
}

/// The values of a key, as texts.
fn texts(key: &Batch) -> Result<Vec<String>> {
    let options = FormatOptions::default();
    let text = |column: &ArrayRef| {
        let shown = ArrayFormatter::try_new(column.as_ref(), &options).map_err(from_arrow)?;
        shown.value(0).try_to_string().map_err(from_arrow)
    };
    key.columns().iter().map(text).collect()
}

/// `name = 'ann'`.
fn described(key: &Batch, values: &[String]) -> String {
    let schema = key.schema();
    let one = |(field, value): (&Arc<arrow::datatypes::Field>, &String)| {
        let short: String = value.chars().take(100).collect();
        format!("{} = '{short}'", field.name())
    };
    schema.fields().iter().zip(values).map(one).collect::<Vec<_>>().join(", ")
}

/// True for values that are written in one way.
fn has_one_text(data_type: &DataType) -> bool {
    use DataType::{Boolean, Date32, LargeUtf8, Utf8, Utf8View};
    data_type.is_integer() || matches!(data_type, Utf8 | LargeUtf8 | Utf8View | Boolean | Date32)
}

/// Adds `value` to `url`, whatever is not a letter, a digit or one of `-._~` as `%` and hexadecimal digits.
fn encode(value: &str, url: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// The texts of an address and, between them, the names in braces, each with whether it stands before `?`.
fn pieces(url: &str) -> std::result::Result<Vec<Piece>, String> {
    let (mut found, mut text, mut rest) = (Vec::new(), String::new(), url);
    let mut in_path = true;
    while let Some(at) = rest.find(['{', '}', '?']) {
        let (before, mark) = (&rest[..at], &rest[at..=at]);
        text.push_str(before);
        rest = &rest[at + 1..];
        match mark {
            "?" => {
                in_path = false;
                text.push('?');
            }
            "}" => return Err("a } has no { before it".into()),
            _ => {
                let (name, after) = rest.split_once('}').ok_or("a { has no } behind it")?;
                rest = after;
                // a reference to the environment or a file
                if text.ends_with('$') {
                    text.push_str(&format!("{{{name}}}"));
                    continue;
                }
                found.push(Piece::Text(std::mem::take(&mut text)));
                found.push(Piece::Name(name.to_owned(), in_path));
            }
        }
    }
    text.push_str(rest);
    found.push(Piece::Text(text));
    let host = match found.first() {
        Some(Piece::Text(text)) => text.split_once("//").map_or("", |(_, host)| host),
        _ => "",
    };
    if !host.contains(['/', '?']) && found.len() > 1 {
        return Err("the service's own address depends on the key".into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_text_and_names_in_braces() {
        let shown = |url: &str| match pieces(url) {
            Err(reason) => reason,
            Ok(pieces) => pieces
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text,
                    Piece::Name(name, true) => format!("[{name}]"),
                    Piece::Name(name, false) => format!("<{name}>"),
                })
                .collect::<Vec<_>>()
                .join("|"),
        };
        assert_eq!(shown("http://h/a/{b}/c?d={e}"), "http://h/a/|[b]|/c?d=|<e>|");
        assert_eq!(shown("http://h/${env:A}/{b}"), "http://h/${env:A}/|[b]|");
        assert_eq!(shown("http://h/a"), "http://h/a");
        assert_eq!(shown("http://h/{a"), "a { has no } behind it");
        assert_eq!(shown("http://h/a}"), "a } has no { before it");
        assert_eq!(shown("http://{a}.h/x"), "the service's own address depends on the key");
    }

    #[test]
    fn a_value_cannot_leave_its_place() {
        let mut url = String::new();
        encode("a/../b?c=d&é %", &mut url);
        assert_eq!(url, "a%2F..%2Fb%3Fc%3Dd%26%C3%A9%20%25");
    }
}
