//! Topics' ids: what tells a topic from one that had its name before. Writing into a topic that is gone, or that is another one by now,
//! is no error to Kafka, not even committing there, so whoever promises something about a topic asks for its id.
//!
//! rdkafka has no call for it, so this file makes librdkafka's own.
#![allow(unsafe_code)]

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka_sys as sys;
use std::ffi::CString;
use std::ptr;
use std::time::Duration;

/// A topic's id as Kafka's own tools print it. Brokers before 2.8 give none, which reads as that of all their topics.
pub(crate) type TopicId = String;

/// The ids of `topics` in their order; none for one that is not there. Creates nothing.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    wait: Duration,
) -> KafkaResult<Vec<Option<TopicId>>> {
    let names: Vec<CString> = topics.iter().map(|name| CString::new(*name)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    // SAFETY: the client is alive throughout. The call copies the names. Options, collection and queue are made here and destroyed
    // here, each once; what is still under way then librdkafka drops itself. The event is ours once it was taken, and everything
    // that is read of it is read before it is destroyed. A null pointer is nowhere followed.
    unsafe {
        let queue = sys::rd_kafka_queue_new(rk);
        let options = sys::rd_kafka_AdminOptions_new(rk, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(rk, collection, options, queue);
        sys::rd_kafka_TopicCollection_destroy(collection);
        sys::rd_kafka_AdminOptions_destroy(options);
        let event = sys::rd_kafka_queue_poll(queue, millis);
        let ids = ids_of(event, topics.len());
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        ids
    }
}

/// What `event` says of `count` topics.
///
/// # Safety
/// The event is null, or one that was taken from a queue and is not destroyed.
unsafe fn ids_of(event: *mut sys::rd_kafka_event_t, count: usize) -> KafkaResult<Vec<Option<TopicId>>> {
    let failed = |code| Err(KafkaError::MetadataFetch(code));
    if event.is_null() {
        return failed(Code::OperationTimedOut);
    }
    // SAFETY: the caller's event is alive, and with it all that it gives.
    unsafe {
        let code = Code::from(sys::rd_kafka_event_error(event));
        if code != Code::NoError {
            return failed(code);
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return failed(Code::Fail);
        }
        let mut described = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut described);
        if described != count {
            return failed(Code::Fail);
        }
        let id_of = |index| {
            let topic = *topics.add(index);
            match Code::from(sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic))) {
                Code::NoError => {
                    let id = sys::rd_kafka_TopicDescription_topic_id(topic);
                    let (high, low) =
                        (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id));
                    let bytes = [high.to_be_bytes(), low.to_be_bytes()].concat();
                    Ok(Some(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
                }
                Code::UnknownTopicOrPartition | Code::UnknownTopic => Ok(None),
                code => failed(code).map(|_: Vec<Option<TopicId>>| None),
            }
        };
        (0..count).map(id_of).collect()
    }
}
