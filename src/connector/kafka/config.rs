//! The options that reach librdkafka: those on a list, and those that Highwater sets itself.
//!
//! The list is closed, because some of librdkafka's properties load code, run commands, write files or print secrets, and
//! others would take back what the connector promises. Values are secrets until shown otherwise: nothing here prints one.

use super::client::Watch;
use super::oauth::Tokens;
use crate::connector::{Context, OptionSpec, Options, Preset, Secret, Takes};
use crate::error::{Error, Result, nearest};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// After which time without an answer a publisher takes a broker for gone, and the least that librdkafka allows.
const SOCKET_TIMEOUT_MS: u64 = 10_000;
const SOCKET_TIMEOUT_MS_LEAST: u64 = 10;

/// What stands for the pipeline's own development broker.
const EMBEDDED: &str = "embedded";

pub(super) const BOOTSTRAP: OptionSpec = OptionSpec::both(
    "properties.bootstrap.servers",
    Takes::Text,
    Preset::Required,
    "addresses, `host:port` with `,` between them, or `embedded`: a development broker that lives as long as the run",
);

pub(super) const PROPERTIES: OptionSpec = OptionSpec::both(
    "properties.*",
    Takes::Secret,
    Preset::None("librdkafka's"),
    "settings of librdkafka, of those that are safe here; `properties.isolation.level` is `read_committed`",
);

/// Which side of a table the properties are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Sink,
}

impl Side {
    fn own(self) -> &'static [&'static str] {
        match self {
            Side::Source => CONSUMER,
            Side::Sink => PRODUCER,
        }
    }
}

/// How to reach a cluster. Not `Debug`: it holds passwords.
#[derive(Clone)]
pub(super) struct Connection {
    bootstrap: String,
    /// By librdkafka's names.
    properties: BTreeMap<String, Secret>,
    /// Tokens for SASL OAUTHBEARER.
    token: Option<Secret>,
}

/// What librdkafka asks us for, so it is no property of its own.
const TOKEN: &str = "sasl.oauthbearer.token";

/// Properties for both sides.
const COMMON: &[&str] = &[
    "bootstrap.servers",
    "broker.address.family",
    "broker.address.ttl",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    TOKEN,
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.password",
    "ssl.key.pem",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.interval.ms",
];

/// Properties for sources alone.
const CONSUMER: &[&str] = &[
    "check.crcs",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "group.id",
    "isolation.level",
    "max.partition.fetch.bytes",
    "receive.message.max.bytes",
];

/// Properties for sinks alone.
const PRODUCER: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.level",
    "delivery.timeout.ms",
    "linger.ms",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "retries",
    "transaction.timeout.ms",
];

/// Why a property is not for users, by its name or the beginning or end of its name (`prefix*`, `*suffix`).
const REFUSED: &[(&str, &str)] = &[
    ("plugin.library.paths", "it loads code into the process"),
    ("sasl.kerberos.*", "it runs commands on every worker's machine"),
    (
        "sasl.oauthbearer.*",
        "tokens are not fetched; give the token as 'properties.sasl.oauthbearer.token', best as '${file:/path}' that someone renews",
    ),
    (
        "*.location",
        "it names a file on every worker's machine; give the PEM text itself, as in 'properties.ssl.ca.pem'",
    ),
    (
        "ssl.truststore.*",
        "Java's key stores are not supported; give the authority's PEM text as 'properties.ssl.ca.pem'",
    ),
    (
        "ssl.keystore.*",
        "Java's key stores are not supported; give the PEM text as 'properties.ssl.certificate.pem' and '….key.pem'",
    ),
    ("sasl.jaas.config", "it is Java's; give 'properties.sasl.username' and 'properties.sasl.password'"),
    ("debug", "it prints what passes the wire, passwords included"),
    ("enable.ssl.certificate.verification", "an unverified broker may be anyone"),
    ("enable.auto.commit", "offsets are kept by the pipeline, not by a consumer group"),
    ("auto.commit.interval.ms", "offsets are kept by the pipeline, not by a consumer group"),
    ("auto.offset.reset", "where to start is said by 'scan.startup.mode', and lost records are an error"),
    ("group.instance.id", "partitions are dealt out by the pipeline, not by a consumer group"),
    ("partition.assignment.strategy", "partitions are dealt out by the pipeline, not by a consumer group"),
    ("fetch.queue.backoff.ms", "the source sets it, since the default starves a fast reader"),
    ("queued.*", "the source sets it, to bound the memory of all partitions together"),
    ("compression.*", "say 'sink.compression'"),
    ("acks", "a row counts as written when all in-sync replicas have it"),
    ("request.required.acks", "a row counts as written when all in-sync replicas have it"),
    ("enable.idempotence", "without it a lost answer would double rows"),
    ("max.in.flight*", "more than five requests at once would lose the order"),
    (
        "transactional.id",
        "it is made of the names of pipeline, table and worker, which finds an open transaction again",
    ),
    ("partitioner", "say 'sink.partitioner'"),
];

impl Connection {
    /// Takes this side's `properties.…` of `options`, and checks their values. One definition may be read and written, so
    /// those of the other side may stand there too.
    pub(super) fn read(options: &Options, side: Side) -> Result<Self> {
        let bootstrap = options.required(&BOOTSTRAP)?.to_owned();
        let mut properties = BTreeMap::new();
        for (name, option) in options.each(&PROPERTIES) {
            allowed(name).map_err(|error| options.misnamed(PROPERTIES.of(name), error))?;
            if COMMON.contains(&name) || side.own().contains(&name) {
                properties.insert(name.to_owned(), Secret::new(&option.text));
            }
        }
        properties.remove("bootstrap.servers");
        let token = properties.remove(TOKEN);
        for (name, value) in properties.iter().filter(|(_, value)| !value.is_reference()) {
            check_value(name, &value.reveal()?, is_secret(name)).map_err(|error| match is_secret(name) {
                // the line of the text has the secret in it
                true => error.about(format!("option 'properties.{name}'")),
                false => options.misvalued(PROPERTIES.of(name), error),
            })?;
        }
        let bearer = |name| {
            let value = properties.get(name).filter(|value| !value.is_reference())?.reveal().ok()?;
            value.eq_ignore_ascii_case("OAUTHBEARER").then_some(name)
        };
        if let (Some(name), None) = (bearer("sasl.mechanism").or(bearer("sasl.mechanisms")), &token) {
            let error = options.wrong(PROPERTIES.of(name), "there is no token");
            return Err(error.help(format!("add 'properties.{TOKEN}' = '${{file:/path}}'")));
        }
        Ok(Connection { bootstrap, properties, token })
    }

    /// True if the broker is the one that the process brings.
    pub(super) fn embedded(&self) -> bool {
        self.bootstrap == EMBEDDED
    }

    /// Where this client's tokens come from, if it shows some.
    pub(super) fn tokens(&self, context: &Context) -> Option<Tokens> {
        self.token.clone().map(|source| Tokens { source, clock: Arc::clone(&context.clock) })
    }

    /// The consumer group that the user has named, unless it can only be told later.
    pub(super) fn group(&self) -> Option<String> {
        self.properties.get("group.id")?.reveal().ok()
    }

    /// An ear for a client.
    pub(super) fn watch(&self, context: &Context) -> Watch {
        let wait = self.properties.iter().find(|(name, _)| *name == "fetch.wait.max.ms");
        let wait = wait.and_then(|(_, value)| value.reveal().ok()?.parse().ok()).map(Duration::from_millis);
        Watch::new(self.tokens(context)).patient(wait)
    }

    /// The client's configuration: `ours` first, which the user may override only by what [`Connection::read`] let through.
    pub(super) fn client(&self, context: &Context, ours: &[(&str, &str)]) -> Result<ClientConfig> {
        let bootstrap = match (self.bootstrap.as_str(), &context.embedded_broker) {
            (EMBEDDED, Some(address)) => address,
            (EMBEDDED, None) => {
                return Err(Error::invalid("'properties.bootstrap.servers' is 'embedded', but no development broker runs here")
                    .help("start the pipeline on one machine, where it brings its own broker, or give the address of a cluster"));
            }
            (address, _) => address,
        };
        let mut config = ClientConfig::new();
        config
            .set("client.id", "highwater")
            .set("reconnect.backoff.max.ms", "1000")
            .set("log.connection.close", "false");
        // how the client learns that a broker answers again: see `Watch`
        config.set("statistics.interval.ms", "2000");
        for (name, value) in ours {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            let about = |error: Error| error.about(format!("option 'properties.{name}'"));
            let revealed = value.reveal().map_err(about)?;
            if value.is_reference() {
                check_value(name, &revealed, true).map_err(about)?;
            }
            config.set(name, revealed);
        }
        config.set("bootstrap.servers", bootstrap);
        Ok(config)
    }

    /// How long a client whose transactions end after `transaction_ms` waits for an answer: as long as the user says, or so
    /// long that it hears within a moment that a broker is gone. librdkafka wants it to be shorter than a transaction by 100 ms.
    pub(super) fn socket_timeout(&self, transaction_ms: &str) -> Option<String> {
        if self.properties.contains_key("socket.timeout.ms") {
            return None;
        }
        let transaction = match self.properties.get("transaction.timeout.ms") {
            Some(given) => given.reveal().ok(),
            None => Some(transaction_ms.to_owned()),
        };
        let most = transaction?.parse::<u64>().ok()?.saturating_sub(100);
        Some(SOCKET_TIMEOUT_MS.min(most).max(SOCKET_TIMEOUT_MS_LEAST).to_string())
    }

    /// The address in words, for messages.
    pub(super) fn address(&self, context: &Context) -> String {
        match (self.bootstrap.as_str(), &context.embedded_broker) {
            (EMBEDDED, Some(address)) => format!("the development broker at {address}"),
            (address, _) => format!("the brokers at {address}"),
        }
    }
}

/// True if nobody may see the value of property `name`, even if the definition has it in plain text.
fn is_secret(name: &str) -> bool {
    ["password", ".pem", "token"].iter().any(|part| name.contains(part))
}

/// Refuses a value that librdkafka does not take; librdkafka repeats it, which must not be seen if it is `hidden`.
fn check_value(name: &str, value: &str, hidden: bool) -> Result<()> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Err(KafkaError::ClientConfig(..)) if hidden => Err(Error::invalid("librdkafka does not accept its value")),
        Err(KafkaError::ClientConfig(_, reason, ..)) => Err(Error::invalid(reason)),
        _ => Ok(()),
    }
}

/// Refuses a property that is on no list, with the reason or the nearest name.
fn allowed(name: &str) -> Result<()> {
    let listed = || COMMON.iter().chain(CONSUMER).chain(PRODUCER).copied();
    if listed().any(|known| known == name) {
        return Ok(());
    }
    if let Some((_, reason)) = REFUSED.iter().find(|(pattern, _)| matches(pattern, name)) {
        return Err(Error::invalid(format!("option 'properties.{name}' is not available: {reason}")));
    }
    let error = Error::invalid(format!("unknown option 'properties.{name}'"));
    Err(match nearest(name, listed()) {
        Some(near) => error.help(format!("did you mean 'properties.{near}'?")),
        None => {
            error.help("only properties of librdkafka that are safe in a pipeline are passed on; the manual lists them")
        }
    })
}

/// Whether `name` is `pattern`, in which a star at one end stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => name.starts_with(prefix),
        (_, Some(suffix)) => name.ends_with(suffix),
        _ => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::OptionText;
    use crate::time::SystemClock;

    fn read(side: Side, given: &[(&str, &str)]) -> Result<Connection> {
        let given = [("bootstrap.servers", "localhost:9092")].iter().chain(given);
        let option = |(name, text): &(&str, &str)| (format!("properties.{name}"), OptionText::from(*text));
        Connection::read(&Options::new(given.map(option)), side)
    }

    fn refusal(side: Side, name: &str, value: &str) -> String {
        let error = read(side, &[(name, value)]).err().expect("refused");
        format!("{error}{}", error.advice().map(|advice| format!(" / {advice}")).unwrap_or_default())
    }

    #[test]
    fn a_dangerous_property_is_refused_by_name_with_the_reason() {
        assert_eq!(
            refusal(Side::Source, "plugin.library.paths", "x.so"),
            "option 'properties.plugin.library.paths' is not available: it loads code into the process"
        );
        assert!(refusal(Side::Sink, "ssl.ca.location", "/x").contains("PEM text itself"));
        assert!(refusal(Side::Source, "sasl.kerberos.kinit.cmd", "x").contains("runs commands"));
        assert!(refusal(Side::Source, "debug", "all").contains("passwords"));
        assert!(refusal(Side::Sink, "acks", "0").contains("in-sync replicas"));
        assert!(refusal(Side::Source, "group.idd", "x").ends_with("/ did you mean 'properties.group.id'?"));
    }

    #[test]
    fn each_side_takes_its_own_properties() {
        let given = [("linger.ms", "1"), ("isolation.level", "read_uncommitted"), ("client.id", "x")];
        let taken = |side| read(side, &given).unwrap().properties.into_keys().collect::<Vec<_>>();
        assert_eq!(taken(Side::Source), ["client.id", "isolation.level"]);
        assert_eq!(taken(Side::Sink), ["client.id", "linger.ms"]);
    }

    #[test]
    fn a_wrong_value_is_refused() {
        assert!(
            refusal(Side::Source, "isolation.level", "sometimes").starts_with("option 'properties.isolation.level': ")
        );
    }

    #[test]
    fn a_reference_is_looked_up_when_a_client_is_made_and_what_it_stands_for_is_not_repeated() {
        let context = Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 1 };
        let client = |value: &str| match read(Side::Source, &[("isolation.level", value)]) {
            Ok(connection) => connection.client(&context, &[]).err().map(|error| error.to_string()),
            Err(error) => panic!("{error} before a client is made"),
        };
        let option = "option 'properties.isolation.level'";
        assert_eq!(
            client("${env:NO_SUCH_THING}"),
            Some(format!("{option}: environment variable 'NO_SUCH_THING' is not set"))
        );
        assert_eq!(client("${env:PATH}"), Some(format!("{option}: librdkafka does not accept its value")));
        assert_eq!(client("read_committed"), None);
    }

    #[test]
    fn a_bearer_needs_a_token() {
        assert_eq!(
            refusal(Side::Source, "sasl.mechanism", "OAUTHBEARER"),
            "option 'properties.sasl.mechanism': there is no token / add 'properties.sasl.oauthbearer.token' = '${file:/path}'"
        );
        assert!(refusal(Side::Source, "sasl.oauthbearer.config", "x").contains("'properties.sasl.oauthbearer.token'"));
    }

    #[test]
    fn a_publisher_waits_for_less_than_a_transaction() {
        let timeout = |given: &[(&str, &str)]| read(Side::Sink, given).unwrap().socket_timeout("60000");
        assert_eq!(timeout(&[]).as_deref(), Some("10000"));
        assert_eq!(timeout(&[("transaction.timeout.ms", "3000")]).as_deref(), Some("2900"));
        assert_eq!(timeout(&[("socket.timeout.ms", "2000")]), None);
    }

    #[test]
    fn embedded_needs_a_development_broker() {
        let given = [("properties.bootstrap.servers".to_owned(), OptionText::from("embedded"))];
        let connection = Connection::read(&Options::new(given), Side::Source).unwrap();
        let mut context = Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 1 };
        let error = connection.client(&context, &[]).err().unwrap();
        assert!(error.to_string().contains("no development broker runs here") && error.advice().is_some());
        context.embedded_broker = Some("127.0.0.1:1".into());
        assert_eq!(connection.client(&context, &[]).unwrap().get("bootstrap.servers"), Some("127.0.0.1:1"));
    }
}
