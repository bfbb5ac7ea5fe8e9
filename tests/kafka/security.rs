//! TLS, passwords and tokens, on a real broker that has a listener for each.

use super::*;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// How soon a refusal must come.
const AT_ONCE: Duration = Duration::from_secs(60);

type Given = Vec<(String, String)>;

/// The properties for a listener, as a definition has them: what is secret stands in files.
struct Door<'a> {
    kafka: &'a Kafka,
    secrets: tempfile::TempDir,
}

impl Door<'_> {
    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.secrets.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("${{file:{}}}", path.display())
    }

    fn broker_file(&self, name: &str) -> String {
        format!("${{file:{}}}", self.kafka.file(name).display())
    }

    fn tls(&self, ca: &str) -> Given {
        given(&[("security.protocol", "SSL"), ("ssl.ca.pem", &self.broker_file(ca))])
    }

    fn sasl(&self, tls: bool, mechanism: &str, password: &str) -> Given {
        let mut all = given(&[
            ("security.protocol", if tls { "SASL_SSL" } else { "SASL_PLAINTEXT" }),
            ("sasl.mechanism", mechanism),
            ("sasl.username", "alice"),
            ("sasl.password", &self.secret("password", &format!("{password}\n"))),
        ]);
        if tls {
            all.extend(given(&[("ssl.ca.pem", &self.broker_file("tls/ca.pem"))]));
        }
        all
    }

    fn bearer(&self, expires_in: i64) -> Given {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
        let head = part(r#"{"alg":"none"}"#.into());
        let claims = part(format!(r#"{{"sub":"alice","iat":{},"exp":{}}}"#, now - 60, now + expires_in));
        let token = self.secret("token", &format!("{head}.{claims}."));
        given(&[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.token", &token),
        ])
    }
}

fn given(properties: &[(&str, &str)]) -> Given {
    properties.iter().map(|(name, value)| (format!("properties.{name}"), (*value).to_owned())).collect()
}

fn secured(bootstrap: &str, topic: &str, given: &Given, more: &[(&str, &str)]) -> Table {
    let given: Vec<(&str, &str)> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    lines(bootstrap, topic, &[given.as_slice(), more].concat())
}

/// Writes a row by `given` to a topic that it creates, and reads it back.
fn passes(what: &str, bootstrap: &str, given: &Given) {
    let topic = unique("secured");
    let table = secured(bootstrap, &topic, given, &[("topic.create", "true"), TO_THE_END]);
    let mut shard =
        KafkaSink::new(&table).and_then(|sink| sink.open(0, 1, &context())).unwrap_or_else(|e| panic!("{what}: {e}"));
    shard.write(batch(vec![("line", strings([what.to_owned()]))])).unwrap();
    shard.finish().unwrap();
    assert_eq!(read_all(&KafkaSource::new(&table, &[0]).unwrap()), [[what]]);
}

/// What both sides answer, at once.
fn refusal(bootstrap: &str, given: &Given) -> String {
    let table = secured(bootstrap, "t", given, &[]);
    let start = Instant::now();
    let read = KafkaSource::new(&table, &[0]).and_then(|source| source.splits(&context())).unwrap_err();
    assert!(start.elapsed() < AT_ONCE, "not after {:?}: {read}", start.elapsed());
    assert_eq!(read.kind(), ErrorKind::Invalid, "{read}");
    let start = Instant::now();
    let written = KafkaSink::new(&table).and_then(|sink| sink.open(0, 1, &context())).err().unwrap();
    assert!(start.elapsed() < AT_ONCE, "not after {:?}: {written}", start.elapsed());
    assert_eq!(written.kind(), ErrorKind::Invalid, "{written}");
    assert!(read.advice().is_some() && written.advice().is_some(), "{read:?} {written:?}");
    said(&read)
}

#[test]
fn every_door_opens_to_who_has_the_key_and_to_nobody_else() {
    let Some(kafka) = Kafka::start_own(&["--auth", "all", "--props", "auto.create.topics.enable=false"]) else {
        return;
    };
    within(3 * LIMIT, "security", move || {
        let door = Door { kafka: &kafka, secrets: tempfile::tempdir().unwrap() };
        let [sasl, tls, both, mutual] = ["sasl", "tls", "sasl_tls", "mutual"].map(|name| kafka.listener(name));
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            passes(mechanism, &sasl, &door.sasl(false, mechanism, "alice-secret"));
            let message = refusal(&sasl, &door.sasl(false, mechanism, "hunter2"));
            assert!(message.contains("the broker refuses this client: "), "{message}");
            assert!(message.contains("….password") && !message.contains("hunter2"), "{message}");
        }
        passes("SCRAM and TLS", &both, &door.sasl(true, "SCRAM-SHA-512", "alice-secret"));
        passes("token", &sasl, &door.bearer(600));
        passes("TLS", &tls, &door.tls("tls/ca.pem"));
        let certificate = |mut all: Given| {
            let parts = [("ssl.certificate.pem", "tls/client.pem"), ("ssl.key.pem", "tls/client.key")];
            all.extend(parts.iter().flat_map(|(name, file)| given(&[(name, &door.broker_file(file))])));
            all
        };
        passes("certificate", &mutual, &certificate(door.tls("tls/ca.pem")));

        let untrusted = refusal(&tls, &door.tls("tls/other-ca.pem"));
        assert!(untrusted.contains("the broker is not trusted: "), "{untrusted}");
        assert!(untrusted.contains("certificate verify failed") && untrusted.contains("'properties.ssl.ca.pem'"));
        let unknown = refusal(&tls, &given(&[("security.protocol", "SSL")]));
        assert!(unknown.contains("the broker is not trusted: "), "{unknown}");
        let anonymous = refusal(&mutual, &door.tls("tls/ca.pem"));
        assert!(anonymous.contains("'properties.ssl.certificate.pem'"), "{anonymous}");
        let expired = refusal(&sasl, &door.bearer(-60));
        assert!(expired.contains("unexpired token"), "{expired}");

        let mut absent = door.sasl(false, "PLAIN", "x");
        absent.last_mut().unwrap().1 = "${file:/no/such/password}".into();
        assert_eq!(
            refusal(&sasl, &absent),
            "option 'properties.sasl.password': file '/no/such/password' cannot be read: No such file or directory (os \
             error 2) / is it where the pipeline runs?"
        );

        let all = door.sasl(true, "PLAIN", "alice-secret");
        let message = refusal(&both, &all);
        assert!(message.starts_with("topic \"t\": there is no such topic at the brokers at 127.0.0.1:"), "{message}");
        let message = said(&source(kafka.bootstrap(), "t", &[]).splits(&context()).unwrap_err());
        assert!(message.ends_with("/ create it, or name one of the 7 that are there"), "{message}");
    });
}

#[test]
fn a_killed_test_run_leaves_no_broker() {
    if Kafka::start().is_none() {
        return; // there is no Java, which it has said
    }
    within(LIMIT, "a killed run", || {
        let directory = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kafka/kafka.sh");
        let run =
            format!("{script} start --dir {}/kafka --watch-pid $$ --purge && sleep 1000", directory.path().display());
        let mut run = Command::new("bash").args(["-c", &run]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(run.stdout.take().unwrap()), &mut address).unwrap();
        let answers = || std::net::TcpStream::connect(address.trim()).is_ok();
        assert!(answers(), "the broker runs at {address:?}");
        let group = nix::unistd::Pid::from_raw(run.id() as i32);
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        eventually("the broker is gone", || !answers());
        eventually("its files are gone", || !directory.path().join("kafka").exists());
    });
}
