//! One consumer group: who is in it, and how its members agree on who reads what.
//!
//! ```text
//!   Joining ──all members joined, or the time is up──▶ Syncing ──the leader's assignment──▶ Stable
//!      ▲                                                  │                                   │
//!      └──────────────── a member comes, goes or falls silent ◀───────────────────────────────┘
//! ```
//!
//! The generation counts the times that `Joining` ended; what a member says is heard only with the current one.
//! A group is a plain state machine: it reads no clock and waits for nobody. A group without members does not exist.

use super::protocol::{Answer, ErrorCode};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// More members than a development broker has use for.
const MEMBERS_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Members come with the protocols that they know.
    Joining,
    /// The leader, one of the members, works out who reads what.
    Syncing,
    /// Everybody has an assignment.
    Stable,
}

/// A way to share partitions that a member knows, with what the leader must know of the member to use it.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub name: String,
    pub metadata: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Member {
    pub client_id: String,
    pub client_host: String,
    /// A member that says nothing for this long is gone.
    pub session: Duration,
    /// How long the others wait for this member when the group joins anew.
    pub rebalance: Duration,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    pub assignment: Vec<u8>,
    pub seen: Instant,
    pub has_joined: bool,
}

impl Member {
    fn knows(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|known| known.name == protocol)
    }

    pub fn metadata_for(&self, protocol: &str) -> &[u8] {
        self.protocols.iter().find(|known| known.name == protocol).map_or(&[], |known| &known.metadata)
    }
}

pub struct Group {
    pub phase: Phase,
    pub generation: i32,
    /// What kind of members these are; `consumer` for all that read topics.
    pub protocol_type: String,
    /// The protocol of this generation: the first one of the first member that everybody knows.
    pub protocol: String,
    pub leader: String,
    pub members: BTreeMap<String, Member>,
    join_until: Instant,
}

impl Group {
    pub fn new(protocol_type: String, now: Instant) -> Self {
        let (protocol, leader, members) = Default::default();
        Group { phase: Phase::Stable, generation: 0, protocol_type, protocol, leader, members, join_until: now }
    }

    /// Takes a new member, or one that comes again; the group then joins anew.
    pub fn join(&mut self, id: &str, member: Member, now: Instant) -> Answer<()> {
        let is_other = |(other, _): &(&String, &Member)| *other != id;
        let all_know = |name: &str| self.members.iter().filter(is_other).all(|(_, other)| other.knows(name));
        if !member.protocols.iter().any(|protocol| all_know(&protocol.name)) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(id) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if self.phase != Phase::Joining {
            self.join_anew(now);
        }
        self.members.insert(id.to_owned(), Member { has_joined: true, seen: now, ..member });
        self.settle(now);
        Ok(())
    }

    fn join_anew(&mut self, now: Instant) {
        self.phase = Phase::Joining;
        self.members.values_mut().for_each(|member| member.has_joined = false);
        self.join_until = now + self.members.values().map(|member| member.rebalance).max().unwrap_or_default();
    }

    /// Ends the joining when it can end: gives whether it did.
    pub fn settle(&mut self, now: Instant) -> bool {
        let is_complete = self.members.values().all(|member| member.has_joined);
        if self.phase != Phase::Joining || !(is_complete || now >= self.join_until) {
            return false;
        }
        self.members.retain(|_, member| member.has_joined);
        self.generation += 1;
        self.phase = Phase::Syncing;
        if !self.members.contains_key(&self.leader) {
            self.leader = self.members.keys().next().cloned().unwrap_or_default();
        }
        let all_know = |name: &str| self.members.values().all(|member| member.knows(name));
        let mut offered = self.members.values().next().into_iter().flat_map(|first| &first.protocols);
        self.protocol =
            offered.find(|protocol| all_know(&protocol.name)).map_or_else(String::new, |found| found.name.clone());
        for member in self.members.values_mut() {
            member.assignment.clear();
            member.seen = now;
        }
        true
    }

    /// Hears a member; it must be of this generation.
    pub fn hear(&mut self, id: &str, generation: i32, now: Instant) -> Answer<()> {
        let member = self.members.get_mut(id).ok_or(ErrorCode::UnknownMemberId)?;
        member.seen = now;
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    /// Takes the assignments when they come from the leader.
    pub fn assign(&mut self, from: &str, assignments: Vec<(String, Vec<u8>)>) {
        if self.phase != Phase::Syncing || self.leader != from {
            return;
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.phase = Phase::Stable;
    }

    pub fn leave(&mut self, id: &str, now: Instant) -> Answer<()> {
        self.members.remove(id).ok_or(ErrorCode::UnknownMemberId)?;
        self.on_gone(now);
        Ok(())
    }

    /// Removes the members that have been silent for too long, and ends a joining whose time is up.
    /// Gives whether anything changed.
    pub fn on_time(&mut self, now: Instant) -> bool {
        let before = self.members.len();
        let is_joining = self.phase == Phase::Joining;
        // A member that has joined says nothing until the others have, too.
        self.members.retain(|_, member| (is_joining && member.has_joined) || now - member.seen <= member.session);
        if self.members.len() < before {
            self.on_gone(now);
            return true;
        }
        self.settle(now)
    }

    fn on_gone(&mut self, now: Instant) {
        if self.phase != Phase::Joining && !self.members.is_empty() {
            self.join_anew(now);
        }
        self.settle(now);
    }

    /// The group's state in Kafka's words.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Joining => "PreparingRebalance",
            Phase::Syncing => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);
    const REBALANCE: Duration = Duration::from_secs(60);

    fn member(protocols: &[&str], now: Instant) -> Member {
        let protocol = |name: &&str| Protocol { name: name.to_string(), metadata: vec![] };
        Member {
            client_id: "client".into(),
            client_host: "host".into(),
            session: SESSION,
            rebalance: REBALANCE,
            protocols: protocols.iter().map(protocol).collect(),
            assignment: vec![],
            seen: now,
            has_joined: false,
        }
    }

    fn shows(group: &Group) -> String {
        let members: Vec<_> = group.members.keys().map(String::as_str).collect();
        format!("{} {} {} {}", group.generation, group.state(), group.protocol, members.join("+"))
    }

    #[test]
    fn a_second_member_makes_the_first_join_again() {
        let now = Instant::now();
        let mut group = Group::new("consumer".into(), now);
        group.join("a", member(&["range", "sticky"], now), now).expect("joins");
        assert_eq!(shows(&group), "1 CompletingRebalance range a");
        group.assign("a", vec![("a".into(), vec![1])]);
        assert_eq!(shows(&group), "1 Stable range a");
        group.join("b", member(&["sticky"], now), now).expect("joins");
        assert_eq!(shows(&group), "1 PreparingRebalance range a+b");
        group.join("a", member(&["range", "sticky"], now), now).expect("joins again");
        assert_eq!(shows(&group), "2 CompletingRebalance sticky a+b");
        assert_eq!(group.hear("a", 1, now), Err(ErrorCode::IllegalGeneration));
        assert_eq!(group.hear("b", 2, now), Ok(()));
        assert_eq!(group.join("c", member(&["range"], now), now), Err(ErrorCode::InconsistentGroupProtocol));
        group.leave("a", now).expect("was a member");
        group.join("b", member(&["sticky"], now), now).expect("joins again");
        assert_eq!(shows(&group), "3 CompletingRebalance sticky b");
    }

    #[test]
    fn silent_members_are_removed_and_late_ones_are_not_waited_for() {
        let now = Instant::now();
        let mut group = Group::new("consumer".into(), now);
        group.join("a", member(&["range"], now), now).expect("joins");
        group.join("b", member(&["range"], now), now).expect("joins");
        let later = now + SESSION + Duration::from_secs(1);
        assert!(group.on_time(later), "a has not come back and is silent");
        assert_eq!(shows(&group), "2 CompletingRebalance range b");
        group.join("c", member(&["range"], later), later).expect("joins");
        group.hear("b", 2, later + REBALANCE).expect("b lives, but does not join");
        assert!(group.on_time(later + REBALANCE));
        assert_eq!(shows(&group), "3 CompletingRebalance range c");
    }
}
