//! Records in and out: Produce, Fetch, ListOffsets.

use super::batch;
use super::connection::Request;
use super::log::Log;
use super::protocol::{Answer, ErrorCode, code};
use super::server::Server;
use super::unpoisoned;
use super::wire::{Read, Reader, Writer};
use std::time::{Duration, Instant};

/// A response holds no more than this, whatever the reader asks for; one batch always fits.
const FETCH_BYTES_MAX: usize = 16 << 20;
const FETCH_WAIT_MS_MAX: i32 = 60_000;
const READ_COMMITTED: i8 = 1;
/// What ListOffsets calls the first offset; other negative times mean the end.
const EARLIEST: i64 = -2;

/// One partition of a Fetch.
struct Wanted {
    partition: i32,
    from: i64,
    bytes_max: usize,
}

impl Server {
    /// Stores the batches. False: the producer wants no answer.
    pub fn on_produce(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<bool> {
        input.text_or_null()?; // the transactional id: the logs know by the producer id who may write
        let acks = input.i16()?;
        input.i32()?; // the time that replicas have
        let topics = input.list(|input| {
            let topic = input.text()?;
            Ok((topic, input.list(|input| Ok((input.i32()?, input.bytes()?)))?))
        })?;
        out.list(&topics, |out, (topic, partitions)| {
            out.text(topic);
            out.list(partitions, |out, (partition, batches)| {
                let stored = self.store(topic, *partition, batches);
                out.i32(*partition);
                out.i16(code(&stored));
                let (offset, log_start) = stored.unwrap_or((-1, -1));
                out.i64(offset);
                out.i64(-1); // the time of appending: the records keep the producer's
                if request.version >= 5 {
                    out.i64(log_start);
                }
                if request.version >= 8 {
                    out.i32(0);
                    out.text_or_null(None);
                }
            });
        });
        self.topics.settle();
        out.i32(0);
        Ok(acks != 0)
    }

    /// Gives the first batch's offset and the log's start.
    fn store(&self, topic: &str, partition: i32, batches: &[u8]) -> Answer<(i64, i64)> {
        let log = self.topics.partition(topic, partition)?;
        let mut first = Err(ErrorCode::CorruptMessage);
        let mut rest = batches;
        while !rest.is_empty() {
            let (header, batch, after) = batch::split_first(rest)?;
            if header.is_control() {
                return Err(ErrorCode::InvalidRecord); // markers are the broker's
            }
            if header.bytes > self.config.batch_bytes_max() {
                return Err(ErrorCode::MessageTooLarge);
            }
            let offset = self.topics.append(&log, &header, batch)?;
            first = first.or(Ok(offset));
            rest = after;
        }
        let start = unpoisoned(log.lock()).start();
        first.map(|offset| (offset, start))
    }

    pub fn on_fetch(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let version = request.version;
        input.i32()?; // the replica that asks: none but readers do
        let (wait_ms, bytes_min, bytes_max) = (input.i32()?, input.i32()?, input.i32()?);
        let committed_only = input.i8()? == READ_COMMITTED;
        if version >= 7 {
            input.i64()?; // the session's id and epoch: every request is answered in full
        }
        let topics = input.list(|input| {
            let topic = input.text()?;
            let wanted = input.list(|input| {
                let partition = input.i32()?;
                if version >= 9 {
                    input.i32()?; // leader epoch
                }
                let from = input.i64()?;
                if version >= 5 {
                    input.i64()?; // a replica's log start
                }
                Ok(Wanted { partition, from, bytes_max: input.i32()?.max(0) as usize })
            })?;
            Ok((topic, wanted))
        })?;

        let bytes_min = bytes_min.max(0) as usize;
        let deadline = Instant::now() + Duration::from_millis(wait_ms.clamp(0, FETCH_WAIT_MS_MAX) as u64);
        self.topics.arrivals.wait_until(deadline, || {
            let mut bytes = 0;
            let all = topics.iter().flat_map(|(topic, wanted)| wanted.iter().map(move |wanted| (topic, wanted)));
            for (topic, wanted) in all {
                match self.available(topic, wanted, committed_only, bytes_min - bytes) {
                    Ok(more) => bytes += more.min(bytes_min - bytes),
                    Err(_) => return true, // an error is news, too
                }
            }
            bytes >= bytes_min || topics.is_empty() || self.is_stopping()
        });

        out.i32(0);
        if version >= 7 {
            out.i16(0);
            out.i32(0); // no session
        }
        let mut left = FETCH_BYTES_MAX.min(bytes_max.max(0) as usize);
        let mut is_empty = true;
        out.list(&topics, |out, (topic, wanted)| {
            out.text(topic);
            out.list(wanted, |out, wanted| {
                // The first batch is given even when it is larger than allowed, or the reader could never pass it.
                let allowance = if left > 0 || is_empty { Some(left.min(wanted.bytes_max)) } else { None };
                let given = self.give(version, topic, wanted, committed_only, allowance, out);
                left = left.saturating_sub(given);
                is_empty &= given == 0;
            });
        });
        Ok(())
    }

    fn available(&self, topic: &str, wanted: &Wanted, committed_only: bool, enough: usize) -> Answer<usize> {
        let log = self.topics.partition(topic, wanted.partition)?;
        let log = unpoisoned(log.lock());
        check_offset(&log, wanted.from)?;
        Ok(log.available(wanted.from, limit(&log, committed_only), enough))
    }

    /// Writes one partition of a Fetch; gives the bytes of records in it. `allowance`: none when no more may be given.
    fn give(
        &self,
        version: i16,
        topic: &str,
        wanted: &Wanted,
        committed_only: bool,
        allowance: Option<usize>,
        out: &mut Writer,
    ) -> usize {
        out.i32(wanted.partition);
        let found = self.topics.partition(topic, wanted.partition);
        let guard = found.as_ref().ok().map(|log| unpoisoned(log.lock()));
        let log = guard.as_deref().ok_or(ErrorCode::UnknownTopicOrPartition);
        let readable = log.and_then(|log| check_offset(log, wanted.from).map(|()| log));
        out.i16(code(&readable));
        let (start, stable, end) = log.map_or((-1, -1, -1), |log| (log.start(), log.last_stable_offset(), log.end()));
        out.i64(end);
        out.i64(stable);
        if version >= 5 {
            out.i64(start);
        }
        let slice = match (readable, allowance) {
            (Ok(log), Some(bytes)) => Some((log, log.read(wanted.from, limit(log, committed_only), bytes))),
            _ => None,
        };
        match &slice {
            Some((log, slice)) if committed_only => {
                out.list(log.aborted_in(wanted.from, slice.end), |out, (producer_id, first)| {
                    out.i64(producer_id);
                    out.i64(first);
                });
            }
            _ => out.null_list(),
        }
        if version >= 11 {
            out.i32(-1); // no replica is nearer
        }
        let batches = slice.map_or_else(Vec::new, |(_, slice)| slice.batches);
        let bytes = batches.iter().map(|batch| batch.len()).sum::<usize>();
        out.i32(bytes as i32);
        batches.into_iter().for_each(|batch| out.raw(batch));
        bytes
    }

    pub fn on_list_offsets(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        input.i32()?; // the replica that asks
        let committed_only = request.version >= 2 && input.i8()? == READ_COMMITTED;
        let topics = input.list(|input| {
            let topic = input.text()?;
            let asked = input.list(|input| {
                let partition = input.i32()?;
                if request.version >= 4 {
                    input.i32()?; // leader epoch
                }
                Ok((partition, input.i64()?))
            })?;
            Ok((topic, asked))
        })?;
        if request.version >= 2 {
            out.i32(0);
        }
        out.list(&topics, |out, (topic, asked)| {
            out.text(topic);
            out.list(asked, |out, (partition, timestamp)| {
                let found = self.find_offset(topic, *partition, *timestamp, committed_only);
                out.i32(*partition);
                out.i16(code(&found));
                let (offset, timestamp) = found.unwrap_or((-1, -1));
                out.i64(timestamp);
                out.i64(offset);
                if request.version >= 4 {
                    out.i32(0);
                }
            });
        });
        Ok(())
    }

    fn find_offset(&self, topic: &str, partition: i32, timestamp: i64, committed_only: bool) -> Answer<(i64, i64)> {
        let log = self.topics.partition(topic, partition)?;
        let log = unpoisoned(log.lock());
        Ok(match timestamp {
            EARLIEST => (log.start(), -1),
            ..0 => (limit(&log, committed_only), -1),
            _ => log.find_time(timestamp).unwrap_or((-1, -1)),
        })
    }
}

/// Where the reader must stop.
fn limit(log: &Log, committed_only: bool) -> i64 {
    if committed_only { log.last_stable_offset() } else { log.end() }
}

fn check_offset(log: &Log, from: i64) -> Answer<()> {
    if (log.start()..=log.end()).contains(&from) { Ok(()) } else { Err(ErrorCode::OffsetOutOfRange) }
}
