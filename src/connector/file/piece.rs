//! The name of a split of a file, which says all that is needed to open it, and whether a split can be read on in a later run.

use super::handle::Identity;
use super::place_of;
use crate::connector::SplitStart;
use crate::error::{Error, Result};
use crate::format::Packing;
use std::fs::{self, Metadata};
use std::io;

/// The position of a split that has ended, whatever it had: its file need not be there any more.
pub(crate) const END: u64 = u64::MAX;

/// A split's name, parsed: the path, then `:start-end/size` for lines, `:blocks start-end/size`, `:groups start-end/size`,
/// `:gzip/size`, `:zstd/size`, `:followed` or `:pipe`, and but for a pipe which file it was: ` #number-born`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub path: String,
    pub part: Part,
    /// None for a pipe.
    pub identity: Option<Identity>,
}

/// What a split has of a file that had `size` bytes when it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The lines of these bytes. Positions are bytes of the file.
    Bytes { start: u64, end: u64, size: u64 },
    /// The blocks of rows of these bytes. Positions are rows of the part, here and with row groups.
    Blocks { start: u64, end: u64, size: u64 },
    /// These row groups.
    Groups { start: u64, end: u64, size: u64 },
    /// All, which is compressed. Positions are bytes of its text.
    Packed { packing: Packing, size: u64 },
    /// All, and what is appended, as long as it is this file.
    Followed,
    /// All there is to read, of unknown size.
    Stream,
}

impl Piece {
    /// What is read once: standard input, a pipe.
    pub fn stream(path: &str) -> Piece {
        Piece { path: path.into(), part: Part::Stream, identity: None }
    }

    pub fn name(&self) -> String {
        let part = match self.part {
            Part::Stream => "pipe".into(),
            Part::Followed => "followed".into(),
            Part::Packed { packing: Packing::Zstd, size } => format!("zstd/{size}"),
            Part::Packed { size, .. } => format!("gzip/{size}"),
            Part::Bytes { start, end, size } => format!("{start}-{end}/{size}"),
            Part::Blocks { start, end, size } => format!("blocks {start}-{end}/{size}"),
            Part::Groups { start, end, size } => format!("groups {start}-{end}/{size}"),
        };
        match self.identity {
            Some(Identity(number, born)) => format!("{}:{part} #{number}-{born}", self.path),
            None => format!("{}:{part}", self.path),
        }
    }

    pub fn parse(name: &str) -> Result<Piece> {
        let parsed = name.rsplit_once(':').and_then(|(path, rest)| {
            let (part, identity) = match rest.split_once(" #") {
                Some((part, identity)) => {
                    let (number, born) = identity.split_once('-')?;
                    (part, Some(Identity(number.parse().ok()?, born.parse().ok()?)))
                }
                None => (rest, None),
            };
            let part = Part::parse(part)?;
            (identity.is_some() != (part == Part::Stream)).then(|| Piece { path: path.into(), part, identity })
        });
        parsed.ok_or_else(|| Error::internal(format!("'{name}' is no split of a file")))
    }

    /// What keeps this split from being read on at `position`, if anything does; `now` is what is there under its path.
    fn obstacle(&self, position: Option<u64>, now: Result<&Metadata, &io::Error>) -> Option<String> {
        let read = match position {
            None | Some(0) => "nothing of it was read".to_owned(),
            Some(position) => match self.part {
                Part::Bytes { .. } | Part::Followed => format!("it was read up to byte {position}"),
                Part::Packed { .. } => format!("it was read up to byte {position} of its text"),
                Part::Blocks { .. } | Part::Groups { .. } | Part::Stream => {
                    format!("{position} rows of this part of it were read")
                }
            },
        };
        if self.part == Part::Stream {
            let lost = "what was read of it before the restart cannot be read again, nor what was on its way";
            return position.map(|_| lost.into());
        }
        let now = match now {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(format!("it is gone; {read}")),
            Err(error) => return Some(format!("cannot read it: {error}")),
            Ok(now) => now,
        };
        if self.identity.is_some_and(|identity| identity != Identity::of(now)) {
            return Some(format!("another file is in its place; {read}"));
        }
        let had = match self.part {
            Part::Bytes { size, .. } | Part::Blocks { size, .. } => size,
            Part::Groups { size, .. } | Part::Packed { size, .. } => size,
            Part::Followed => position.unwrap_or(0),
            Part::Stream => 0,
        };
        (now.len() < had).then(|| format!("it had {had} bytes and has only {} now; {read}", now.len()))
    }

    /// Where to read on in a split of this name that was read up to `position`, if its file is still what it was.
    ///
    /// # Errors
    /// What is missing. With `accept_gap` there is none of these: a split whose file is no longer what it was has ended, but if a
    /// file is followed, or a pipe is read, that is read from where it begins now.
    pub fn resume(mut self, position: Option<u64>, accept_gap: bool) -> Result<SplitStart> {
        if position.is_some_and(|position| self.ended_at(position)) {
            return Ok(SplitStart { name: self.name(), position: Some(END) });
        }
        let now = fs::metadata(&self.path);
        let obstacle = self.obstacle(position, now.as_ref());
        match (obstacle, now) {
            (None, _) => Ok(SplitStart { name: self.name(), position }),
            (Some(_), _) if accept_gap && self.part == Part::Stream => Ok(SplitStart::whole(self.name())),
            (Some(_), Ok(now)) if accept_gap && self.part == Part::Followed => {
                self.identity = Some(Identity::of(&now));
                Ok(SplitStart::whole(self.name()))
            }
            (Some(_), _) if accept_gap => Ok(SplitStart { name: self.name(), position: Some(END) }),
            (Some(obstacle), now) => {
                let help = match self.part {
                    Part::Stream => {
                        "start anew, or accept the gap to go on with what comes now; a file or a topic can be read on after a restart"
                    }
                    Part::Followed => "put the file back, or accept the gap to go on with what is there now",
                    _ => "put the file back as it was, or accept the gap to go on without the rest of it",
                };
                // a file that is missing may come back with its disk; one that is another stays another
                let error = if now.is_ok() { Error::invalid(obstacle) } else { Error::unavailable(obstacle) };
                Err(error.within(place_of(&self.path)).help(help))
            }
        }
    }

    /// True if there is nothing behind `position`, so that no file is needed.
    pub fn ended_at(&self, position: u64) -> bool {
        match self.part {
            // A record that starts at the end of a piece is its last.
            Part::Bytes { end, size, .. } if position > end || (position >= size && size > 0) => true,
            _ => position == END,
        }
    }
}

impl Part {
    fn parse(text: &str) -> Option<Part> {
        match text {
            "pipe" => return Some(Part::Stream),
            "followed" => return Some(Part::Followed),
            _ => {}
        }
        let (kind, rest) = text.split_once(' ').unwrap_or(("", text));
        let (range, size) = rest.split_once('/')?;
        let size = size.parse().ok()?;
        let packing = match range {
            "gzip" => Some(Packing::Gzip),
            "zstd" => Some(Packing::Zstd),
            _ => None,
        };
        if let Some(packing) = packing {
            return kind.is_empty().then_some(Part::Packed { packing, size });
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        Some(match kind {
            "" => Part::Bytes { start, end, size },
            "blocks" => Part::Blocks { start, end, size },
            "groups" => Part::Groups { start, end, size },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let identity = Some(Identity(17, 1_700_000_000_000_000_001));
        let parts = [
            Part::Bytes { start: 0, end: 5, size: 9 },
            Part::Blocks { start: 1, end: 2, size: 9 },
            Part::Groups { start: 1, end: 2, size: 9 },
            Part::Packed { packing: Packing::Gzip, size: 3 },
            Part::Packed { packing: Packing::Zstd, size: 3 },
            Part::Followed,
        ];
        let named = parts.map(|part| Piece { path: "a #1-2:b/c".into(), part, identity });
        for piece in named.into_iter().chain([Piece::stream("-"), Piece::stream("a:b #3-4")]) {
            assert_eq!(Piece::parse(&piece.name()).unwrap(), piece);
        }
        for wrong in
            ["", "a", "a:", "a:1-2/3", "a:pipe #1-2", "a:followed", "a:groups gzip/3 #1-2", "a:1-/3 #1-2", "a:1-2/3 #1"]
        {
            assert!(Piece::parse(wrong).is_err(), "{wrong}");
        }
    }
}
