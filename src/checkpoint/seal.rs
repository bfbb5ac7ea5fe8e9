//! JSON with a checksum in front, which is compared before anything is parsed.
//!
//! `{"blake3":"<64 hex digits>",…`: the checksum is that of all bytes behind the comma.

use crate::error::{Error, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

const HEAD: &[u8] = b"{\"blake3\":\"";
const DIGITS: usize = 64;

/// `value`, which must be a struct, as sealed JSON.
pub fn seal<T: Serialize>(value: &T) -> Result<Bytes> {
    let text = serde_json::to_string(value).map_err(|error| Error::internal(format!("it is no JSON: {error}")))?;
    let rest = text.strip_prefix('{').filter(|rest| rest.len() > 1);
    let rest = rest.ok_or_else(|| Error::internal("only a struct with fields can be sealed"))?;
    let mut sealed = Vec::with_capacity(HEAD.len() + DIGITS + 2 + rest.len() + 1);
    sealed.extend_from_slice(HEAD);
    let rest = format!("{rest}\n");
    sealed.extend_from_slice(checksum(rest.as_bytes()).as_bytes());
    sealed.extend_from_slice(b"\",");
    sealed.extend_from_slice(rest.as_bytes());
    Ok(sealed.into())
}

/// What [`seal`] was given.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let parts = bytes.strip_prefix(HEAD).and_then(|rest| rest.split_at_checked(DIGITS));
    let parts = parts.and_then(|(sum, rest)| Some((sum, rest.strip_prefix(b"\",")?)));
    let (sum, rest) = parts.ok_or_else(|| {
        Error::corrupt(if bytes.is_empty() { "it is empty" } else { "it does not begin with a checksum" })
    })?;
    if sum != checksum(rest).as_bytes() {
        return Err(Error::corrupt("its bytes are not those that were written: the checksum differs"));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(format!("this version cannot read it: {error}")).caused_by(error))
}

/// BLAKE3 of `bytes` in 64 hex digits.
pub fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: String,
    }

    #[test]
    fn what_was_sealed_comes_back_and_is_json() {
        let thing = Thing { name: "a".into() };
        let bytes = seal(&thing).unwrap();
        assert_eq!(unseal::<Thing>(&bytes).unwrap(), thing);
        assert!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["blake3"].is_string());
    }

    #[test]
    fn a_changed_or_missing_byte_is_seen() {
        let bytes = seal(&Thing { name: "a".into() }).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(unseal::<Thing>(&changed).is_err(), "byte {at}");
            assert!(unseal::<Thing>(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}
