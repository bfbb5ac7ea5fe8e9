//! Tokens for SASL OAUTHBEARER: taken from the definition, or from where it refers to, each time that librdkafka wants one.
//!
//! librdkafka asks again when four fifths of a token's life are over, so a file that another program renews is enough. Its
//! own way of fetching tokens (OIDC) is not built in.
#![allow(unsafe_code)]

use crate::connector::Secret;
use crate::error::{Error, Result};
use crate::time::Clock;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;

/// For how long a token is used that does not say it itself.
const LIFE_MILLIS: i64 = 5 * 60 * 1000;

/// Where tokens come from.
#[derive(Clone)]
pub(super) struct Tokens {
    pub(super) source: Secret,
    pub(super) clock: Arc<dyn Clock>,
}

impl Tokens {
    /// The token of now.
    pub(super) fn next(&self) -> Result<OAuthToken> {
        let token = self.source.reveal()?.trim().to_owned();
        let now = self.clock.wall() / 1000;
        let claims = claims(&token);
        let expiry = claims.as_ref().and_then(|claims| claims["exp"].as_f64());
        let principal = claims.as_ref().and_then(|claims| claims["sub"].as_str());
        Ok(OAuthToken {
            lifetime_ms: expiry.map_or(now + LIFE_MILLIS, |seconds| (seconds * 1000.0) as i64),
            principal_name: principal.filter(|name| !name.is_empty()).unwrap_or("highwater").to_owned(),
            token,
        })
    }

    /// Gives `client` a token before it asks, for a client whose questions nobody hears.
    pub(super) fn give<C: ClientContext>(&self, client: &Client<C>) -> Result<()> {
        let next = self.next()?;
        let text = |text: String| CString::new(text).map_err(|_| Error::invalid("the token has a zero byte in it"));
        let (token, principal) = (text(next.token)?, text(next.principal_name)?);
        let mut reason = [0; 256];
        // SAFETY: the client is alive; both texts are C strings, which the call copies; there are no extensions; the reason
        // is written within its size and ends in a zero.
        let code = unsafe {
            sys::rd_kafka_oauthbearer_set_token(
                client.native_ptr(),
                token.as_ptr(),
                next.lifetime_ms,
                principal.as_ptr(),
                ptr::null_mut(),
                0,
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        if Code::from(code) == Code::NoError {
            return Ok(());
        }
        // SAFETY: see above; the array lives until the text is copied.
        let reason = unsafe { CStr::from_ptr(reason.as_ptr()) };
        Err(Error::invalid(format!("the token is refused: {}", reason.to_string_lossy())))
    }
}

/// What a JSON web token says, if it is one.
fn claims(token: &str) -> Option<serde_json::Value> {
    let claims = token.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    fn next(token: &str) -> OAuthToken {
        Tokens { source: Secret::new(token), clock: Arc::new(SystemClock::default()) }.next().unwrap()
    }

    #[test]
    fn a_token_says_whose_it_is_and_how_long_it_lives() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"alice","exp":1700000000.5}"#);
        let token = next(&format!(" e30.{claims}.\n"));
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("alice", 1_700_000_000_500));
        assert_eq!(token.token, format!("e30.{claims}."));
        let opaque = next("opaque");
        assert_eq!(opaque.principal_name, "highwater");
        assert!(opaque.lifetime_ms > 1_700_000_000_000);
    }
}
