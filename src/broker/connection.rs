//! One connection: frames in, frames out, in order. What cannot be read ends the connection and nothing else.

use super::admin;
use super::protocol::{Api, ErrorCode};
use super::server::Server;
use super::wire::{Hangup, Read, Reader, Writer};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

/// Number and version of the API, and the correlation id: no request is shorter.
const REQUEST_BYTES_MIN: usize = 8;
/// What a connection reserves before any of a request has come, and keeps between two.
const BUFFER_BYTES: usize = 2 << 20;

/// What stands before a request's fields, and who sends it.
pub struct Request<'a> {
    pub version: i16,
    pub client_id: String,
    pub client_host: &'a str,
}

impl Server {
    /// Answers requests until the peer goes, sends what cannot be read, or the broker stops.
    pub fn serve(&self, mut stream: &TcpStream) {
        let host = stream.peer_addr().map_or_else(|_| String::new(), |peer| peer.ip().to_string());
        // Nagle's algorithm would hold back the end of an answer.
        let _ = stream.set_nodelay(true);
        let mut frame = Vec::new();
        while let Ok(true) = self.read_frame(stream, &mut frame) {
            let answered = self.answer(&frame, &host);
            if frame.capacity() > BUFFER_BYTES {
                frame = Vec::new();
            }
            let written = match answered {
                Ok(Some(response)) => stream.write_all(&response),
                Ok(None) => Ok(()),
                Err(Hangup(why)) => {
                    tracing::debug!("connection from {host} closed: {why}");
                    return;
                }
            };
            if written.is_err() {
                return;
            }
        }
    }

    /// Reads the next request; false when there is none, or none that is allowed. Memory follows the bytes that come.
    fn read_frame(&self, mut stream: &TcpStream, frame: &mut Vec<u8>) -> io::Result<bool> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(REQUEST_BYTES_MIN..=self.config.request_bytes_max).contains(&length) {
            tracing::debug!("a request of {length} bytes is not allowed");
            return Ok(false);
        }
        frame.clear();
        frame.reserve(length.min(BUFFER_BYTES / 2));
        stream.take(length as u64).read_to_end(frame)?;
        Ok(frame.len() == length && !self.is_stopping())
    }

    /// Gives the frame that answers, or none when the peer wants none.
    pub(crate) fn answer(&self, frame: &[u8], client_host: &str) -> Read<Option<Vec<u8>>> {
        let input = &mut Reader::new(frame);
        let (key, version, correlation) = (input.i16()?, input.i16()?, input.i32()?);
        let client_id = input.text_or_null()?.unwrap_or_default();
        let (api, versions) = Api::find(key).ok_or(Hangup("unknown kind of request"))?;
        let out = &mut Writer::frame(correlation);
        if !versions.contains(&version) {
            if api != Api::Versions {
                return Err(Hangup("unsupported version of a request"));
            }
            // How a client of any age learns what is supported.
            admin::write_api_versions(out, 0, ErrorCode::UnsupportedVersion as i16);
            return Ok(Some(std::mem::take(out).into_frame()));
        }
        (input.flexible, out.flexible) = (api.is_flexible(version), api.is_flexible(version));
        input.tags()?;
        out.tags();
        let request = &Request { version, client_id, client_host };
        match api {
            Api::Produce => {
                if !self.on_produce(request, input, out)? {
                    return Ok(None);
                }
            }
            Api::Fetch => self.on_fetch(request, input, out)?,
            Api::ListOffsets => self.on_list_offsets(request, input, out)?,
            Api::Metadata => self.on_metadata(request, input, out)?,
            Api::OffsetCommit => self.on_offset_commit(request, input, out)?,
            Api::OffsetFetch => self.on_offset_fetch(request, input, out)?,
            Api::FindCoordinator => self.on_find_coordinator(request, input, out)?,
            Api::JoinGroup => self.on_join_group(request, input, out)?,
            Api::Heartbeat => self.on_heartbeat(request, input, out)?,
            Api::LeaveGroup => self.on_leave_group(request, input, out)?,
            Api::SyncGroup => self.on_sync_group(request, input, out)?,
            Api::DescribeGroups => self.on_describe_groups(request, input, out)?,
            Api::ListGroups => self.on_list_groups(request, input, out)?,
            Api::Versions => self.on_api_versions(request, out),
            Api::CreateTopics => self.on_create_topics(request, input, out)?,
            Api::DeleteTopics => self.on_delete_topics(request, input, out)?,
            Api::InitProducerId => self.on_init_producer_id(request, input, out)?,
            Api::AddPartitionsToTxn => self.on_add_partitions_to_txn(request, input, out)?,
            Api::AddOffsetsToTxn => self.on_add_offsets_to_txn(request, input, out)?,
            Api::EndTxn => self.on_end_txn(request, input, out)?,
            Api::TxnOffsetCommit => self.on_txn_offset_commit(request, input, out)?,
            Api::DescribeConfigs => self.on_describe_configs(request, input, out)?,
            Api::CreatePartitions => self.on_create_partitions(request, input, out)?,
            Api::DeleteGroups => self.on_delete_groups(request, input, out)?,
        }
        Ok(Some(std::mem::take(out).into_frame()))
    }
}
