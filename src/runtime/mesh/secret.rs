//! The secret that the processes of one execution share.

use crate::error::{Error, Result};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::fmt;
use std::path::Path;

/// The environment variable that holds the secret.
pub const SECRET_ENV: &str = "HIGHWATER_MESH_SECRET";

/// At least 32 characters of text, and the key that is derived from it. Never printed, logged or sent.
#[derive(Clone)]
pub struct Secret {
    text: String,
    key: [u8; 32],
}

impl Secret {
    /// Takes the text, without the white space around it.
    ///
    /// # Errors
    /// `Invalid` if it is shorter than 32 characters: who hears a handshake could guess it at leisure.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() < 32 {
            return Err(Error::invalid(format!("the mesh secret has {} characters, 32 are the least", text.len()))
                .help("make one with: openssl rand -hex 32"));
        }
        let key = blake3::derive_key("highwater mesh secret, version 1", text.as_bytes());
        Ok(Secret { text: text.to_owned(), key })
    }

    /// Reads it from `file`, or else from [`SECRET_ENV`]; none if neither is there.
    ///
    /// # Errors
    /// `Invalid` if the file cannot be read or the secret is too short.
    pub fn load(file: Option<&Path>) -> Result<Option<Self>> {
        if let Some(file) = file {
            let place = format!("mesh secret {}", file.display());
            let text = std::fs::read_to_string(file)
                .map_err(|error| Error::invalid(format!("cannot read it: {error}")).within(&place).caused_by(error))?;
            return Self::parse(&text).map(Some).map_err(|error| error.within(&place));
        }
        match std::env::var(SECRET_ENV) {
            Ok(text) => Self::parse(&text).map(Some).map_err(|error| error.within(SECRET_ENV)),
            Err(_) => Ok(None),
        }
    }

    /// A new one of 256 bits, in hex.
    ///
    /// # Errors
    /// `Unavailable` if the operating system has no random numbers.
    pub fn generate() -> Result<Self> {
        Self::parse(&random_hex()?)
    }

    /// The text, to hand to a child process in its environment and nowhere else.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The key for proofs.
    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// 32 random bytes of the operating system, in hex.
pub(super) fn random_hex() -> Result<String> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Error::unavailable("the operating system gives no random numbers").caused_by(error))?;
    Ok(hex(&bytes))
}

/// `bytes` in hex.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_and_does_not_print() {
        assert!(Secret::parse("short").unwrap_err().to_string().contains("5 characters, 32 are the least"));
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.reveal().len(), 64);
        assert!(!format!("{secret:?}").contains(&secret.reveal()[..8]));
        assert_eq!(Secret::parse(&format!(" {}\n", secret.reveal())).unwrap().key(), secret.key());
    }
}
