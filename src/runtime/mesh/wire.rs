//! Frames of the handshake and the control connection: a length of two bytes, most significant first, and that much JSON.

use crate::time::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

/// The bytes of `message` with its length. Messages are ours, small and without maps, so they always fit.
pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(message).expect("a message of plain fields is JSON");
    let length = u16::try_from(body.len()).expect("senders keep messages under 64 KiB");
    [&length.to_be_bytes(), &body[..]].concat()
}

/// Takes the first whole frame's message from the front of `bytes`.
pub(crate) fn take<M: DeserializeOwned>(bytes: &mut Vec<u8>) -> serde_json::Result<Option<M>> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let Some(body) = rest.get(..usize::from(u16::from_be_bytes(*length))) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    let taken = 2 + body.len();
    bytes.drain(..taken);
    Ok(Some(message))
}

/// Fills `bytes` from `stream` before `clock` says `until`; says how many came when they are not all.
pub(crate) fn read_until(
    mut stream: &TcpStream,
    mut bytes: &mut [u8],
    until: Duration,
    clock: &dyn Clock,
) -> io::Result<usize> {
    let wanted = bytes.len();
    while !bytes.is_empty() {
        let left = until.saturating_sub(clock.monotonic());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => break,
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted - bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let whole = frame(&vec!["hello", "world"]);
        let mut bytes = whole[..whole.len() - 1].to_vec();
        assert!(take::<Vec<String>>(&mut bytes).unwrap().is_none());
        bytes.extend([&whole[whole.len() - 1..], &whole[..3]].concat());
        assert_eq!(take::<Vec<String>>(&mut bytes).unwrap().unwrap(), ["hello", "world"]);
        assert_eq!(bytes, &whole[..3]);
        assert!(take::<u64>(&mut frame(&"text")).is_err());
    }
}
