//! What consumers and producers share: listening to what librdkafka says, and the first questions to a cluster.

use super::oauth::Tokens;
use crate::connector::Context;
use crate::error::{Error, Result, nearest};
use rdkafka::Statistics;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tracing::{debug, info, warn};

/// How long a cluster may take to answer when a pipeline starts.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How long a topic that the broker creates on demand may take to appear.
const CREATION_WAIT: Duration = Duration::from_secs(5);

/// How long one question waits: a refused password is noticed between two.
pub(super) const QUESTION_WAIT: Duration = Duration::from_secs(3);

/// How long to wait between two questions.
const BREATH: Duration = Duration::from_millis(50);

/// How long a broker that is asked for records may be silent, beyond the time for which it may hold back an empty answer.
const SILENCE: Duration = Duration::from_secs(3);

/// For how long it may hold it back, by default.
const FETCH_WAIT: Duration = Duration::from_millis(500);

/// Keeps what librdkafka reports on the side: calls alone say no more than "broker transport failure".
#[derive(Default)]
pub(crate) struct Watch {
    state: Mutex<State>,
    tokens: Option<Tokens>,
    /// After which time without an answer a broker that is read from counts as silent; none means the usual.
    silence: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest reason for which a broker was not reached.
    reason: Option<String>,
    /// Brokers may be out of reach; whether they answer again is found in the statistics.
    trouble: bool,
    /// A broker that is read from has not said anything for a while: its connection may be half-open.
    silent: bool,
    /// What no waiting will mend, and what to do about it.
    hopeless: Option<(String, &'static str)>,
    /// Something is wrong with a topic.
    suspicion: bool,
    /// How often something went wrong that may have made librdkafka ask again.
    errors: u64,
}

/// Advice for those who are refused.
const WHO: &str =
    "check 'properties.security.protocol', 'properties.sasl.mechanism', 'properties.sasl.username' and '….password'";
const CERTIFICATE: &str = "check that 'properties.ssl.ca.pem' is the authority of the broker's certificate, which must have the broker's name";
const TOKEN: &str = "check 'properties.sasl.oauthbearer.token'";
const OUR_CERTIFICATE: &str = "check 'properties.ssl.certificate.pem' and 'properties.ssl.key.pem'";

/// What librdkafka says before it says why.
const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token: ";

impl Watch {
    /// For a client that may have to show these tokens.
    pub(super) fn new(tokens: Option<Tokens>) -> Self {
        Watch { tokens, ..Watch::default() }
    }

    /// The same, where a broker may hold back an empty answer for `wait`.
    pub(super) fn patient(self, wait: Option<Duration>) -> Self {
        Watch { silence: wait.map(|wait| wait + SILENCE), ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// True while a broker is known to be out of reach.
    pub(super) fn trouble(&self) -> bool {
        self.state().trouble
    }

    /// True while a broker that is read from is silent: what was heard last may not be how it is now.
    pub(super) fn silent(&self) -> bool {
        self.state().silent
    }

    /// The newest reason for which a broker was not reached.
    pub(super) fn reason(&self) -> Option<String> {
        self.state().reason.clone()
    }

    /// How often something went wrong that may have made librdkafka ask again.
    pub(super) fn errors(&self) -> u64 {
        self.state().errors
    }

    /// True once after librdkafka found fault with a topic. In a partition's own queue such an error is no message, and all
    /// that is left of it is a line for the log, so what is wrong has to be asked.
    pub(super) fn suspicion(&self) -> bool {
        std::mem::take(&mut self.state().suspicion)
    }

    /// An error if waiting is of no use any more: the cluster refuses who we are.
    pub(super) fn check(&self) -> Result<()> {
        match &self.state().hopeless {
            None => Ok(()),
            Some((reason, advice)) => Err(Error::invalid(reason.clone()).help(*advice)),
        }
    }
}

impl ClientContext for Watch {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
        match &self.tokens {
            Some(tokens) => Ok(tokens.next()?),
            None => Err("there is no 'properties.sasl.oauthbearer.token'".into()),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut state = self.state();
        state.errors += 1;
        match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism) => {
                state.hopeless = Some(match reason.strip_prefix(NO_TOKEN) {
                    Some(reason) => (format!("there is no token to show: {reason}"), TOKEN),
                    None => (format!("the broker refuses this client: {reason}"), WHO),
                });
            }
            // librdkafka advises on properties that tables do not have
            Some(Code::SSL) if reason.contains("certificate verify failed") => {
                let reason = reason.split(", verify that ssl.ca.location").next().unwrap_or(reason);
                state.hopeless = Some((format!("the broker is not trusted: {reason}"), CERTIFICATE));
            }
            Some(Code::SSL | Code::BrokerTransportFailure) if refuses_certificate(reason) => {
                let reason = reason.split(" (see ssl.key.location").next().unwrap_or(reason);
                state.hopeless = Some((format!("the broker refuses this client: {reason}"), OUR_CERTIFICATE));
            }
            // librdkafka looks for the group's coordinator, which we never need
            Some(Code::GroupAuthorizationFailed) => return,
            // says nothing but that the others were the last
            Some(Code::AllBrokersDown) if state.reason.is_some() => {}
            _ => state.reason = Some(reason.to_owned()),
        }
        if !state.trouble {
            state.trouble = true;
            warn!(reason, "kafka: a broker is out of reach; waiting for it");
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Errors of brokers come to `error` too, with the same words and a code; those of topics come here alone.
        match facility {
            "ERROR" => self.state().suspicion = true,
            // a connection is lost: an event comes only if no other broker is left
            "FAIL" => self.state().errors += 1,
            _ => {}
        }
        debug!(?level, facility, "librdkafka: {message}");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let silence = self.silence.unwrap_or(FETCH_WAIT + SILENCE).as_micros();
        let idle = |micros: i64| u128::try_from(micros).is_ok_and(|micros| micros > silence);
        let mut read = statistics.brokers.values().filter(|broker| !broker.toppars.is_empty());
        self.state().silent = read.any(|broker| idle(broker.rxidle));
        if !self.trouble() {
            return;
        }
        // Bootstrap addresses have negative ids; a broker without partitions of ours is not connected at all.
        let mut brokers = statistics.brokers.values().filter(|broker| broker.nodeid >= 0).peekable();
        if brokers.peek().is_some() && brokers.all(|broker| matches!(broker.state.as_str(), "UP" | "INIT")) {
            self.state().trouble = false;
            info!("kafka: the brokers answer again");
        }
    }
}

/// True for a broker that wants another certificate of ours. Since TLS 1.3 it says so after the handshake, when librdkafka takes it
/// for a lost connection.
fn refuses_certificate(reason: &str) -> bool {
    reason.contains(" alert ")
        && ["certificate", "unknown ca", "handshake failure"].iter().any(|of| reason.contains(of))
}

impl ConsumerContext for Watch {}

/// A client's ear, and the call that makes it hear.
pub(super) struct Line<'a, C: ClientContext> {
    /// The client.
    pub client: &'a Client<C>,
    /// What the client heard.
    pub watch: &'a Watch,
    /// Handles the events that wait.
    pub serve: &'a dyn Fn(),
}

impl<C: ClientContext> Line<'_, C> {
    /// The numbers of `topic`'s partitions, in order. With `creates`, asking may create the topic.
    ///
    /// # Errors
    /// If nobody answers, with the newest reason; if there is no such topic, with the nearest name.
    pub(super) fn partitions(&self, topic: &str, creates: bool, brokers: &str, context: &Context) -> Result<Vec<i32>> {
        let start = context.clock.monotonic();
        loop {
            let metadata = self.answer(brokers, context, |wait| self.client.fetch_metadata(Some(topic), wait))?;
            let described = metadata.topics().iter().find(|described| described.name() == topic);
            match described.and_then(|described| described.error()).map(Code::from) {
                None => {
                    let partitions = described.iter().flat_map(|described| described.partitions());
                    let mut partitions: Vec<i32> = partitions.map(|partition| partition.id()).collect();
                    partitions.sort_unstable();
                    if !partitions.is_empty() {
                        return Ok(partitions);
                    }
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) if !creates => {
                    return Err(self.missing(topic, brokers));
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::LeaderNotAvailable) => {}
                Some(code) => return Err(refused(code)),
            }
            if context.clock.monotonic() - start >= CREATION_WAIT {
                return Err(self.missing(topic, brokers));
            }
            std::thread::sleep(BREATH);
        }
    }

    /// Asks, each time with so much patience, until there is an answer.
    ///
    /// # Errors
    /// If there is none within [`ANSWER_WAIT`], or the cluster refuses this client.
    pub(super) fn answer<T>(
        &self,
        brokers: &str,
        context: &Context,
        ask: impl Fn(Duration) -> KafkaResult<T>,
    ) -> Result<T> {
        let start = context.clock.monotonic();
        (self.serve)(); // it may ask for a token before it can ask for anything else
        loop {
            let left = || ANSWER_WAIT.saturating_sub(context.clock.monotonic() - start);
            let answer = ask(left().clamp(BREATH, QUESTION_WAIT));
            (self.serve)();
            self.watch.check()?;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(_) if !left().is_zero() => std::thread::sleep(BREATH),
                Err(error) => return Err(self.unanswered(brokers, error)),
            }
        }
    }

    fn unanswered(&self, brokers: &str, error: KafkaError) -> Error {
        let silent = matches!(
            error.rdkafka_error_code(),
            Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::AllBrokersDown | Code::Resolve)
        );
        let reason = self.watch.reason().filter(|_| silent).unwrap_or_else(|| error.to_string());
        Error::unavailable(format!("{brokers} gave no answer within {} s: {reason}", ANSWER_WAIT.as_secs()))
            .help(match ["127.0.0.1", "localhost", "[::1]"].iter().any(|local| brokers.contains(local)) {
                true => "start a broker there; `highwater broker` runs one for development",
                false => {
                    "see that a broker listens there and that it advertises an address which can be reached from here"
                }
            })
            .caused_by(error)
    }

    fn missing(&self, topic: &str, brokers: &str) -> Error {
        let error = Error::invalid(format!("there is no such topic at {brokers}"));
        let Ok(metadata) = self.client.fetch_metadata(None, QUESTION_WAIT) else { return error };
        let names: Vec<&str> =
            metadata.topics().iter().map(|described| described.name()).filter(|name| !name.starts_with("__")).collect();
        error.help(match nearest(topic, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if names.is_empty() => "create it; the cluster has no topics yet".to_owned(),
            None => format!("create it, or name one of the {} that are there", names.len()),
        })
    }
}

/// What a broker refuses for good.
pub(super) fn refused(code: Code) -> Error {
    let error = Error::invalid(format!("the broker refuses: {code}"));
    match code {
        Code::TopicAuthorizationFailed => error.help("let this user read or write the topic (an ACL at the broker)"),
        _ => error,
    }
}

/// The error for a client that could not be made: properties that do not fit each other, or a feature that was left out.
pub(super) fn not_created(error: KafkaError) -> Error {
    let reason = match &error {
        KafkaError::ClientCreation(reason) => reason.clone(),
        KafkaError::ClientConfig(_, reason, name, _) => format!("'properties.{name}': {reason}"),
        other => other.to_string(),
    };
    Error::invalid(format!("librdkafka does not accept this configuration: {reason}"))
}
