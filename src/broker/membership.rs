//! The requests of consumer groups' members, and those that look at groups.

use super::connection::Request;
use super::fact::Fact;
use super::group::{Group, Member, Phase, Protocol};
use super::protocol::{Answer, ErrorCode, code};
use super::server::Server;
use super::wire::{Read, Reader, Writer};
use std::time::{Duration, Instant};

/// Kafka's defaults for the session times that a member may ask for.
const SESSION_MS_MIN: i32 = 6_000;
const SESSION_MS_MAX: i32 = 1_800_000;
const REBALANCE_MS_MAX: i32 = 3_600_000;

/// What a member that has joined is told.
struct Joined {
    generation: i32,
    protocol: String,
    leader: String,
    id: String,
    /// For the leader: everybody and what they say of themselves.
    members: Vec<(String, Vec<u8>)>,
}

impl Server {
    pub fn on_join_group(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (group, session_ms) = (input.text()?, input.i32()?);
        let rebalance_ms = if request.version >= 1 { input.i32()? } else { session_ms };
        let (id, protocol_type) = (input.text()?, input.text()?);
        let protocols = input.list(|input| Ok(Protocol { name: input.text()?, metadata: input.bytes()?.to_vec() }))?;
        let member = Member {
            client_id: request.client_id.clone(),
            client_host: request.client_host.to_owned(),
            session: Duration::from_millis(session_ms.max(0) as u64),
            rebalance: Duration::from_millis(rebalance_ms.clamp(0, REBALANCE_MS_MAX) as u64),
            protocols,
            assignment: Vec::new(),
            seen: Instant::now(),
            has_joined: true,
        };
        let answer = if group.is_empty() {
            Err(ErrorCode::InvalidGroupId)
        } else if !(SESSION_MS_MIN..=SESSION_MS_MAX).contains(&session_ms) {
            Err(ErrorCode::InvalidSessionTimeout)
        } else {
            self.join(&group, id.clone(), protocol_type, member)?
        };
        if request.version >= 2 {
            out.i32(0);
        }
        out.i16(code(&answer));
        let nobody = || Joined { generation: -1, protocol: String::new(), leader: String::new(), id, members: vec![] };
        let joined = answer.unwrap_or_else(|_| nobody());
        out.i32(joined.generation);
        out.text(&joined.protocol);
        out.text(&joined.leader);
        out.text(&joined.id);
        out.list(&joined.members, |out, (id, metadata)| {
            out.text(id);
            out.bytes(metadata);
        });
        Ok(())
    }

    /// Joins and waits until everybody has.
    fn join(&self, group_id: &str, id: String, protocol_type: String, member: Member) -> Read<Answer<Joined>> {
        let mut coordinator = self.coordinator();
        let is_member = coordinator.groups.get(group_id).is_some_and(|group| group.members.contains_key(&id));
        if !id.is_empty() && !is_member {
            return Ok(Err(ErrorCode::UnknownMemberId));
        }
        coordinator.members_joined += 1;
        let id = if id.is_empty() { self.new_member_id(&member.client_id, coordinator.members_joined) } else { id };
        let now = Instant::now();
        let new_group = || Group::new(protocol_type, now);
        let group = coordinator.groups.entry(group_id.to_owned()).or_insert_with(new_group);
        let before = group.generation;
        if let Err(refused) = group.join(&id, member, now) {
            coordinator.groups.retain(|_, group| !group.members.is_empty());
            return Ok(Err(refused));
        }
        self.announce_coordinator();
        loop {
            let Some(group) = coordinator.groups.get_mut(group_id) else { return Ok(Err(ErrorCode::UnknownMemberId)) };
            if !group.members.contains_key(&id) {
                return Ok(Err(ErrorCode::UnknownMemberId));
            }
            if group.generation == before {
                // The clock ends a joining that takes too long.
                coordinator = self.wait(coordinator, Instant::now() + Duration::from_secs(60))?;
                continue;
            }
            if group.generation != before + 1 {
                return Ok(Err(ErrorCode::RebalanceInProgress));
            }
            let say = |(id, member): (&String, &Member)| (id.clone(), member.metadata_for(&group.protocol).to_vec());
            let members = if group.leader == id { group.members.iter().map(say).collect() } else { Vec::new() };
            let (protocol, leader) = (group.protocol.clone(), group.leader.clone());
            return Ok(Ok(Joined { generation: group.generation, protocol, leader, id, members }));
        }
    }

    /// An id that no member of this or an earlier run has.
    fn new_member_id(&self, client_id: &str, number: u64) -> String {
        let client_id: String = client_id.chars().take(100).collect();
        format!("{client_id}-{:x}-{number}", self.started_ms)
    }

    pub fn on_sync_group(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (group, generation, id) = (input.text()?, input.i32()?, input.text()?);
        let assignments = input.list(|input| Ok((input.text()?, input.bytes()?.to_vec())))?;
        let answer = self.sync(&group, generation, &id, assignments)?;
        if request.version >= 1 {
            out.i32(0);
        }
        out.i16(code(&answer));
        out.bytes(&answer.unwrap_or_default());
        Ok(())
    }

    /// Hands in the leader's assignments, or waits for them; gives the member's own.
    fn sync(
        &self,
        group_id: &str,
        generation: i32,
        id: &str,
        assignments: Vec<(String, Vec<u8>)>,
    ) -> Read<Answer<Vec<u8>>> {
        let mut coordinator = self.coordinator();
        if let Some(group) = coordinator.groups.get_mut(group_id)
            && group.hear(id, generation, Instant::now()).is_ok()
        {
            group.assign(id, assignments);
            self.announce_coordinator();
        }
        loop {
            let now = Instant::now();
            let Some(group) = coordinator.groups.get_mut(group_id) else { return Ok(Err(ErrorCode::UnknownMemberId)) };
            if let Err(refused) = group.hear(id, generation, now) {
                return Ok(Err(refused));
            }
            match group.phase {
                Phase::Stable => return Ok(Ok(group.members[id].assignment.clone())),
                Phase::Joining => return Ok(Err(ErrorCode::RebalanceInProgress)),
                // Waking up now and then says that this member lives.
                Phase::Syncing => coordinator = self.wait(coordinator, now + Duration::from_millis(500))?,
            }
        }
    }

    pub fn on_heartbeat(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (group, generation, id) = (input.text()?, input.i32()?, input.text()?);
        let mut coordinator = self.coordinator();
        let answer = match coordinator.groups.get_mut(&group) {
            None => Err(ErrorCode::UnknownMemberId),
            Some(group) => match group.hear(&id, generation, Instant::now()) {
                Ok(()) if group.phase == Phase::Joining => Err(ErrorCode::RebalanceInProgress),
                answer => answer,
            },
        };
        if request.version >= 1 {
            out.i32(0);
        }
        out.i16(code(&answer));
        Ok(())
    }

    pub fn on_leave_group(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (group, id) = (input.text()?, input.text()?);
        let mut coordinator = self.coordinator();
        let found = coordinator.groups.get_mut(&group).ok_or(ErrorCode::UnknownMemberId);
        let answer = found.and_then(|group| group.leave(&id, Instant::now()));
        coordinator.groups.retain(|_, group| !group.members.is_empty());
        drop(coordinator);
        self.announce_coordinator();
        if request.version >= 1 {
            out.i32(0);
        }
        out.i16(code(&answer));
        Ok(())
    }

    pub fn on_list_groups(&self, request: &Request, _: &mut Reader, out: &mut Writer) -> Read<()> {
        let coordinator = self.coordinator();
        let live = coordinator.groups.iter().map(|(id, group)| (id, group.protocol_type.as_str()));
        // A group without members is known by what it committed, if by anything.
        let offsets = coordinator.known().offsets.keys().filter(|id| !coordinator.groups.contains_key(*id));
        let groups: Vec<_> = live.chain(offsets.map(|id| (id, "consumer"))).collect();
        if request.version >= 1 {
            out.i32(0);
        }
        out.i16(0);
        out.list(groups, |out, (id, protocol_type)| {
            out.text(id);
            out.text(protocol_type);
        });
        Ok(())
    }

    pub fn on_describe_groups(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let asked = input.list(Reader::text)?;
        let coordinator = self.coordinator();
        if request.version >= 1 {
            out.i32(0);
        }
        out.list(&asked, |out, id| {
            let group = coordinator.groups.get(id);
            out.i16(0);
            out.text(id);
            let is_empty = coordinator.known().offsets.contains_key(id);
            out.text(group.map_or(if is_empty { "Empty" } else { "Dead" }, Group::state));
            out.text(group.map_or("", |group| &group.protocol_type));
            let protocol = group.map_or("", |group| &group.protocol);
            out.text(protocol);
            let members: Vec<_> = group.into_iter().flat_map(|group| &group.members).collect();
            out.list(members, |out, (id, member)| {
                out.text(id);
                out.text(&member.client_id);
                out.text(&member.client_host);
                out.bytes(member.metadata_for(protocol));
                out.bytes(&member.assignment);
            });
            if request.version >= 3 {
                out.i32(i32::MIN); // what the client may do: not asked
            }
        });
        Ok(())
    }

    pub fn on_delete_groups(&self, _: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let asked = input.list(Reader::text)?;
        let mut coordinator = self.coordinator();
        out.i32(0);
        out.list(asked, |out, group| {
            let answer = if coordinator.groups.contains_key(&group) {
                Err(ErrorCode::NonEmptyGroup)
            } else if !coordinator.known().offsets.contains_key(&group) {
                Err(ErrorCode::GroupIdNotFound)
            } else {
                coordinator.note(Fact::GroupDeleted { group: group.clone() })
            };
            out.text(&group);
            out.i16(code(&answer));
        });
        Ok(())
    }
}
