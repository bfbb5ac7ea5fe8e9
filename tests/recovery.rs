//! Pipelines that are killed between any two steps and go on: what was published is what an undisturbed run says.

#[path = "support/outside.rs"]
mod outside;
#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/queries.rs"]
mod queries;

use highwater::connector::builtin::Builtin;
use highwater::error::Error;
use highwater::runtime::lane::Offload;
use highwater::runtime::{Surroundings, Workers, start_with};
use highwater::time::{Clock, SystemClock};
use outside::{Life, Outside};
use pipeline::{MINUTE, Shape, Table, for_seeds, plan, run, texts, within};
use queries::{QUERIES, text};
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;

/// Runs the query in as many lives as it takes; each has its own number of workers and of steps.
fn run_in_lives(
    rng: &mut StdRng,
    table: &Table,
    query: usize,
    workers: &mut dyn FnMut(&mut StdRng) -> usize,
) -> (Vec<String>, u32) {
    let outside = Outside::new();
    let text = format!(
        "SET 'checkpoint_store' = 'memory'; SET 'checkpoint_interval' = '{} epochs'; {}",
        rng.random_range(1..4),
        text(table, query)
    );
    for lives in 1.. {
        // later lives last longer, so that an end is reached
        let steps = if lives > 25 { i64::MAX / 2 } else { rng.random_range(1..20 + 12 * i64::from(lives)) };
        let trouble = if rng.random_bool(0.3) { rng.random_range(5..20) } else { 0 };
        let life = Life::new(&outside, steps, trouble);
        let connectors = Builtin::default().with_source("t", table.source()).with_sink("out", life.sink());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let delay: u64 = rng.random();
        let offload = match rng.random_bool(0.5) {
            true => Offload::Threads,
            false => Offload::Inline(Arc::new(move || (delay % 7) as usize)),
        };
        let surroundings = Surroundings { store: Some(life.store()), offload, ..Surroundings::new(clock) };
        let (plan, workers) = (plan(&text, &connectors), workers(rng));
        let watched = Arc::clone(&life);
        let result = within(MINUTE, &text, move || {
            let running = start_with(plan, Workers::Threads(workers), surroundings).expect("it starts");
            let fate = running.fate();
            while !running.finished() {
                if watched.over() {
                    fate.fail(Error::internal("injected: killed"));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            running.wait().1
        });
        match result {
            Ok(()) => {
                let mut rows: Vec<String> = outside.published("out").iter().flat_map(texts).collect();
                rows.sort_unstable();
                return (rows, lives);
            }
            Err(error) => assert!(life.over(), "{error:?}\n{text}"),
        }
    }
    unreachable!("the last life has no end")
}

#[test]
fn what_is_published_over_many_lives_is_what_one_long_life_says() {
    let (mut lives, mut runs) = (0, 0);
    let counts = std::sync::Mutex::new((&mut lives, &mut runs));
    for_seeds(40, |rng| {
        let table = Table::random(rng);
        let query = std::env::var("HIGHWATER_QUERY")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| rng.random_range(0..QUERIES.len()));
        let (expected, _) = run(&text(&table, query), &table, Shape::Threads(1));
        let (found, took) = run_in_lives(rng, &table, query, &mut |rng| rng.random_range(1..4));
        let extra: Vec<&String> = found.iter().filter(|row| !expected.contains(row)).collect();
        let lost: Vec<&String> = expected.iter().filter(|row| !found.contains(row)).collect();
        assert!(
            found == expected,
            "{} rows instead of {} after {took} lives; lost {lost:?}, wrong {extra:?}: {}",
            found.len(),
            expected.len(),
            QUERIES[query]
        );
        let mut counts = counts.lock().unwrap();
        *counts.0 += took;
        *counts.1 += 1;
    });
    println!("{runs} runs in {lives} lives");
    assert!(runs == 1 || lives > 2 * runs, "hardly any life came to its end: {lives} in {runs} runs");
}
