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
    Record { offset: i64, value: Option<&'a [u8]> },
    /// The partition was read up to `offset`, and there is nothing more now.
    End { offset: i64 },
    /// The partition cannot be read, at least for a while.
    Trouble { code: Code, reason: String },
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
            Code::NoError => Taken::Record {
                offset: message.offset,
                value: (!message.payload.is_null()).then(|| {
                    // SAFETY: a record's payload that is not null has `len` bytes and lives as long as its message.
                    unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len) }
                }),
            },
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
