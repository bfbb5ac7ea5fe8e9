//! What cannot be read at an offset: standard input, a pipe, a compressed file.
//!
//! A pipe may make its reader wait, so a thread reads it ahead. A compressed file is unpacked when it is polled, a block at a
//! time; several members of gzip, or frames of zstd, one after the other are one text. To read it on, its text is unpacked
//! from the start and passed over up to there. What stands before a place that is
//! corrupt is read.

use super::handle::Handle;
use super::lines::{BLOCK_BYTES, Taken, too_long};
use crate::error::{Error, Result};
use crate::format::{FileStream, Packing, RECORD_BYTES_MAX, ReadAt};
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use flate2::bufread::MultiGzDecoder;
use memchr::{memchr, memchr_iter};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// What is read at once, and how many of these a thread may be ahead.
const READ_BYTES: usize = 64 << 10;
const READS_MAX: usize = 16;

/// Bytes that come one after the other.
pub(crate) struct Stream {
    supply: Supply,
    /// What was received and not consumed.
    rest: Vec<u8>,
    /// So many bytes of `rest` are known to hold no whole record.
    searched: usize,
    /// Bytes that were received.
    received: u64,
    /// Bytes that were read in an earlier run, those of them that are still to come, and the lines of those that have.
    before: u64,
    pass: u64,
    lines: u64,
    ended: bool,
    /// Why no more can be read.
    failed: Option<Error>,
}

enum Supply {
    /// From a thread.
    Ahead(Receiver<io::Result<Vec<u8>>>),
    /// Unpacked here.
    Packed { packing: Packing, file: Arc<dyn ReadAt>, reader: Option<Box<dyn Read>> },
}

impl Stream {
    /// Reads standard input, called `-`, or a pipe.
    pub fn start(path: &str, packing: Packing) -> Result<Stream> {
        let reader: Box<dyn BufRead + Send> = match path {
            "-" => Box::new(BufReader::new(io::stdin())),
            path => {
                let path = PathBuf::from(path);
                // Opening a pipe waits for its writer: the thread's business.
                Box::new(BufReader::new(OpenLater { path, file: None }))
            }
        };
        let (sender, blocks) = bounded(READS_MAX);
        let read = move || {
            let mut reader: Box<dyn Read> = match packing {
                Packing::None => Box::new(reader),
                Packing::Gzip => Box::new(MultiGzDecoder::new(reader)),
                Packing::Zstd => match zstd::Decoder::with_buffer(reader) {
                    Ok(reader) => Box::new(reader),
                    Err(error) => return drop(sender.send(Err(error))),
                },
            };
            loop {
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
            }
        };
        std::thread::Builder::new()
            .name(format!("read {path}"))
            .spawn(read)
            .map_err(|error| Error::unavailable(format!("cannot start a thread to read \"{path}\": {error}")))?;
        Ok(Stream::new(Supply::Ahead(blocks)))
    }

    /// Unpacks `file` and passes over its first `position` bytes of text.
    pub fn packed(file: Handle, packing: Packing, position: u64) -> Stream {
        let stream = Stream::new(Supply::Packed { packing, file: Arc::new(file), reader: None });
        Stream { before: position, pass: position, ..stream }
    }

    fn new(supply: Supply) -> Stream {
        Stream {
            supply,
            rest: Vec::new(),
            searched: 0,
            received: 0,
            before: 0,
            pass: 0,
            lines: 0,
            ended: false,
            failed: None,
        }
    }

    /// True while what comes was read before.
    pub fn passes(&self) -> bool {
        self.pass > 0
    }

    /// The lines that were passed over.
    pub fn lines_passed(&self) -> u64 {
        self.lines
    }

    /// Passes over a block of what was read before.
    fn pass_on(&mut self) -> Result<()> {
        let mut came = 0;
        while self.pass > 0 && came < BLOCK_BYTES {
            let unpacked = self.supply.next(&mut self.rest);
            let wrong = |what: String| {
                Err(Error::unavailable(format!("{} bytes of its text were read before, {what}", self.before)))
            };
            match unpacked {
                Ok(true) => {}
                Ok(false) => return wrong(format!("and it has only {} now", self.received)),
                Err(error) => return wrong(format!("and it cannot be read on after {}: {error}", self.received)),
            }
            self.received += self.rest.len() as u64;
            came += self.rest.len();
            let old = self.rest.len().min(usize::try_from(self.pass).unwrap_or(usize::MAX));
            self.lines += memchr_iter(b'\n', &self.rest[..old]).count() as u64;
            self.rest.drain(..old);
            self.pass -= old as u64;
        }
        Ok(())
    }

    pub fn take(&mut self) -> Result<Taken> {
        if self.pass > 0 {
            self.pass_on()?;
            if self.pass > 0 {
                return Ok(Taken::Pending);
            }
        }
        while !self.ended && self.rest.len() < self.searched + BLOCK_BYTES {
            let before = self.rest.len();
            match self.supply.next(&mut self.rest) {
                Ok(true) if self.rest.len() > before => self.received += (self.rest.len() - before) as u64,
                Ok(true) => break,
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    let wrong = format!("cannot read on after {} bytes of text: {error}", self.received);
                    self.failed = Some(Error::unavailable(wrong).caused_by(error));
                }
            }
        }
        let newline = memchr(b'\n', &self.rest[self.searched..]).is_some();
        if let Some(error) = self.failed.take_if(|_| !newline) {
            return Err(error);
        }
        if self.ended && self.rest.is_empty() {
            return Ok(Taken::Ended);
        }
        // Only a newline can complete a record.
        let ended = self.ended && self.failed.is_none();
        if !ended && !newline {
            self.searched = self.rest.len();
            return if self.searched > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(Taken::Pending) };
        }
        let bytes = std::mem::take(&mut self.rest);
        Ok(Taken::Bytes { length: bytes.len(), bytes, at_end: ended })
    }

    pub fn give_back(&mut self, mut bytes: Vec<u8>, consumed: usize) -> Result<()> {
        bytes.drain(..consumed);
        self.searched = if consumed == 0 { bytes.len() } else { 0 };
        self.rest = bytes;
        if self.searched > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(()) }
    }
}

impl Supply {
    /// Appends what comes next to `bytes`, which may be nothing yet; false at the end.
    fn next(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Supply::Ahead(blocks) => match blocks.try_recv() {
                Ok(block) => {
                    bytes.extend_from_slice(&block?);
                    Ok(true)
                }
                Err(TryRecvError::Empty) => Ok(true),
                Err(TryRecvError::Disconnected) => Ok(false),
            },
            Supply::Packed { file, .. } if file.size() == 0 => Ok(false),
            Supply::Packed { packing, file, reader } => {
                let reader = match reader {
                    Some(reader) => reader,
                    None => {
                        let packed = BufReader::with_capacity(READ_BYTES, FileStream::new(Arc::clone(file)));
                        reader.insert(match packing {
                            Packing::None => Box::new(packed),
                            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
                            Packing::Zstd => Box::new(zstd::Decoder::with_buffer(packed)?),
                        })
                    }
                };
                Ok(reader.take(READ_BYTES as u64).read_to_end(bytes)? > 0)
            }
        }
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
