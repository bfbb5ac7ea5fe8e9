//! Records of one partition in batches, straight from librdkafka's queue: four times cheaper than one call a record.
//!
//! rdkafka has no batch call, so this file makes librdkafka's own; it is the only one of the connector that does. A queue
//! holds its consumer, and gives everything back before it lets go of it.
#![allow(unsafe_code)]

use super::client::Watch;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;

/// Messages that are taken from the queue at once.
const TAKE: usize = 1000;

/// What comes out of a partition's queue.
#[derive(Debug)]
pub(crate) enum Taken<'a> {
    /// A record.
    Record(Record<'a>),
    /// The partition was read up to `offset`, and there is nothing more now.
    End { offset: i64 },
    /// The partition cannot be read, at least for a while.
    Trouble { code: Code, reason: String },
}

/// A record, whose parts are looked at only when they are asked for.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(&'a sys::rd_kafka_message_t);

/// What a record's timestamp stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimestampType {
    None,
    Create,
    LogAppend,
}

impl std::fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record at offset {}", self.offset())
    }
}

impl<'a> Record<'a> {
    pub(crate) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// Its value; none for a tombstone.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: a record's payload that is not null has `len` bytes and lives as long as its message.
        let bytes = || unsafe { std::slice::from_raw_parts(self.0.payload.cast::<u8>(), self.0.len) };
        (!self.0.payload.is_null()).then(bytes)
    }

    pub(super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: a record's key that is not null has `key_len` bytes and lives as long as its message.
        let bytes = || unsafe { std::slice::from_raw_parts(self.0.key.cast::<u8>(), self.0.key_len) };
        (!self.0.key.is_null()).then(bytes)
    }

    /// Milliseconds since 1970, and what happened then; none before Kafka 0.10.
    pub(super) fn timestamp(&self) -> (Option<i64>, TimestampType) {
        use sys::rd_kafka_timestamp_type_t as Raw;
        let mut what = Raw::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and the type is written before the call returns.
        let millis = unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut what) };
        let what = match what {
            Raw::RD_KAFKA_TIMESTAMP_CREATE_TIME => TimestampType::Create,
            Raw::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => TimestampType::LogAppend,
            Raw::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => TimestampType::None,
        };
        ((millis >= 0).then_some(millis), what)
    }

    /// Its headers, in order; names may repeat.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&'a CStr, Option<&'a [u8]>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; if it has headers, they live as long as it does, else the pointer stays null.
        let error = unsafe { sys::rd_kafka_message_headers(self.0, &raw mut headers) };
        let count = match Code::from(error) {
            // SAFETY: the call above gave the headers.
            Code::NoError if !headers.is_null() => unsafe { sys::rd_kafka_header_cnt(headers) },
            _ => 0,
        };
        (0..count).map_while(move |index| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `index` is below the number of headers; the call writes all three if it succeeds, and what they point to
            // lives as long as the message.
            unsafe {
                let error = sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size);
                if Code::from(error) != Code::NoError {
                    return None;
                }
                let bytes = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
                Some((CStr::from_ptr(name), bytes))
            }
        })
    }
}

/// The records of one assigned partition, apart from those of others.
pub(crate) struct PartitionQueue {
    consumer: Arc<BaseConsumer<Watch>>,
    topic: CString,
    partition: i32,
    queue: *mut sys::rd_kafka_queue_t,
    /// Messages that this queue owns; those before `next` were given out.
    taken: Vec<*mut sys::rd_kafka_message_t>,
    next: usize,
}

impl PartitionQueue {
    /// Separates the partition's records from the consumer's others. To be called before the partition is assigned.
    /// None if `topic` cannot be a topic's name.
    pub(crate) fn new(consumer: &Arc<BaseConsumer<Watch>>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client lives as long as `consumer`, which the new queue holds; the name is a C string that outlives
        // the call, which copies it.
        let queue =
            unsafe { sys::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition) };
        if queue.is_null() {
            return None;
        }
        // SAFETY: `queue` is ours since the call above; no destination means that its messages stay in it.
        unsafe { sys::rd_kafka_queue_forward(queue, ptr::null_mut()) };
        Some(PartitionQueue { consumer: Arc::clone(consumer), topic, partition, queue, taken: Vec::new(), next: 0 })
    }

    /// The next thing in the queue; none if it is empty. Never waits.
    pub(crate) fn next(&mut self) -> Option<Taken<'_>> {
        if self.next == self.taken.len() {
            self.refill();
        }
        let message = *self.taken.get(self.next)?;
        self.next += 1;
        // SAFETY: the message is one that `refill` took; it is not destroyed before the next `refill` or `drop`, which need
        // `&mut self` and so come after the borrow that is given out here.
        let message = unsafe { &*message };
        let code = Code::from(message.err);
        Some(match code {
            Code::NoError => Taken::Record(Record(message)),
            Code::PartitionEOF => Taken::End { offset: message.offset },
            _ => {
                // SAFETY: for a message with an error this gives a C string that lives as long as the message.
                let reason = unsafe { CStr::from_ptr(sys::rd_kafka_message_errstr(message)) };
                Taken::Trouble { code, reason: reason.to_string_lossy().into_owned() }
            }
        })
    }

    /// The lowest and the next offset of the partition, as the last answer of its broker told them; none before that.
    pub(super) fn watermarks(&self) -> Option<(i64, i64)> {
        let (mut low, mut high) = (-1, -1);
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client is alive, the name a C string, and both numbers are written before the call returns.
        let error = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                client,
                self.topic.as_ptr(),
                self.partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (Code::from(error) == Code::NoError && low >= 0 && high >= 0).then_some((low, high))
    }

    /// The offset after all that was taken or passed over: aborted records and markers move it, too. None while records that
    /// were taken are still to be given out.
    pub(super) fn position(&self) -> Option<i64> {
        if self.next < self.taken.len() {
            return None;
        }
        let mut asked = TopicPartitionList::with_capacity(1);
        asked.add_partition(self.topic.to_str().ok()?, self.partition);
        // SAFETY: the client and the list are alive; the call writes the answer into the list before it returns.
        let error = unsafe { sys::rd_kafka_position(self.consumer.client().native_ptr(), asked.ptr()) };
        let answer = asked.elements().first()?.offset();
        answer.to_raw().filter(|offset| Code::from(error) == Code::NoError && *offset >= 0)
    }

    /// Gives back what was taken and takes what is there.
    fn refill(&mut self) {
        self.give_back();
        self.taken.reserve(TAKE);
        // SAFETY: the queue is ours, and there is room for `TAKE` pointers, of which the call writes as many as it returns
        // (-1 for none).
        unsafe {
            let count = sys::rd_kafka_consume_batch_queue(self.queue, 0, self.taken.as_mut_ptr(), TAKE);
            self.taken.set_len(usize::try_from(count).unwrap_or(0));
        }
    }

    fn give_back(&mut self) {
        self.next = 0;
        for message in self.taken.drain(..) {
            // SAFETY: `refill` took it, and `drain` makes sure that it is destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        self.give_back();
        // SAFETY: the queue is ours and not used after this; its client lives until `consumer` is dropped, later.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) };
    }
}
