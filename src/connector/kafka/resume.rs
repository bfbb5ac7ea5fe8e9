//! Reading on where a checkpoint says, if that can be: the topic is still the same, and still has the next record.
//!
//! An offset alone says neither. A topic that was deleted and created again counts from zero, so an old offset may be
//! in it and mean another record; one that retention has passed would be skipped in silence. Both are `Invalid`: no repetition
//! brings them back, so a supervisor must not try. A topic that is not there, or a partition that is shorter, may be again in a moment.

use super::source::{Asking, Share, known_offsets};
use crate::connector::SplitStart;
use crate::error::{Error, Result};
use rdkafka::Offset;
use std::collections::BTreeMap;
use tracing::warn;

/// A partition that is read on: which of the splits it is, and its next offset.
struct Next {
    split: usize,
    share: Share,
    offset: i64,
}

/// See [`Source::resume`](crate::connector::Source::resume).
pub(super) fn resumed(mut splits: Vec<SplitStart>, accept_gap: bool, asking: &Asking) -> Result<Vec<SplitStart>> {
    let mut topics: BTreeMap<String, Vec<Next>> = BTreeMap::new();
    for (split, start) in splits.iter().enumerate() {
        let share = Share::named(&start.name)?;
        let offset = match start.position {
            Some(position) => {
                i64::try_from(position).map_err(|_| Error::internal("an offset that Kafka cannot have"))?
            }
            None => share.start,
        };
        // what is read to its end needs nothing any more
        if !share.passed(offset) {
            topics.entry(share.topic.clone()).or_default().push(Next { split, share, offset });
        }
    }
    for (topic, nexts) in &topics {
        let place = |error: Error| error.within(format!("topic \"{topic}\""));
        let id = asking.id(topic).map_err(place)?.ok_or_else(|| place(gone()))?;
        if nexts.iter().filter_map(|next| next.share.id.as_ref()).any(|known| *known != id) {
            return Err(place(recreated()));
        }
        let partitions: Vec<i32> = nexts.iter().map(|next| next.share.partition).collect();
        let offsets = |moment| known_offsets(&asking.look_up(topic, &partitions, moment)?);
        let (low, high) = (offsets(Offset::Beginning).map_err(place)?, offsets(Offset::End).map_err(place)?);
        for ((next, low), high) in nexts.iter().zip(low).zip(high) {
            let from = next.check(low, high, accept_gap).map_err(|error| error.within(next.share.place()))?;
            if from != next.offset {
                splits[next.split].position = u64::try_from(from).ok();
            }
        }
    }
    Ok(splits)
}

impl Next {
    /// The offset at which to read on in a partition that has those from `low` up to `high`.
    fn check(&self, low: i64, high: i64, accept_gap: bool) -> Result<i64> {
        let Next { share, offset, .. } = self;
        if *offset > high {
            return Err(Error::unavailable(format!("the next record has offset {offset}, but the partition ends at {high}"))
                .help("did a broker lose records? To read the topic anew, remove the pipeline's checkpoints or rename the pipeline"));
        }
        if *offset >= low {
            return Ok(*offset);
        }
        let lost = share.end.map_or(low, |end| end.min(low)) - offset;
        if accept_gap {
            warn!(
                topic = share.topic,
                partition = share.partition,
                lost,
                from = low,
                "kafka: records are gone; reading goes on after them"
            );
            return Ok(low);
        }
        Err(Error::invalid(format!(
            "{lost} records were deleted before they could be read: the next one has offset {offset}, and the partition begins at {low} now"
        ))
        .help("to go on without them, start with --accept-gap; let the topic keep its records for longer"))
    }
}

/// The error for a topic that is another one by now.
pub(super) fn recreated() -> Error {
    Error::invalid("it was deleted and created again: its offsets are not those that were read")
        .help("to read the new topic from its beginning, remove the pipeline's checkpoints or rename the pipeline")
}

fn gone() -> Error {
    Error::unavailable("it was read before, and is gone").help(
        "restore it; or, to read a new one of this name, remove the pipeline's checkpoints or rename the pipeline",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(offset: i64, end: Option<i64>) -> Next {
        let share = Share { topic: "t".into(), partition: 0, start: 0, end, id: None };
        Next { split: 0, share, offset }
    }

    #[test]
    fn a_gap_is_counted_or_accepted() {
        let said = |next: Next| next.check(10, 20, false).unwrap_err().to_string();
        assert_eq!(next(10, None).check(10, 20, false).unwrap(), 10);
        assert_eq!(next(20, None).check(10, 20, false).unwrap(), 20);
        assert_eq!(next(3, None).check(10, 20, true).unwrap(), 10);
        assert!(said(next(3, None)).starts_with("7 records were deleted"));
        assert!(said(next(3, Some(5))).starts_with("2 records were deleted"));
        assert!(said(next(21, None)).contains("the partition ends at 20"));
    }
}
