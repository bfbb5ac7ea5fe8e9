//! What cannot be read at an offset: standard input, a pipe.

use super::lines::{BLOCK_BYTES, Taken, too_long};
use crate::error::{Error, Result};
use crate::format::RECORD_BYTES_MAX;
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use memchr::memchr;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// What the thread hands over at once, and how many of these may wait.
const READ_BYTES: usize = 64 << 10;
const READS_MAX: usize = 16;

/// Standard input or a named pipe, read ahead by a thread.
pub(super) struct Stream {
    blocks: Receiver<io::Result<Vec<u8>>>,
    /// What was received and not consumed.
    rest: Vec<u8>,
    /// So many bytes of `rest` are known to hold no whole record.
    searched: usize,
    ended: bool,
}

impl Stream {
    pub fn start(path: &str) -> Result<Stream> {
        let mut reader: Box<dyn Read + Send> = match path {
            "-" => Box::new(io::stdin()),
            path => {
                let path = PathBuf::from(path);
                // Opening a pipe waits for its writer: the thread's business.
                Box::new(OpenLater { path, file: None })
            }
        };
        let (sender, blocks) = bounded(READS_MAX);
        let read = move || loop {
            let mut block = vec![0; READ_BYTES];
            let outcome = match reader.read(&mut block) {
                Ok(0) => return,
                Ok(length) => {
                    block.truncate(length);
                    Ok(block)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = outcome.is_err();
            if sender.send(outcome).is_err() || failed {
                return;
            }
        };
        std::thread::Builder::new()
            .name(format!("read {path}"))
            .spawn(read)
            .map_err(|error| Error::unavailable(format!("cannot start a thread to read \"{path}\": {error}")))?;
        Ok(Stream { blocks, rest: Vec::new(), searched: 0, ended: false })
    }

    pub fn take(&mut self) -> Result<Taken> {
        while !self.ended && self.rest.len() < self.searched + BLOCK_BYTES {
            match self.blocks.try_recv() {
                Ok(Ok(block)) => self.rest.extend_from_slice(&block),
                Ok(Err(error)) => return Err(Error::unavailable(format!("cannot read: {error}")).caused_by(error)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.ended = true,
            }
        }
        if self.ended && self.rest.is_empty() {
            return Ok(Taken::Ended);
        }
        // Only a newline can complete a record.
        if !self.ended && memchr(b'\n', &self.rest[self.searched..]).is_none() {
            self.searched = self.rest.len();
            return if self.searched > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(Taken::Pending) };
        }
        let bytes = std::mem::take(&mut self.rest);
        Ok(Taken::Bytes { length: bytes.len(), bytes, at_end: self.ended })
    }

    pub fn give_back(&mut self, mut bytes: Vec<u8>, consumed: usize) -> Result<()> {
        bytes.drain(..consumed);
        self.searched = if consumed == 0 { bytes.len() } else { 0 };
        self.rest = bytes;
        if self.searched > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(()) }
    }
}

/// A file that is opened by the first read.
struct OpenLater {
    path: PathBuf,
    file: Option<File>,
}

impl Read for OpenLater {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.read(buffer),
            None => self.file.insert(File::open(&self.path)?).read(buffer),
        }
    }
}
