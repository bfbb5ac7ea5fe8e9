//! The data connection as timely sees it: one that never fails.
//!
//! Timely panics on any error of a socket, and so do all that wait for its threads. A [`Link`] therefore reports what
//! went wrong to the [`Watch`] and parks timely's thread for ever; the process is about to end. It follows the frames that it
//! passes on, because timely trusts their headers, and because an end after the last frame is a clean one.

use super::peers::Watch;
use super::shut;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use timely::communication::allocator::zero_copy::stream::Stream;

/// One peer's data connection, handed to timely.
pub(super) struct Link {
    stream: TcpStream,
    peer: usize,
    frames: Frames,
    watch: Arc<Watch>,
}

impl Link {
    /// `workers` are those of this process: a frame for any other is refused.
    pub(super) fn new(stream: TcpStream, peer: usize, workers: Range<usize>, watch: &Arc<Watch>) -> Self {
        Link { stream, peer, frames: Frames::new(workers), watch: Arc::clone(watch) }
    }

    fn lost(&self, what: String) -> ! {
        self.watch.on_data_lost(self.peer, what);
        loop {
            std::thread::park();
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) | Err(_) if self.frames.ended => return Ok(0),
                Ok(0) => self.lost("closed the data connection".into()),
                Ok(read) => match self.frames.follow(&buffer[..read]) {
                    Ok(()) => return Ok(read),
                    Err(nonsense) => self.lost(format!("sent a frame that makes no sense: {nonsense}")),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lost(format!("broke the data connection: {error}")),
            }
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.watch.has_failed() {
            // the end of this process's data must not look like a clean one
            self.lost("is not written to after a failure".into());
        }
        match self.stream.write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.lost(format!("broke the data connection: {error}"))
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Self> {
        let stream = self.stream.try_clone()?;
        Ok(Link { stream, peer: self.peer, frames: self.frames.clone(), watch: Arc::clone(&self.watch) })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        shut(&self.stream, how);
        Ok(())
    }
}

/// Six numbers, most significant byte first: channel, source, first target, end of targets, length, sequence number.
const HEADER: usize = 48;
/// More than any batch of rows, less than a garbled header asks for.
const LENGTH_MAX: u64 = 1 << 30;

/// Where a stream of timely's frames stands: `(header, length bytes)*`, then a header of length 0 and nothing more.
#[derive(Debug, Clone)]
struct Frames {
    workers: Range<u64>,
    header: [u8; HEADER],
    /// Bytes of `header` that have come.
    begun: usize,
    /// Bytes of the frame that are still to come.
    left: u64,
    /// The last header has come.
    ended: bool,
}

impl Frames {
    fn new(workers: Range<usize>) -> Self {
        let workers = workers.start as u64..workers.end as u64;
        Frames { workers, header: [0; HEADER], begun: 0, left: 0, ended: false }
    }

    /// Goes on by `bytes`, or says why they cannot come from timely.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.ended {
                return Err("data after the end".into());
            }
            let body = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= body as u64;
            bytes = &bytes[body..];
            let more = bytes.len().min(HEADER - self.begun);
            self.header[self.begun..][..more].copy_from_slice(&bytes[..more]);
            self.begun += more;
            bytes = &bytes[more..];
            if self.begun == HEADER {
                self.begun = 0;
                self.open()?;
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), String> {
        let field = |index: usize| {
            let bytes = self.header[index * 8..].first_chunk().expect("a header has six numbers of eight bytes");
            u64::from_be_bytes(*bytes)
        };
        let (first, end, length) = (field(2), field(3), field(4));
        if length > LENGTH_MAX {
            return Err(format!("{length} bytes"));
        }
        if length > 0 && (first < self.workers.start || end > self.workers.end) {
            return Err(format!("for workers {first} to {end}, here are {:?}", self.workers));
        }
        self.left = length;
        self.ended = length == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u64, end: u64, length: u64) -> Vec<u8> {
        let header = [7, 0, first, end, length, 1].map(u64::to_be_bytes).concat();
        let body = vec![0; if length > LENGTH_MAX { 0 } else { length as usize }];
        [header, body].concat()
    }

    #[test]
    fn frames_are_followed_whatever_the_pieces_in_which_they_come() {
        let bytes = [frame(2, 3, 100), frame(2, 4, 1), frame(3, 4, 48), frame(0, 0, 0)].concat();
        for piece in [1, 7, 47, 48, 49, bytes.len()] {
            let mut frames = Frames::new(2..4);
            for (at, part) in bytes.chunks(piece).enumerate() {
                assert!(!frames.ended, "piece {at} of {piece} bytes");
                frames.follow(part).unwrap();
            }
            assert!(frames.ended);
        }
    }

    #[test]
    fn frames_that_timely_would_not_survive_are_refused() {
        let check = |bytes: Vec<u8>, why: &str| assert_eq!(Frames::new(2..4).follow(&bytes).unwrap_err(), why);
        check(frame(2, 5, 8), "for workers 2 to 5, here are 2..4");
        check(frame(0, 1, 8), "for workers 0 to 1, here are 2..4");
        check(frame(2, 3, u64::MAX), "18446744073709551615 bytes");
        check([frame(0, 0, 0), frame(2, 3, 8)].concat(), "data after the end");
    }
}
