//! Kafka's wire types: a reader over one request and a writer for one response.
//!
//! Every length comes from the peer, so the reader never reserves memory for one: it takes what is there or refuses.
//! A request in Kafka's *flexible* encoding (of those that the broker answers, only the newer OffsetFetch and Metadata) has the
//! same fields in another dress: lengths as variable-size numbers and a list of tagged fields after each structure.

/// Why a connection is closed: the request cannot be read, or the broker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hangup(pub &'static str);

/// What reading from a peer gives.
pub type Read<T> = Result<T, Hangup>;

/// The longest text that is accepted; also the longest that the inflexible encoding can say.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// The unread rest of a request.
pub struct Reader<'a> {
    rest: &'a [u8],
    pub flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, flexible: false }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Hangup("request is too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Hangup("request is too short"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn bool(&mut self) -> Read<bool> {
        Ok(self.i8()? != 0)
    }

    pub fn i8(&mut self) -> Read<i8> {
        self.array_of().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Read<i16> {
        self.array_of().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Read<i32> {
        self.array_of().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Read<i64> {
        self.array_of().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Read<u32> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.array_of::<1>()?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value.try_into().map_err(|_| Hangup("number is too large"));
            }
        }
        Err(Hangup("number is too long"))
    }

    /// A length in the flexible encoding, where 0 stands for "null".
    fn varint_length(&mut self) -> Read<Option<usize>> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    /// A text that may be null.
    pub fn text_or_null(&mut self) -> Read<Option<String>> {
        let length = if self.flexible { self.varint_length()? } else { usize::try_from(self.i16()?).ok() };
        let Some(length) = length else { return Ok(None) };
        if length > TEXT_BYTES_MAX {
            return Err(Hangup("text is too long"));
        }
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Hangup("text is not UTF-8"))?;
        Ok(Some(text.to_owned()))
    }

    pub fn text(&mut self) -> Read<String> {
        self.text_or_null()?.ok_or(Hangup("text is null"))
    }

    /// A UUID.
    pub fn uuid(&mut self) -> Read<[u8; 16]> {
        self.array_of()
    }

    /// Bytes; null reads as none.
    pub fn bytes(&mut self) -> Read<&'a [u8]> {
        match usize::try_from(self.i32()?) {
            Ok(length) => self.take(length),
            Err(_) => Ok(&[]),
        }
    }

    /// An array that may be null. It grows with what was read, not with the count that the peer claims.
    pub fn list_or_null<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Option<Vec<T>>> {
        let length = if self.flexible { self.varint_length()? } else { usize::try_from(self.i32()?).ok() };
        let Some(length) = length else { return Ok(None) };
        if length > self.rest.len() {
            return Err(Hangup("array is longer than the request"));
        }
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(item(self)?);
        }
        Ok(Some(items))
    }

    /// An array; null reads as empty.
    pub fn list<T>(&mut self, item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        Ok(self.list_or_null(item)?.unwrap_or_default())
    }

    /// Skips the tagged fields that end a structure of the flexible encoding.
    pub fn tags(&mut self) -> Read<()> {
        if self.flexible {
            for _ in 0..self.varint()? {
                self.varint()?;
                let length = self.varint()? as usize;
                self.take(length)?;
            }
        }
        Ok(())
    }
}

/// A response, or a fact of the ledger, as it is put together.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    pub flexible: bool,
}

/// The bytes of a frame's length, which does not count itself.
const FRAME_LENGTH_BYTES: usize = 4;

impl Writer {
    /// Begins a response's frame; its length is filled in at the end.
    pub fn frame(correlation: i32) -> Self {
        let mut writer = Writer::default();
        writer.i32(0);
        writer.i32(correlation);
        writer
    }

    pub fn into_frame(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - FRAME_LENGTH_BYTES) as i32;
        self.bytes[..FRAME_LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn bool(&mut self, value: bool) {
        self.i8(value.into());
    }

    pub fn i8(&mut self, value: i8) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Writes a text. One that is too long for the encoding is cut: only the broker's own messages could be.
    pub fn text(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)];
        if self.flexible {
            self.varint(text.len() + 1);
        } else {
            self.i16(text.len() as i16);
        }
        self.bytes.extend(text);
    }

    pub fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None if self.flexible => self.varint(0),
            None => self.i16(-1),
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.i32(bytes.len() as i32);
        self.raw(bytes);
    }

    /// Bytes without a length before them.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn null_list(&mut self) {
        self.i32(-1);
    }

    pub fn empty_list(&mut self) {
        self.list([(); 0], |_, ()| {});
    }

    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut item: impl FnMut(&mut Self, T),
    ) {
        let items = items.into_iter();
        if self.flexible {
            self.varint(items.len() + 1);
        } else {
            self.i32(items.len() as i32);
        }
        for each in items {
            item(self, each);
        }
    }

    /// Ends a structure of the flexible encoding: no tagged fields.
    pub fn tags(&mut self) {
        if self.flexible {
            self.varint(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_read_what_they_wrote() {
        for flexible in [false, true] {
            let mut writer = Writer { flexible, ..Writer::default() };
            writer.text_or_null(None);
            writer.text(&"long".repeat(100));
            writer.list([1, 2, 3], |writer, each| writer.i32(each));
            writer.tags();
            let bytes = writer.into_bytes();
            let mut reader = Reader { rest: &bytes, flexible };
            assert_eq!(reader.text_or_null(), Ok(None));
            assert_eq!(reader.text(), Ok("long".repeat(100)));
            assert_eq!(reader.list(|reader| reader.i32()), Ok(vec![1, 2, 3]));
            assert_eq!(reader.tags(), Ok(()));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        let claims_two_billion = i32::MAX.to_be_bytes();
        assert!(Reader::new(&claims_two_billion).list(|reader| reader.i8()).is_err());
        assert!(Reader::new(&claims_two_billion).bytes().is_err());
        assert!(Reader { rest: &[0xff; 9], flexible: true }.text().is_err());
    }
}
