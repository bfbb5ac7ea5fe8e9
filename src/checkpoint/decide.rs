//! Decisions about stored state: facts in, an answer out.

use super::manifest::StepState;
use super::object::{ObjectRef, SectionKind};
use crate::time::Watermark;

/// Which of the objects `state` nobody needs, because newer bases have all of their key groups.
///
/// An object with key groups R and epoch x is superseded when bases of an epoch of at least x, other than itself, cover R. Of two bases
/// that have the same epoch and cover each other the first goes, not both.
pub fn superseded(state: &[ObjectRef]) -> Vec<bool> {
    let mut gone = vec![false; state.len()];
    for (at, object) in state.iter().enumerate() {
        // a base that is gone is covered by what is not, so it need not count
        let covers = |(other, base): &(usize, &ObjectRef)| {
            *other != at && base.base && base.epoch >= object.epoch && !gone[*other]
        };
        let mut bases: Vec<(usize, usize)> =
            state.iter().enumerate().filter(covers).map(|(_, base)| base.groups).collect();
        bases.sort_unstable();
        let (start, end) = object.groups;
        let reached = bases.iter().fold(start, |reached, (first, behind)| match *first <= reached {
            true => reached.max(*behind),
            false => reached,
        });
        gone[at] = reached >= end && !bases.is_empty();
    }
    gone
}

/// True if nothing in the deltas `object` says anything any more, because the watermarks of their steps have come too far: what is
/// left of windows that have closed. `mark_of` knows the watermark of a step. A base stays, for what it hides.
pub fn expired(object: &ObjectRef, mark_of: impl Fn(&str) -> Option<Watermark>) -> bool {
    let mut sections = object.sections.iter().filter(|section| section.kind == SectionKind::State);
    let over = |until: i64, mark: Watermark| until <= mark.micros();
    !object.base
        && sections
            .all(|section| section.until.zip(mark_of(&section.step)).is_some_and(|(until, mark)| over(until, mark)))
}

/// What becomes of a step's state under another plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The new step takes it.
    Kept,
    /// The new step has none yet.
    New,
    /// No step has this name any more.
    Dropped,
    /// The new step is another one under the same name.
    Changed,
}

/// A step and what becomes of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its name.
    pub step: String,
    /// What becomes of its state.
    pub verdict: Verdict,
}

/// Finds for each step with state in a checkpoint the step of the new plan, given by name and identity: first the new ones in their
/// order, then those that are gone.
pub fn match_steps(old: &[StepState], new: &[(String, String)]) -> Vec<Match> {
    let kept = new.iter().map(|(name, identity)| {
        let verdict = match old.iter().find(|step| step.name == *name) {
            None => Verdict::New,
            Some(step) if step.identity == *identity => Verdict::Kept,
            Some(_) => Verdict::Changed,
        };
        Match { step: name.clone(), verdict }
    });
    let gone = old.iter().filter(|step| !new.iter().any(|(name, _)| *name == step.name));
    kept.chain(gone.map(|step| Match { step: step.name.clone(), verdict: Verdict::Dropped })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::object::SectionInfo;

    /// `base:epoch:start..end` or `delta:…`, one a word; answers with those that are left.
    fn check(state: &str, left: &str) {
        let parse = |word: &str| {
            let parts: Vec<&str> = word.split([':', '.']).filter(|part| !part.is_empty()).collect();
            ObjectRef {
                path: word.to_owned(),
                bytes: 0,
                blake3: String::new(),
                epoch: parts[1].parse().unwrap(),
                generation: 1,
                groups: (parts[2].parse().unwrap(), parts[3].parse().unwrap()),
                base: parts[0] == "base",
                sections: Vec::new(),
            }
        };
        let objects: Vec<ObjectRef> = state.split_whitespace().map(parse).collect();
        let gone = superseded(&objects);
        let kept: Vec<&str> =
            objects.iter().zip(gone).filter(|(_, gone)| !gone).map(|(object, _)| object.path.as_str()).collect();
        assert_eq!(kept.join(" "), left);
    }

    #[test]
    fn a_base_supersedes_what_it_covers_up_to_its_epoch() {
        check("delta:1:0..8 delta:2:0..8 base:2:0..8 delta:3:0..8", "base:2:0..8 delta:3:0..8");
        check("delta:1:0..8 base:1:0..4", "delta:1:0..8 base:1:0..4");
    }

    #[test]
    fn several_bases_cover_together_if_they_leave_no_gap() {
        check("delta:1:0..8 base:2:4..8 base:3:0..4", "base:2:4..8 base:3:0..4");
        check("delta:1:0..8 base:2:5..8 base:3:0..4", "delta:1:0..8 base:2:5..8 base:3:0..4");
    }

    #[test]
    fn a_newer_base_replaces_an_older_one_and_of_two_equal_ones_one_stays() {
        check("base:1:0..8 base:2:0..8", "base:2:0..8");
        check("base:2:0..8 base:2:0..8", "base:2:0..8");
        check("base:2:0..8", "base:2:0..8");
    }

    #[test]
    fn deltas_of_closed_windows_expire_and_nothing_else() {
        let section = |step: &str, kind, until| SectionInfo {
            step: step.into(),
            kind,
            table: "t".into(),
            rows: 1,
            bytes: 1,
            until,
        };
        let object = |base, sections| ObjectRef {
            path: String::new(),
            bytes: 1,
            blake3: String::new(),
            epoch: 1,
            generation: 1,
            groups: (0, 4096),
            base,
            sections,
        };
        let marks = |step: &str| (step == "windows").then_some(Watermark::at(10));
        let closed = section("windows", SectionKind::State, Some(10));
        let open = section("windows", SectionKind::State, Some(11));
        let lasting = section("windows", SectionKind::State, None);
        let unknown = section("others", SectionKind::State, Some(10));
        let output = section("sink", SectionKind::Output, None);
        assert!(expired(&object(false, vec![closed.clone(), closed.clone(), output]), marks));
        assert!(!expired(&object(true, vec![closed.clone()]), marks));
        for other in [open, lasting, unknown] {
            assert!(!expired(&object(false, vec![closed.clone(), other]), marks));
        }
    }

    #[test]
    fn steps_are_found_by_name_and_taken_if_they_are_the_same() {
        let step = |name: &str, identity: &str| StepState {
            name: name.into(),
            identity: identity.into(),
            watermark: Watermark::NONE,
        };
        let new =
            [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "3".to_owned()), ("c".to_owned(), "1".to_owned())];
        let found = match_steps(&[step("a", "1"), step("b", "2"), step("d", "1")], &new);
        let text: Vec<String> = found.iter().map(|m| format!("{} {:?}", m.step, m.verdict)).collect();
        assert_eq!(text, ["a Kept", "b Changed", "c New", "d Dropped"]);
    }
}
