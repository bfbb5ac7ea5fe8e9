//! The requests about the cluster and its topics: what there is, how it is set up, more of it or less.

use super::connection::Request;
use super::protocol::{Answer, ErrorCode, SUPPORTED, code};
use super::server::Server;
use super::transactions;
use super::wire::{Read, Reader, Writer};

const CLUSTER_ID: &str = "highwater-development";
/// The number of the one broker that there is.
const BROKER_ID: i32 = 1;
/// Kinds of things that have a configuration, and where a value of it comes from, in Kafka's numbers.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const FROM_DEFAULT: i8 = 5;
const UNKNOWN_TYPE: i8 = 0;
/// "Nobody asked which operations are allowed."
const NOT_ASKED: i32 = i32::MIN;

impl Server {
    pub fn on_api_versions(&self, request: &Request, out: &mut Writer) {
        write_api_versions(out, request.version, 0);
    }

    pub fn on_metadata(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let version = request.version;
        let asked = input.list_or_null(|input| {
            if version >= 10 {
                input.uuid()?; // zero: topics are asked for by name before version 12
            }
            let name = input.text()?;
            input.tags()?;
            Ok(name)
        })?;
        let may_create = version < 4 || input.bool()?;
        // Version 0 has no null: its empty list asks for everything.
        let names = match asked.filter(|names| version > 0 || !names.is_empty()) {
            None => self.topics.names(),
            Some(names) => names,
        };
        let mut coordinator = self.coordinator();
        for name in names.iter().filter(|name| may_create && self.topics.get(name).is_none()) {
            // A name that is refused is reported with the others below.
            let _ = coordinator.create_topic(&self.topics, name, self.config.default_partitions);
        }
        let uuids: Vec<[u8; 16]> = names.iter().map(|name| coordinator.topic_uuid(name).unwrap_or_default()).collect();
        drop(coordinator);
        if version >= 3 {
            out.i32(0);
        }
        out.list([BROKER_ID], |out, broker| {
            out.i32(broker);
            self.write_address(out);
            if version >= 1 {
                out.text_or_null(None); // rack
            }
            out.tags();
        });
        if version >= 2 {
            out.text(CLUSTER_ID);
        }
        if version >= 1 {
            out.i32(BROKER_ID); // the controller
        }
        out.list(names.iter().zip(&uuids), |out, (name, uuid)| {
            let topic = self.topics.get(name);
            out.i16(match topic {
                Some(_) => 0,
                None if super::topics::is_valid_name(name) => ErrorCode::UnknownTopicOrPartition as i16,
                None => ErrorCode::InvalidTopic as i16,
            });
            out.text(name);
            if version >= 10 {
                out.raw(uuid);
            }
            if version >= 1 {
                out.bool(false); // internal
            }
            out.list(0..topic.map_or(0, |topic| topic.partitions.len()), |out, partition| {
                out.i16(0);
                out.i32(partition as i32);
                out.i32(BROKER_ID); // the leader
                if version >= 7 {
                    out.i32(0); // its epoch
                }
                out.list([BROKER_ID], Writer::i32); // replicas
                out.list([BROKER_ID], Writer::i32); // those in sync
                if version >= 5 {
                    out.empty_list(); // those offline
                }
                out.tags();
            });
            if version >= 8 {
                out.i32(NOT_ASKED);
            }
            out.tags();
        });
        if version >= 8 {
            out.i32(NOT_ASKED);
        }
        out.tags();
        Ok(())
    }

    fn write_address(&self, out: &mut Writer) {
        out.text(&self.address.ip().to_string());
        out.i32(self.address.port().into());
    }

    pub fn on_find_coordinator(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        input.text()?; // whoever it is for: this broker
        if request.version >= 1 {
            out.i32(0);
        }
        out.i16(0);
        if request.version >= 1 {
            out.text_or_null(None);
        }
        out.i32(BROKER_ID);
        self.write_address(out);
        Ok(())
    }

    pub fn on_create_topics(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let topics = input.list(|input| {
            let (name, partitions) = (input.text()?, input.i32()?);
            input.i16()?; // replicas: one, whatever is asked
            let assigned = input.list(|input| Ok((input.i32()?, input.list(Reader::i32)?)))?;
            // Settings are accepted and have no effect; DescribeConfigs says what holds.
            input.list(|input| Ok((input.text()?, input.text_or_null()?)))?;
            let partitions = match partitions {
                _ if !assigned.is_empty() => assigned.len() as i32,
                -1 => self.config.default_partitions,
                wanted => wanted,
            };
            Ok((name, partitions))
        })?;
        input.i32()?; // the time it may take
        let only_check = request.version >= 1 && input.bool()?;
        if request.version >= 2 {
            out.i32(0);
        }
        let mut coordinator = self.coordinator();
        out.list(&topics, |out, (name, partitions)| {
            let answer = match only_check {
                true => coordinator.check_new_topic(&self.topics, name, *partitions),
                false => coordinator.create_topic(&self.topics, name, *partitions),
            };
            out.text(name);
            out.i16(code(&answer));
            if request.version >= 1 {
                out.text_or_null(None);
            }
        });
        Ok(())
    }

    pub fn on_delete_topics(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let names = input.list(Reader::text)?;
        if request.version >= 1 {
            out.i32(0);
        }
        let mut coordinator = self.coordinator();
        out.list(&names, |out, name| {
            let answer = coordinator.delete_topic(&self.topics, name);
            out.text(name);
            out.i16(code(&answer));
        });
        Ok(())
    }

    pub fn on_create_partitions(&self, _: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let topics = input.list(|input| {
            let wanted = (input.text()?, input.i32()?);
            input.list(|input| input.list(Reader::i32))?; // where to: there is one broker
            Ok(wanted)
        })?;
        input.i32()?; // the time it may take
        let only_check = input.bool()?;
        out.i32(0);
        let mut coordinator = self.coordinator();
        out.list(&topics, |out, (name, partitions)| {
            let answer = match only_check {
                true => coordinator.check_new_partitions(&self.topics, name, *partitions).map(|_| ()),
                false => coordinator.create_partitions(&self.topics, name, *partitions),
            };
            out.text(name);
            out.i16(code(&answer));
            out.text_or_null(None);
        });
        Ok(())
    }

    pub fn on_describe_configs(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let version = request.version;
        let asked = input.list(|input| {
            let (kind, name) = (input.i8()?, input.text()?);
            Ok((kind, name, input.list_or_null(Reader::text)?))
        })?;
        out.i32(0);
        out.list(&asked, |out, (kind, name, keys)| {
            let settings = self.settings_of(*kind, name);
            out.i16(code(&settings));
            out.text_or_null(None);
            out.i8(*kind);
            out.text(name);
            let mut settings = settings.unwrap_or_default();
            settings.retain(|(key, _)| keys.as_ref().is_none_or(|keys| keys.iter().any(|asked| asked == key)));
            out.list(&settings, |out, (key, value)| {
                out.text(key);
                out.text(value);
                out.bool(true); // read only
                if version == 0 {
                    out.bool(true); // a default
                } else {
                    out.i8(FROM_DEFAULT);
                }
                out.bool(false); // secret
                if version >= 1 {
                    out.empty_list(); // other names
                }
                if version >= 3 {
                    out.i8(UNKNOWN_TYPE);
                    out.text_or_null(None);
                }
            });
        });
        Ok(())
    }

    /// What holds for a topic or the broker, under the names that Kafka has for it.
    fn settings_of(&self, kind: i8, name: &str) -> Answer<Vec<(&'static str, String)>> {
        let batch_bytes_max = self.config.batch_bytes_max().to_string();
        match kind {
            TOPIC if self.topics.get(name).is_none() => Err(ErrorCode::UnknownTopicOrPartition),
            TOPIC => Ok(vec![
                ("cleanup.policy", "delete".into()),
                ("compression.type", "producer".into()),
                ("max.message.bytes", batch_bytes_max),
                ("message.timestamp.type", "CreateTime".into()),
                ("min.insync.replicas", "1".into()),
                // No limit of its own: the broker's limit is for all topics together.
                ("retention.bytes", "-1".into()),
                ("retention.ms", "-1".into()),
            ]),
            BROKER if name == BROKER_ID.to_string() => Ok(vec![
                ("auto.create.topics.enable", "true".into()),
                ("broker.id", BROKER_ID.to_string()),
                ("default.replication.factor", "1".into()),
                ("message.max.bytes", batch_bytes_max),
                ("num.partitions", self.config.default_partitions.to_string()),
                ("transaction.max.timeout.ms", transactions::TIMEOUT_MS_MAX.to_string()),
            ]),
            _ => Err(ErrorCode::InvalidRequest),
        }
    }
}

/// Writes what the broker supports, in the layout of `version`.
pub fn write_api_versions(out: &mut Writer, version: i16, code: i16) {
    out.i16(code);
    out.list(SUPPORTED, |out, (api, versions)| {
        out.i16(*api as i16);
        out.i16(*versions.start());
        out.i16(*versions.end());
    });
    if version >= 1 {
        out.i32(0);
    }
}
