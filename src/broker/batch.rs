//! Record batches, the unit that Kafka's producers send and its logs keep (message format 2).
//!
//! The broker reads a batch's header and checks its checksum; records stay as they are, compressed or not. It writes
//! two fields, the base offset and the leader epoch, which the checksum leaves out for that purpose, and it makes one
//! kind of batch itself: the marker that ends a transaction.

use super::protocol::{Answer, ErrorCode};

/// Bytes from a batch's start to its first record.
pub const HEADER_BYTES: usize = 61;

/// Bytes before the part that the batch's length field counts.
const BEFORE_LENGTH: usize = 12;
/// Where the part under the checksum begins.
const CHECKED_FROM: usize = 21;
const FORMAT: u8 = 2;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// What the header of a batch says.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Of the whole batch, header included.
    pub bytes: usize,
    pub base_offset: i64,
    /// Offsets that the batch takes; at least 1.
    pub offsets: i64,
    pub max_timestamp: i64,
    /// Negative for a producer that is not idempotent.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    attributes: i16,
}

impl Header {
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The sequence number of the last record; numbers wrap to 0 after `i32::MAX`.
    pub fn last_sequence(&self) -> i32 {
        self.base_sequence.wrapping_add((self.offsets - 1) as i32) & i32::MAX
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

/// Splits the first batch from `bytes`, after checking that it is whole and what its producer made.
pub fn split_first(bytes: &[u8]) -> Answer<(Header, &[u8], &[u8])> {
    if bytes.len() < HEADER_BYTES {
        return Err(ErrorCode::CorruptMessage);
    }
    if bytes[16] != FORMAT {
        return Err(ErrorCode::UnsupportedForMessageFormat);
    }
    let length = usize::try_from(i32::from_be_bytes(field(bytes, 8))).map_err(|_| ErrorCode::CorruptMessage)?;
    let (batch, rest) = bytes.split_at_checked(length + BEFORE_LENGTH).ok_or(ErrorCode::CorruptMessage)?;
    if batch.len() < HEADER_BYTES || crc32c::crc32c(&batch[CHECKED_FROM..]) != u32::from_be_bytes(field(batch, 17)) {
        return Err(ErrorCode::CorruptMessage);
    }
    let offsets = i64::from(i32::from_be_bytes(field(batch, 23))) + 1;
    if offsets < 1 || offsets != i64::from(i32::from_be_bytes(field(batch, 57))) {
        return Err(ErrorCode::InvalidRecord);
    }
    let header = Header {
        bytes: batch.len(),
        base_offset: i64::from_be_bytes(field(batch, 0)),
        offsets,
        max_timestamp: i64::from_be_bytes(field(batch, 35)),
        producer_id: i64::from_be_bytes(field(batch, 43)),
        producer_epoch: i16::from_be_bytes(field(batch, 51)),
        base_sequence: i32::from_be_bytes(field(batch, 53)),
        attributes: i16::from_be_bytes(field(batch, 21)),
    };
    Ok((header, batch, rest))
}

/// A copy of `batch` with the offset that the log gives it.
pub fn placed_at(batch: &[u8], base_offset: i64) -> Box<[u8]> {
    let mut placed: Box<[u8]> = batch.into();
    placed[..8].copy_from_slice(&base_offset.to_be_bytes());
    placed[12..16].fill(0);
    placed
}

/// Whether a control batch is the marker of an abort. Of the markers, only aborts are remembered by a log.
pub fn is_abort(batch: &[u8]) -> bool {
    // After the header: length, attributes, two deltas and the key's length, a byte each; then version and type.
    batch.get(HEADER_BYTES + 7..HEADER_BYTES + 9) == Some(&[0, 0])
}

/// The batch that ends a producer's transaction in one partition.
pub fn marker(producer_id: i64, producer_epoch: i16, commit: bool, timestamp: i64) -> Vec<u8> {
    let version_and_type = [0, 0, 0, u8::from(commit)];
    let coordinator_epoch = [0; 4];
    // Lengths are zigzag numbers: 8 is 4 bytes, 12 is 6 bytes.
    let record = [&[0, 0, 0, 8][..], &version_and_type, &[12, 0, 0], &coordinator_epoch, &[0]].concat();
    let checked = [
        &(TRANSACTIONAL | CONTROL).to_be_bytes()[..],
        &0i32.to_be_bytes(), // the last offset's delta
        &timestamp.to_be_bytes(),
        &timestamp.to_be_bytes(),
        &producer_id.to_be_bytes(),
        &producer_epoch.to_be_bytes(),
        &(-1i32).to_be_bytes(), // markers have no sequence
        &1i32.to_be_bytes(),
        &[(record.len() as u8) << 1],
        &record,
    ]
    .concat();
    let length = (CHECKED_FROM - BEFORE_LENGTH + checked.len()) as i32;
    [&[0; 8][..], &length.to_be_bytes(), &[0; 4], &[FORMAT], &crc32c::crc32c(&checked).to_be_bytes(), &checked].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_batch_that_says_how_it_ended() {
        for commit in [false, true] {
            let bytes = marker(7, 3, commit, 1_000);
            let (header, batch, rest) = split_first(&bytes).expect("a whole batch");
            assert!(header.is_control() && header.is_transactional() && rest.is_empty());
            assert_eq!((header.producer_id, header.producer_epoch, header.offsets), (7, 3, 1));
            assert_eq!(is_abort(batch), !commit);
        }
    }

    #[test]
    fn a_cut_or_changed_batch_is_refused() {
        let whole = marker(7, 3, true, 1_000);
        for length in 0..whole.len() {
            assert!(split_first(&whole[..length]).is_err(), "cut at {length}");
        }
        for at in (8..12).chain(16..whole.len()) {
            let mut changed = whole.clone();
            changed[at] ^= 0x80;
            assert!(split_first(&changed).is_err(), "changed at {at}");
        }
    }
}
