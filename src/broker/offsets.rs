//! Committed offsets: how far each consumer group has come.

use super::connection::Request;
use super::coordinator::Coordinator;
use super::fact::{Committed, Fact, Place};
use super::protocol::{Answer, ErrorCode, code};
use super::server::Server;
use super::wire::{Read, Reader, Writer};
use std::collections::BTreeMap;
use std::time::Instant;

/// The offsets of a request, by topic, as it orders them.
pub struct Offsets(Vec<(String, Vec<(Place, Committed)>)>);

pub fn read_offsets(input: &mut Reader, has_leader_epoch: bool) -> Read<Offsets> {
    let topics = input.list(|input| {
        let topic = input.text()?;
        let offsets = input.list(|input| {
            let (partition, offset) = (input.i32()?, input.i64()?);
            if has_leader_epoch {
                input.i32()?;
            }
            let metadata = input.text_or_null()?.unwrap_or_default();
            Ok((Place { topic: topic.clone(), partition }, Committed { offset, metadata }))
        })?;
        Ok((topic, offsets))
    })?;
    Ok(Offsets(topics))
}

impl Offsets {
    /// Writes the answers, which are in the order of the offsets.
    pub fn write_answers(&self, out: &mut Writer, answers: &[Answer<()>]) {
        let mut answers = answers.iter();
        out.list(&self.0, |out, (topic, offsets)| {
            out.text(topic);
            out.list(offsets, |out, (place, _)| {
                out.i32(place.partition);
                out.i16(answers.next().map_or(0, code));
            });
        });
    }
}

impl Coordinator {
    /// Notes the offsets that can be committed, as one fact; gives an answer for each. `checked` goes for them all.
    pub fn take_offsets(
        &mut self,
        offsets: &Offsets,
        checked: Answer<()>,
        fact: impl FnOnce(Vec<(Place, Committed)>) -> Fact,
    ) -> Vec<Answer<()>> {
        let all = || offsets.0.iter().flat_map(|(_, offsets)| offsets);
        let check =
            |(place, committed): &(Place, Committed)| checked.and_then(|()| self.check_offset(place, committed));
        let answers: Vec<_> = all().map(check).collect();
        let accepted: Vec<_> =
            all().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(offset, _)| offset.clone()).collect();
        if accepted.is_empty() {
            return answers;
        }
        let noted = self.note(fact(accepted));
        answers.into_iter().map(|answer| answer.and(noted)).collect()
    }
}

impl Server {
    pub fn on_offset_commit(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (group, generation, member) = (input.text()?, input.i32()?, input.text()?);
        if request.version <= 4 {
            input.i64()?; // how long to keep them: for ever
        }
        let offsets = read_offsets(input, request.version >= 6)?;
        let mut coordinator = self.coordinator();
        let checked = match coordinator.groups.get_mut(&group) {
            Some(group) => group.hear(&member, generation, Instant::now()),
            // Without members anybody may commit who does not claim to be one.
            None if generation < 0 => Ok(()),
            None => Err(ErrorCode::UnknownMemberId),
        };
        let answers = coordinator.take_offsets(&offsets, checked, |offsets| Fact::Offsets { group, offsets });
        if request.version >= 3 {
            out.i32(0);
        }
        offsets.write_answers(out, &answers);
        Ok(())
    }

    pub fn on_offset_fetch(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let group = input.text()?;
        let asked = input.list_or_null(|input| {
            let asked = (input.text()?, input.list(Reader::i32)?);
            input.tags()?;
            Ok(asked)
        })?;
        let require_stable = request.version >= 7 && input.bool()?;
        input.tags()?;
        let coordinator = self.coordinator();
        let committed = coordinator.known().offsets.get(&group);
        let asked = asked.unwrap_or_else(|| {
            let mut all: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            for place in committed.into_iter().flat_map(BTreeMap::keys) {
                all.entry(place.topic.clone()).or_default().push(place.partition);
            }
            all.into_iter().collect()
        });
        if request.version >= 3 {
            out.i32(0);
        }
        out.list(&asked, |out, (topic, partitions)| {
            out.text(topic);
            out.list(partitions, |out, partition| {
                let place = Place { topic: topic.clone(), partition: *partition };
                let is_unstable = require_stable && coordinator.is_unstable(&group, &place);
                let found = committed.and_then(|committed| committed.get(&place)).filter(|_| !is_unstable);
                out.i32(*partition);
                out.i64(found.map_or(-1, |committed| committed.offset));
                if request.version >= 5 {
                    out.i32(-1); // leader epoch
                }
                out.text(found.map_or("", |committed| &committed.metadata));
                out.i16(if is_unstable { ErrorCode::UnstableOffsetCommit as i16 } else { 0 });
                out.tags();
            });
            out.tags();
        });
        if request.version >= 2 {
            out.i16(0);
        }
        out.tags();
        Ok(())
    }
}
