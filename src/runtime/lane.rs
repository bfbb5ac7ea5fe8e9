//! Work off the worker's thread: one job after the other, answers in the order of the jobs.
//!
//! What talks to a store or a broker may wait, and a worker must not. A simulation has no threads beside its workers: there a
//! lane does its job when it is asked for the answer, after as many questions in vain as the simulation likes.

use crate::error::{Error, Result};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::collections::VecDeque;
use std::sync::Arc;

/// Jobs that a thread may have before it; the others wait on the worker's side.
const AHEAD: usize = 2;

/// Where lanes run.
#[derive(Clone, Default)]
pub enum Offload {
    /// Each on a thread of its own.
    #[default]
    Threads,
    /// On the worker's thread. The function says for each job how often its answer is asked for in vain.
    Inline(Arc<dyn Fn() -> usize + Send + Sync>),
}

/// A lane: jobs go in, answers come out.
pub struct Lane<J, A> {
    place: Place<J, A>,
    /// What the thread has no room for.
    backlog: VecDeque<J>,
    unanswered: usize,
}

enum Place<J, A> {
    Thread { jobs: Sender<J>, answers: Receiver<A> },
    Inline { work: Box<dyn FnMut(J) -> A>, patience: usize, delay: Arc<dyn Fn() -> usize + Send + Sync> },
}

impl<J: Send + 'static, A: Send + 'static> Lane<J, A> {
    /// A lane called `name` on which `work` does the jobs.
    pub fn start(name: &str, offload: &Offload, mut work: impl FnMut(J) -> A + Send + 'static) -> Result<Self> {
        let place = match offload {
            Offload::Inline(delay) => {
                Place::Inline { work: Box::new(work), patience: delay(), delay: Arc::clone(delay) }
            }
            Offload::Threads => {
                let (jobs, given) = bounded::<J>(AHEAD);
                // one more than can be under way, so that an answer never waits
                let (answer, answers) = bounded(AHEAD + 2);
                let run = move || {
                    for job in given {
                        if answer.send(work(job)).is_err() {
                            return;
                        }
                    }
                };
                let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
                thread.map_err(|error| Error::unavailable(format!("no thread is left: {error}")))?;
                Place::Thread { jobs, answers }
            }
        };
        Ok(Lane { place, backlog: VecDeque::new(), unanswered: 0 })
    }

    /// Gives a job. Never waits.
    pub fn give(&mut self, job: J) {
        self.backlog.push_back(job);
        self.unanswered += 1;
        self.push_on();
    }

    /// Jobs without an answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The next answer, if there is one. Never waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::error::ErrorKind::Internal) if the thread panicked.
    pub fn take(&mut self) -> Result<Option<A>> {
        self.push_on();
        let answer = match &mut self.place {
            Place::Inline { patience, .. } if *patience > 0 => {
                *patience -= 1;
                None
            }
            Place::Inline { work, patience, delay } => {
                let answer = self.backlog.pop_front().map(work);
                if answer.is_some() {
                    *patience = delay();
                }
                answer
            }
            Place::Thread { answers, .. } => match answers.try_recv() {
                Ok(answer) => Some(answer),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return Err(Error::internal("a thread beside a worker panicked")),
            },
        };
        self.unanswered -= usize::from(answer.is_some());
        Ok(answer)
    }

    fn push_on(&mut self) {
        if let Place::Thread { jobs, .. } = &self.place {
            while self.unanswered - self.backlog.len() < AHEAD {
                let Some(job) = self.backlog.pop_front() else { return };
                if let Err(refused) = jobs.try_send(job) {
                    // a thread that is gone is noticed when its answer is asked for
                    self.backlog.push_front(refused.into_inner());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_jobs_on_a_thread_and_without() {
        let delays: Offload = Offload::Inline(Arc::new(|| 3));
        for offload in [Offload::Threads, delays] {
            let mut lane = Lane::start("test", &offload, |job: u32| job * 2).unwrap();
            (0..20).for_each(|job| lane.give(job));
            let mut answers = Vec::new();
            while lane.unanswered() > 0 {
                answers.extend(lane.take().unwrap());
            }
            assert_eq!(answers, (0..20).map(|job| job * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_in_a_job_is_an_error_for_who_waits() {
        let mut lane = Lane::start("test", &Offload::Threads, |(): ()| -> () { panic!("on purpose") }).unwrap();
        lane.give(());
        while lane.take().is_ok() {
            std::thread::yield_now();
        }
    }
}
