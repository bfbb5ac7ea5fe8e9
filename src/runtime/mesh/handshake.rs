//! Who is on the other side of a connection, and does it belong here.
//!
//! ```text
//! dialer                                   listener
//!   preamble, hello with its nonce  ─────▶
//!                                   ◀─────  preamble, challenge with its nonce
//!   proof over all frames so far    ─────▶                                        wrong: told so, closed
//!                                   ◀─────  answer: its own hello, taken or not; proof over all frames so far
//! ```
//! A proof is blake3, keyed with the secret, over the role and every frame before it, both nonces included; it is
//! compared in constant time. A listener says who it is only after the dialer's proof. Frames have at most [`FRAME_MAX`] bytes,
//! and the whole handshake one deadline. The preamble and the length of the first frame stay as they are in every
//! version, so that two versions can tell each other apart. The connection is not encrypted: the proof keeps strangers
//! out, not those who can change what passes on the network.

use super::secret::{hex, random_hex};
use super::{Identity, Secret, wire};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Clock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

const MAGIC: [u8; 6] = *b"HWMESH";
const VERSION: u16 = 1;
const FRAME_MAX: usize = 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Heartbeats, failures, requests.
    Control,
    /// Timely's.
    Data,
}

/// How a process introduces itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub kind: Kind,
    pub process: usize,
    /// Where it listens, if the other side cannot know.
    pub listens: Option<String>,
    processes: usize,
    threads: usize,
    pipeline: String,
    generation: u64,
    fingerprint: String,
    nonce: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Challenge {
    nonce: String,
}

/// Proves the secret; the hex of a blake3 hash.
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    proof: String,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    WrongSecret,
    /// The dialer has proven itself. It compares the two hellos as the listener does.
    Known {
        hello: Hello,
        taken: bool,
    },
}

/// A handshake that gave no connection.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// No peer so far: closed, silent, garbage. Says what it did.
    Stray(String),
    /// The other side knows the secret, or says that we do not, and we do not belong together.
    Refused {
        /// Why.
        error: Error,
        /// The other's index, once it is proven.
        process: Option<usize>,
        /// True if the other is a generation behind ours and will be gone soon.
        older: bool,
    },
}

/// What this process says of itself, and how it proves it.
#[derive(Debug, Clone)]
pub(crate) struct Passport {
    hello: Hello,
    secret: Secret,
}

impl Passport {
    pub(crate) fn new(identity: &Identity, process: usize, processes: usize, threads: usize) -> Result<Self> {
        if identity.pipeline.len() > 128 {
            return Err(Error::invalid("the pipeline's name is longer than 128 bytes").within(&identity.pipeline));
        }
        let hello = Hello {
            kind: Kind::Control,
            process,
            listens: None,
            processes,
            threads,
            pipeline: identity.pipeline.clone(),
            generation: identity.generation,
            fingerprint: hex(&identity.fingerprint),
            nonce: String::new(),
        };
        Ok(Passport { hello, secret: identity.secret.clone() })
    }

    /// The same, with the address at which this process listens.
    pub(super) fn listening_at(mut self, address: String) -> Self {
        self.hello.listens = Some(address);
        self
    }

    fn hello(&self, kind: Kind) -> Result<Hello, Rejection> {
        Ok(Hello { kind, nonce: nonce()?, ..self.hello.clone() })
    }

    /// Why `theirs` does not belong to this process's mesh.
    pub(crate) fn objection(&self, theirs: &Hello) -> Option<Error> {
        let ours = &self.hello;
        let fenced = |text: String, help: &str| Some(Error::new(ErrorKind::Fenced, text).help(help));
        if theirs.pipeline != ours.pipeline {
            let text = format!("it runs pipeline {:?}, this process runs {:?}", theirs.pipeline, ours.pipeline);
            return fenced(text, "give each pipeline its own addresses");
        }
        if theirs.generation != ours.generation {
            let text = format!("it runs generation {}, this process runs {}", theirs.generation, ours.generation);
            return fenced(text, "stop the processes of the older generation");
        }
        if theirs.fingerprint != ours.fingerprint {
            let [there, here] = [theirs, ours].map(|hello| hello.fingerprint.get(..16).unwrap_or(&hello.fingerprint));
            let text = format!("it runs another plan: fingerprint {there}… there, {here}… here");
            return fenced(text, "start all processes from the same file with the same version of highwater");
        }
        if (theirs.processes, theirs.threads) != (ours.processes, ours.threads) {
            let [there, here] =
                [theirs, ours].map(|hello| format!("{} processes with {} threads", hello.processes, hello.threads));
            let text = format!("it counts {there}, this process {here}");
            return fenced(text, "give all processes the same numbers");
        }
        None
    }
}

/// Introduces this process to process `expected` on a fresh connection.
pub(crate) fn dial(
    stream: &TcpStream,
    passport: &Passport,
    kind: Kind,
    expected: usize,
    deadline: Duration,
    clock: &dyn Clock,
) -> Result<(), Rejection> {
    let mut talk = Talk::new(stream, passport, deadline, clock);
    let refused = |error: Error| Rejection::Refused { error, process: None, older: false };
    talk.say_preamble()?;
    talk.say(&passport.hello(kind)?)?;
    let theirs = talk.hear_preamble()?;
    if theirs != VERSION {
        return Err(refused(other_version(theirs)));
    }
    talk.hear::<Challenge>()?;
    talk.prove(Role::Dialer)?;
    let (hello, taken) = match talk.hear::<Answer>()? {
        Answer::WrongSecret => {
            let error = Error::new(ErrorKind::Fenced, "it has another mesh secret");
            return Err(refused(error.help("give all processes the same secret")));
        }
        Answer::Known { hello, taken } => (hello, taken),
    };
    if !talk.check(Role::Listener)? {
        return Err(Rejection::Stray("claimed to be a peer, but does not know the mesh secret".into()));
    }
    if let Some(error) = passport.objection(&hello) {
        let older = hello.pipeline == passport.hello.pipeline && hello.generation < passport.hello.generation;
        return Err(Rejection::Refused { error, process: Some(hello.process), older });
    }
    if hello.process != expected {
        let error = Error::new(ErrorKind::Fenced, format!("process {} listens there", hello.process));
        return Err(refused(error.help("give all processes the same list of addresses, in the same order")));
    }
    if taken {
        let error = format!("it is connected to a process {} already", passport.hello.process);
        return Err(refused(Error::new(ErrorKind::Fenced, error).help("start each index once")));
    }
    Ok(())
}

/// Hears who dials on a fresh connection and answers. `claim` takes the place that a peer asks for, if it is free.
pub(crate) fn accept(
    stream: &TcpStream,
    passport: &Passport,
    deadline: Duration,
    clock: &dyn Clock,
    claim: impl FnOnce(&Hello) -> bool,
) -> Result<Hello, Rejection> {
    let mut talk = Talk::new(stream, passport, deadline, clock);
    let version = talk.hear_preamble()?;
    let hello = talk.hear_frame()?;
    talk.say_preamble()?;
    if version != VERSION {
        return Err(Rejection::Stray(other_version(version).to_string()));
    }
    let hello: Hello = parse(&hello)?;
    talk.say(&Challenge { nonce: nonce()? })?;
    if !talk.check(Role::Dialer)? {
        talk.say(&Answer::WrongSecret)?;
        return Err(Rejection::Stray(format!("has another mesh secret and says that it is process {}", hello.process)));
    }
    let ours = &passport.hello;
    let objection = passport.objection(&hello).or_else(|| {
        (hello.process <= ours.process || hello.process >= ours.processes).then(|| {
            Error::new(ErrorKind::Fenced, format!("process {} does not dial process {}", hello.process, ours.process))
                .help("give all processes the same list of addresses, and each index once")
        })
    });
    let taken = objection.is_none() && !claim(&hello);
    talk.say(&Answer::Known { hello: passport.hello(hello.kind)?, taken })?;
    talk.prove(Role::Listener)?;
    let refusal = match objection {
        Some(error) => error,
        None if taken => Error::new(ErrorKind::Fenced, "a process of this index is connected already"),
        None => return Ok(hello),
    };
    Err(Rejection::Refused { error: refusal, process: Some(hello.process), older: false })
}

fn other_version(theirs: u16) -> Error {
    Error::new(ErrorKind::Fenced, format!("it speaks version {theirs} of the mesh protocol, this process {VERSION}"))
        .help("start all processes with the same version of highwater")
}

fn nonce() -> Result<String, Rejection> {
    random_hex().map_err(|error| Rejection::Refused { error, process: None, older: false })
}

fn parse<M: DeserializeOwned>(body: &[u8]) -> Result<M, Rejection> {
    serde_json::from_slice(body).map_err(|error| Rejection::Stray(format!("sent a frame that makes no sense: {error}")))
}

#[derive(Clone, Copy)]
enum Role {
    Dialer,
    Listener,
}

/// One handshake: the connection, its deadline, and the keyed hash of every frame in either direction.
struct Talk<'a> {
    stream: &'a TcpStream,
    until: Duration,
    patience: Duration,
    clock: &'a dyn Clock,
    frames: blake3::Hasher,
}

impl<'a> Talk<'a> {
    fn new(stream: &'a TcpStream, passport: &Passport, deadline: Duration, clock: &'a dyn Clock) -> Self {
        let until = clock.monotonic() + deadline;
        Talk { stream, until, patience: deadline, clock, frames: blake3::Hasher::new_keyed(passport.secret.key()) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Rejection> {
        self.stream
            .set_write_timeout(Some(self.patience))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(|error| Rejection::Stray(format!("broke the connection: {error}")))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Rejection> {
        let stray = |text: String| Err(Rejection::Stray(text));
        match wire::read_until(self.stream, bytes, self.until, self.clock) {
            Ok(read) if read == bytes.len() => Ok(()),
            Ok(_) => stray("closed the connection early".into()),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                stray(format!("did not finish the handshake within {:?}", self.patience))
            }
            Err(error) => stray(format!("broke the connection: {error}")),
        }
    }

    fn say_preamble(&mut self) -> Result<(), Rejection> {
        self.write(&[&MAGIC[..], &VERSION.to_be_bytes()].concat())
    }

    /// The other's version.
    fn hear_preamble(&mut self) -> Result<u16, Rejection> {
        let mut preamble = [0; 8];
        self.read(&mut preamble)?;
        let [magic @ .., high, low] = preamble;
        if magic != MAGIC {
            return Err(Rejection::Stray(format!("began with \"{}\"", preamble.escape_ascii())));
        }
        Ok(u16::from_be_bytes([high, low]))
    }

    fn say(&mut self, message: &impl Serialize) -> Result<(), Rejection> {
        let frame = wire::frame(message);
        self.frames.update(&frame);
        self.write(&frame)
    }

    fn hear_frame(&mut self) -> Result<Vec<u8>, Rejection> {
        let mut length = [0; 2];
        self.read(&mut length)?;
        let size = usize::from(u16::from_be_bytes(length));
        if size > FRAME_MAX {
            return Err(Rejection::Stray(format!("announced a frame of {size} bytes, {FRAME_MAX} are the most")));
        }
        let mut body = vec![0; size];
        self.read(&mut body)?;
        self.frames.update(&length).update(&body);
        Ok(body)
    }

    fn hear<M: DeserializeOwned>(&mut self) -> Result<M, Rejection> {
        parse(&self.hear_frame()?)
    }

    /// What `role` has to say at this point. The role is part of it, so that no proof serves the other side.
    fn proof(&self, role: Role) -> blake3::Hash {
        let role: &[u8] = match role {
            Role::Dialer => b"dialer",
            Role::Listener => b"listener",
        };
        self.frames.clone().update(role).finalize()
    }

    fn prove(&mut self, role: Role) -> Result<(), Rejection> {
        let proof = self.proof(role).to_hex().to_string();
        self.say(&Proof { proof })
    }

    fn check(&mut self, role: Role) -> Result<bool, Rejection> {
        let expected = self.proof(role);
        let heard: Proof = self.hear()?;
        // blake3 compares hashes in constant time
        Ok(blake3::Hash::from_hex(heard.proof).is_ok_and(|heard| heard == expected))
    }
}
