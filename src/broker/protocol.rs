//! The requests of Kafka's protocol that the broker answers, and the error codes that it answers with.

use std::ops::RangeInclusive;

/// A kind of request, with Kafka's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    /// Kafka calls it ApiVersions.
    Versions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
    DescribeConfigs = 32,
    CreatePartitions = 37,
    DeleteGroups = 42,
}

/// What is answered, in which versions.
///
/// Versions end where Kafka's flexible encoding begins. Two go on: only OffsetFetch 7 can ask to wait for open
/// transactions, and only Metadata 10 tells a topic from one that had its name before. The group requests end before static members (`group.instance.id`), which the
/// broker does not have.
pub const SUPPORTED: &[(Api, RangeInclusive<i16>)] = &[
    (Api::Produce, 3..=8),
    (Api::Fetch, 4..=11),
    (Api::ListOffsets, 1..=5),
    (Api::Metadata, 0..=10),
    (Api::OffsetCommit, 2..=6),
    (Api::OffsetFetch, 1..=7),
    (Api::FindCoordinator, 0..=2),
    (Api::JoinGroup, 0..=4),
    (Api::Heartbeat, 0..=2),
    (Api::LeaveGroup, 0..=2),
    (Api::SyncGroup, 0..=2),
    (Api::DescribeGroups, 0..=3),
    (Api::ListGroups, 0..=2),
    (Api::Versions, 0..=2),
    (Api::CreateTopics, 0..=4),
    (Api::DeleteTopics, 0..=3),
    (Api::InitProducerId, 0..=1),
    (Api::AddPartitionsToTxn, 0..=2),
    (Api::AddOffsetsToTxn, 0..=2),
    (Api::EndTxn, 0..=2),
    (Api::TxnOffsetCommit, 0..=2),
    (Api::DescribeConfigs, 0..=3),
    (Api::CreatePartitions, 0..=1),
    (Api::DeleteGroups, 0..=1),
];

impl Api {
    /// The request with this number and its supported versions, if the broker knows it.
    pub fn find(key: i16) -> Option<(Api, &'static RangeInclusive<i16>)> {
        SUPPORTED.iter().find(|(api, _)| *api as i16 == key).map(|(api, versions)| (*api, versions))
    }

    pub fn is_flexible(self, version: i16) -> bool {
        match self {
            Api::OffsetFetch => version >= 6,
            Api::Metadata => version >= 9,
            _ => false,
        }
    }
}

/// Why the broker refuses, with Kafka's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum ErrorCode {
    OffsetOutOfRange = 1,
    CorruptMessage = 2,
    UnknownTopicOrPartition = 3,
    MessageTooLarge = 10,
    OffsetMetadataTooLarge = 12,
    InvalidTopic = 17,
    IllegalGeneration = 22,
    InconsistentGroupProtocol = 23,
    InvalidGroupId = 24,
    UnknownMemberId = 25,
    InvalidSessionTimeout = 26,
    RebalanceInProgress = 27,
    UnsupportedVersion = 35,
    TopicAlreadyExists = 36,
    InvalidPartitions = 37,
    InvalidRequest = 42,
    UnsupportedForMessageFormat = 43,
    OutOfOrderSequence = 45,
    /// Also what a fenced producer is told: these request versions have no code of its own for it.
    InvalidProducerEpoch = 47,
    InvalidTransactionState = 48,
    InvalidProducerIdMapping = 49,
    InvalidTransactionTimeout = 50,
    OperationNotAttempted = 55,
    StorageError = 56,
    NonEmptyGroup = 68,
    GroupIdNotFound = 69,
    GroupMaxSizeReached = 81,
    InvalidRecord = 87,
    UnstableOffsetCommit = 88,
}

/// What a step that the broker may refuse gives.
pub type Answer<T> = Result<T, ErrorCode>;

/// The number that a response carries for `answer`: 0 when it went well.
pub fn code<T>(answer: &Answer<T>) -> i16 {
    answer.as_ref().err().map_or(0, |code| *code as i16)
}
