//! A schema registry, over HTTP: the schemas of messages by their numbers, as Confluent's and those that speak like it keep them.
//!
//! Numbers never change what they stand for, so each is asked for once in the life of a table. Whoever asks waits for the answer: that is
//! when a table meets a schema for the first time.

use super::{OptionSpec, Options, Preset, Secret, Takes};
use crate::error::{Error, Result, nearest};
use crate::format::schemas::{Language, Naming, Registered, Registry, Schemas};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Where the registry is.
pub const URL: OptionSpec = OptionSpec::both(
    "schema.registry.url",
    Takes::Text,
    Preset::None("messages have no number of a schema"),
    "for `avro` and `protobuf` in topics: the schema registry that has the schemas of messages, which then open with the number of theirs",
);

/// Who asks.
pub const USERNAME: OptionSpec =
    OptionSpec::both("schema.registry.username", Takes::Text, Preset::None(""), "the name that the registry wants");

/// And how that is shown.
pub const PASSWORD: OptionSpec = OptionSpec::both(
    "schema.registry.password",
    Takes::Secret,
    Preset::None(""),
    "the password to it, best by reference: `${env:NAME}`",
);

/// What subjects are called.
pub const STRATEGY: OptionSpec = OptionSpec::writing(
    "schema.registry.name-strategy",
    Takes::Choice(&["TopicName", "RecordName", "TopicRecordName"]),
    Preset::Is("TopicName"),
    "what the subject of a schema is called after: `TopicName` is `<topic>-value` or `<topic>-key`, `RecordName` the record's full name, `TopicRecordName` both",
);

/// Or this.
pub const SUBJECT: OptionSpec = OptionSpec::writing(
    "schema.registry.subject",
    Takes::Text,
    Preset::None("by `schema.registry.name-strategy`"),
    "the subject itself",
);

/// Whether a schema may be added.
pub const REGISTER: OptionSpec = OptionSpec::writing(
    "schema.registry.auto-register",
    Takes::Flag,
    Preset::Is("false"),
    "whether the table's schema is added to its subject if it is not there; otherwise that is an error",
);

/// What a format that can have its schemas in a registry takes for it.
pub const OPTIONS: &[&OptionSpec] = &[&URL, &USERNAME, &PASSWORD, &STRATEGY, &SUBJECT, &REGISTER];

/// How long an answer is waited for, and how often it is asked for.
const PATIENCE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// A larger answer is none.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Schemas that refer to others refer to no more than so many.
const REFERENCES_MAX: usize = 200;

/// The registry that options `{prefix}schema.registry.…` name; none if they do not.
pub(super) fn named(options: &Options, prefix: &str) -> Result<Option<Registry>> {
    let Some(text) = options.text(URL.under(prefix)) else { return Ok(None) };
    let wrong = |reason: String| options.wrong(URL.under(prefix), reason);
    let url = Url::parse(text).map_err(|error| wrong(format!("it is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it is not one of http or https".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let error = options.wrong(URL.under(prefix), "a password in a URL is for all to see");
        return Err(error.help("use 'schema.registry.username' and 'schema.registry.password'"));
    }
    let naming = match options.choice(STRATEGY.under(prefix))? {
        "RecordName" => Naming::RecordName,
        "TopicRecordName" => Naming::TopicRecordName,
        _ => Naming::TopicName,
    };
    // as it is written: what it stands for is looked up when it is needed
    let own = PASSWORD.under(prefix);
    let written = options.all().find(|(name, _)| *name == own.name).map(|(_, option)| option.text.clone());
    let password = options.text(own.clone()).and(written).map(Secret::new);
    let username = match (options.text(USERNAME.under(prefix)), &password) {
        (None, Some(_)) => {
            let error = options.wrong(PASSWORD.under(prefix), "whose? there is no name");
            return Err(error.help("add 'schema.registry.username'"));
        }
        (username, _) => username.map(str::to_owned),
    };
    let client = Client {
        base: text.trim_end_matches('/').to_owned(),
        username,
        password,
        registers: options.flag(REGISTER.under(prefix))?,
        schemas: Mutex::default(),
        ids: Mutex::default(),
    };
    let subject = options.text(SUBJECT.under(prefix)).map(str::to_owned);
    Ok(Some(Registry { schemas: Arc::new(client), naming, subject, topic: (String::new(), "value") }))
}

/// Asks a registry, and remembers what it says.
struct Client {
    base: String,
    username: Option<String>,
    password: Option<Secret>,
    /// Schemas may be added.
    registers: bool,
    schemas: Mutex<HashMap<u32, Option<Arc<Registered>>>>,
    ids: Mutex<HashMap<(String, String), u32>>,
}

/// What was answered.
enum Answer {
    Found(Value),
    /// Not, and why: the registry's own code and words.
    Refused(StatusCode, i64, String),
}

impl Client {
    /// Asks for `path`, again if nobody answers.
    fn ask(&self, method: &Method, path: &[&str], body: Option<&Value>) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            match self.ask_once(method, path, body) {
                Err(error) if attempt < ATTEMPTS && error.kind() == crate::error::ErrorKind::Unavailable => {
                    thread::sleep(PAUSE * attempt);
                    attempt += 1;
                }
                answer => return answer.map_err(|error| error.within(format!("schema registry {}", self.base))),
            }
        }
    }

    fn ask_once(&self, method: &Method, path: &[&str], body: Option<&Value>) -> Result<Answer> {
        let mut url = Url::parse(&self.base).map_err(|error| Error::internal(error.to_string()))?;
        url.path_segments_mut().map_err(|()| Error::internal("a registry without a path"))?.pop_if_empty().extend(path);
        let unavailable = |error: reqwest::Error| Error::unavailable(told(&error)).caused_by(error);
        let password = self.password.as_ref().map(Secret::reveal).transpose()?;
        // what answers is used up by the call: calls are rare, and threads come and go
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::unavailable(format!("cannot ask: {error}")))?;
        runtime.block_on(async {
            let client = reqwest::Client::builder().timeout(PATIENCE).build().map_err(unavailable)?;
            let mut request = client
                .request(method.clone(), url)
                .header("accept", "application/vnd.schemaregistry.v1+json, application/json");
            if let Some(name) = &self.username {
                request = request.basic_auth(name, password.as_ref());
            }
            if let Some(body) = body {
                request =
                    request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body.to_string());
            }
            let mut response = request.send().await.map_err(unavailable)?;
            let (status, mut bytes) = (response.status(), Vec::new());
            while let Some(more) = response.chunk().await.map_err(unavailable)? {
                bytes.extend_from_slice(&more);
                if bytes.len() > ANSWER_BYTES_MAX {
                    return Err(Error::data(format!("its answer has more than {ANSWER_BYTES_MAX} bytes")));
                }
            }
            let said: Option<Value> = serde_json::from_slice(&bytes).ok();
            match status {
                _ if status.is_success() => said.map(Answer::Found).ok_or_else(|| {
                    Error::invalid("what answers is no schema registry: its answer is not JSON")
                        .help("look at 'schema.registry.url'")
                }),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    Err(Error::invalid(format!("it refuses to answer: {status}"))
                        .help("look at 'schema.registry.username' and 'schema.registry.password'"))
                }
                _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    Err(Error::unavailable(format!("it cannot answer: {status}")))
                }
                _ => {
                    let said = said.unwrap_or_default();
                    let words = said["message"].as_str().unwrap_or_default().chars().take(500).collect();
                    Ok(Answer::Refused(status, said["error_code"].as_i64().unwrap_or_default(), words))
                }
            }
        })
    }

    /// What `schema`, as the registry gives it, refers to.
    fn references(&self, schema: &Value) -> Result<Vec<(String, String)>> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut open: Vec<Value> = schema["references"].as_array().cloned().unwrap_or_default();
        while let Some(reference) = open.pop() {
            let name = reference["name"].as_str().unwrap_or_default().to_owned();
            if found.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if found.len() == REFERENCES_MAX {
                return Err(Error::data(format!("it refers to more than {REFERENCES_MAX} others")));
            }
            let (subject, version) =
                (reference["subject"].as_str().unwrap_or_default(), reference["version"].to_string());
            let text = match self.ask(&Method::GET, &["subjects", subject, "versions", &version], None)? {
                Answer::Found(answer) => {
                    open.extend(answer["references"].as_array().cloned().unwrap_or_default());
                    answer["schema"].as_str().map(str::to_owned)
                }
                Answer::Refused(..) => None,
            };
            let missing = || {
                Error::data(format!("it refers to \"{name}\", version {version} of \"{subject}\", which is not there"))
            };
            found.push((name.clone(), text.ok_or_else(missing)?));
        }
        Ok(found)
    }
}

/// What went wrong, with its causes: the library says only that something did.
pub(super) fn told(error: &reqwest::Error) -> String {
    let mut text = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "no answer in time".to_owned(),
        (_, true) => "cannot connect".to_owned(),
        _ => "no answer".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        cause = next.source();
        if cause.is_none() {
            text.push_str(&format!(": {next}"));
        }
    }
    text
}

impl Schemas for Client {
    fn schema(&self, id: u32) -> Result<Option<Arc<Registered>>> {
        let known = || self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&id) {
            return Ok(found.clone());
        }
        let found = match self.ask(&Method::GET, &["schemas", "ids", &id.to_string()], None)? {
            Answer::Found(answer) => {
                let language = match answer["schemaType"].as_str() {
                    None | Some("AVRO") => Language::Avro,
                    Some("PROTOBUF") => Language::Protobuf,
                    Some(_) => Language::Other,
                };
                let text = answer["schema"].as_str().ok_or_else(|| Error::data("it gives a schema without a text"))?;
                let references = self.references(&answer)?;
                Some(Arc::new(Registered { language, text: text.to_owned(), references }))
            }
            Answer::Refused(StatusCode::NOT_FOUND, ..) => None,
            Answer::Refused(status, code, words) => {
                return Err(Error::invalid(format!("it does not give the schema: {status}, {code}: {words}")));
            }
        };
        // one that is not there may come yet
        if found.is_some() {
            known().insert(id, found.clone());
        }
        Ok(found)
    }

    fn id_of(&self, subject: &str, schema: &Registered) -> Result<u32> {
        let known = || self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (subject.to_owned(), schema.text.clone());
        if let Some(id) = known().get(&key) {
            return Ok(*id);
        }
        let mut body = json!({ "schema": schema.text });
        if schema.language == Language::Protobuf {
            body["schemaType"] = "PROTOBUF".into();
        }
        let path: &[&str] = if self.registers { &["subjects", subject, "versions"] } else { &["subjects", subject] };
        let id = match self.ask(&Method::POST, path, Some(&body))? {
            Answer::Found(answer) => answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()),
            Answer::Refused(StatusCode::NOT_FOUND, code, _) if !self.registers => {
                let what =
                    if code == 40401 { "there is no such subject" } else { "the schema of the table is not in it" };
                return Err(self.advised(Error::invalid(what), subject));
            }
            Answer::Refused(StatusCode::CONFLICT, _, words) => {
                return Err(Error::invalid(format!(
                    "the schema of the table does not go with those that are there: {words}"
                ))
                .help("change the columns so that both can be read, or the compatibility of the subject"));
            }
            Answer::Refused(status, code, words) => {
                return Err(Error::invalid(format!(
                    "the registry does not take the schema: {status}, {code}: {words}"
                )));
            }
        };
        let id = id.ok_or_else(|| Error::invalid("the registry gives no number for the schema"))?;
        known().insert(key, id);
        Ok(id)
    }
}

impl Client {
    /// `error`, about `subject`, with what to do.
    fn advised(&self, error: Error, subject: &str) -> Error {
        let there: Vec<String> = match self.ask(&Method::GET, &["subjects"], None) {
            Ok(Answer::Found(Value::Array(all))) => {
                all.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        match nearest(subject, there.iter().map(String::as_str)).filter(|near| *near != subject) {
            Some(near) => error.help(format!("did you mean 'schema.registry.subject' = '{near}'?")),
            None => error.help("add 'schema.registry.auto-register' = 'true', or register the schema"),
        }
    }
}
