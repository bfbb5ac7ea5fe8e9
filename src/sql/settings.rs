//! `SET` and `--set`: what a pipeline's settings are called and what they do.

use super::planner::Stay;
use crate::connector::{Named, OptionSpec, OptionText, Options, Preset, Takes};
use crate::error::{Error, Result};
use crate::plan::{Interval, Settings, Tick, WhenAllIdle};

const NAME: OptionSpec = OptionSpec::both(
    "pipeline.name",
    Takes::Form("a name"),
    Preset::Is("pipeline"),
    "what the pipeline is called in messages: letters, digits, `-` and `_`, 64 at most",
);
const TICK: OptionSpec = OptionSpec::both(
    "tick",
    Takes::Form("a duration, or `N rows`"),
    Preset::Is("100ms"),
    "when an epoch ends: after so long, or for bounded input after so many rows of each split",
);
const INFLIGHT_BYTES: OptionSpec = OptionSpec::both(
    "inflight_bytes",
    Takes::Bytes,
    Preset::Is("64 MiB"),
    "what the sources of a worker may have given out in epochs that are not written yet",
);
const INFLIGHT_EPOCHS: OptionSpec =
    OptionSpec::both("inflight_epochs", Takes::Whole(1, 1 << 20), Preset::Is("4"), "how many epochs may be under way");
const IDLE_TIMEOUT: OptionSpec = OptionSpec::both(
    "idle_timeout",
    Takes::DurationOrOff,
    Preset::Is("1m"),
    "after how long without data a split is left out of the watermark",
);
const WHEN_ALL_IDLE: OptionSpec = OptionSpec::both(
    "when_all_idle",
    Takes::Choice(&["hold", "wall_clock"]),
    Preset::Is("hold"),
    "what the watermark does when every split is silent",
);
const MAX_FUTURE: OptionSpec =
    OptionSpec::both("max_future", Takes::Duration, Preset::Is("24h"), "how far ahead of the clock event time may be");

const CHECKPOINT_STORE: OptionSpec = OptionSpec::both(
    "checkpoint_store",
    Takes::Text,
    Preset::None("none: a run begins where the definition says"),
    "where checkpoints are kept: a directory, or a URL that begins with `s3://`, `gs://` or `az://`",
);
const CHECKPOINT_INTERVAL: OptionSpec = OptionSpec::both(
    "checkpoint_interval",
    Takes::Form("a duration, or `N epochs`"),
    Preset::None("1 s in a directory, 10 s elsewhere; 10 epochs where a tick is a number of rows"),
    "how far apart checkpoints are",
);
const CHECKPOINT_RETAIN: OptionSpec = OptionSpec::both(
    "checkpoint_retain",
    Takes::Whole(1, 10_000),
    Preset::Is("3"),
    "how many checkpoints are kept, besides savepoints",
);

const STATE_TTL: OptionSpec = OptionSpec::both(
    "state_ttl",
    Takes::DurationOrOff,
    Preset::Is("off"),
    "how long rows of tables with a watermark count in joins, rankings and aggregates without windows, by event time",
);
const UNBOUNDED_STATE: OptionSpec = OptionSpec::both(
    "unbounded_state",
    Takes::Flag,
    Preset::Is("false"),
    "whether a step may keep all rows of a table that does not end",
);

/// What can be set, for documents and help.
pub const SETTINGS: &[&OptionSpec] = &[
    &NAME,
    &TICK,
    &INFLIGHT_BYTES,
    &INFLIGHT_EPOCHS,
    &IDLE_TIMEOUT,
    &WHEN_ALL_IDLE,
    &MAX_FUTURE,
    &CHECKPOINT_STORE,
    &CHECKPOINT_INTERVAL,
    &CHECKPOINT_RETAIN,
    &STATE_TTL,
    &UNBOUNDED_STATE,
];

/// Changes one setting.
pub(super) fn set(settings: &mut Settings, key: &str, value: OptionText) -> Result<()> {
    let given = Options::settings([(key.to_lowercase(), value)]);
    let declared: Vec<Named> = SETTINGS.iter().map(|spec| Named::from(*spec)).collect();
    if let Some(error) = given.check(&declared).into_iter().next() {
        return Err(error);
    }
    if let Some(text) = given.text_if_given(&NAME) {
        settings.name = name(text).map_err(|error| given.misvalued(&NAME, error))?;
    }
    if let Some(text) = given.text_if_given(&TICK) {
        settings.tick = tick(text).map_err(|error| given.misvalued(&TICK, error))?;
    }
    if let Some(bytes) = given.if_given(&INFLIGHT_BYTES, Options::bytes)? {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
        settings.inflight_bytes = bytes.ok_or_else(|| given.wrong(&INFLIGHT_BYTES, "at least one byte is needed"))?;
    }
    if let Some(epochs) = given.if_given(&INFLIGHT_EPOCHS, Options::whole)? {
        settings.inflight_epochs = epochs;
    }
    if let Some(timeout) = given.if_given(&IDLE_TIMEOUT, Options::duration_or_off)? {
        settings.idle_timeout = timeout;
    }
    if let Some(choice) = given.if_given(&WHEN_ALL_IDLE, Options::choice)? {
        settings.when_all_idle = when_all_idle(choice);
    }
    if let Some(ahead) = given.if_given(&MAX_FUTURE, Options::duration)? {
        settings.max_future = ahead;
    }
    if let Some(store) = given.text_if_given(&CHECKPOINT_STORE) {
        settings.checkpoint_store = (!store.is_empty()).then(|| store.to_owned());
    }
    if let Some(text) = given.text_if_given(&CHECKPOINT_INTERVAL) {
        settings.checkpoint_interval =
            Some(interval(text).map_err(|error| given.misvalued(&CHECKPOINT_INTERVAL, error))?);
    }
    if let Some(checkpoints) = given.if_given(&CHECKPOINT_RETAIN, Options::whole)? {
        settings.checkpoint_retain = checkpoints;
    }
    if let Some(ttl) = given.if_given(&STATE_TTL, Options::duration_or_off)? {
        settings.state_ttl = ttl;
    }
    if let Some(allowed) = given.if_given(&UNBOUNDED_STATE, Options::flag)? {
        settings.unbounded_state = allowed;
    }
    Ok(())
}

/// How long rows stay, as a hint says it.
pub(super) fn stay(text: &str) -> Result<Stay> {
    let given = Options::settings([(STATE_TTL.name.to_owned(), OptionText::from(text))]);
    Ok(Stay::from(given.duration_or_off(&STATE_TTL)?))
}

/// Changes settings as `--set key=value` does.
pub(super) fn set_all(settings: &mut Settings, overrides: &[(String, String)]) -> Result<()> {
    overrides.iter().try_for_each(|(key, value)| {
        set(settings, key, OptionText::from(value.as_str()))
            .map_err(|error| error.within(format!("--set {key}={value}")))
    })
}

fn name(value: &str) -> Result<String> {
    let good =
        (1..=64).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match good {
        true => Ok(value.to_owned()),
        false => Err(Error::invalid(format!("'{value}' cannot be a pipeline's name"))
            .help("a name has 1 to 64 letters, digits, hyphens and underscores")),
    }
}

fn tick(value: &str) -> Result<Tick> {
    let help = "write a duration such as '100 ms' or a number of rows such as '10000 rows'";
    let rows = value.strip_suffix("rows").or_else(|| value.strip_suffix("row"));
    let tick = match rows {
        Some(rows) => rows.trim().replace('_', "").parse().ok().filter(|rows| *rows > 0).map(Tick::Rows),
        None => humantime::parse_duration(value).ok().filter(|every| !every.is_zero()).map(Tick::Every),
    };
    tick.ok_or_else(|| Error::invalid(format!("'{value}' is not a tick")).help(help))
}

fn interval(value: &str) -> Result<Interval> {
    let epochs = value.strip_suffix("epochs").or_else(|| value.strip_suffix("epoch"));
    let interval = match epochs {
        Some(epochs) => epochs.trim().replace('_', "").parse().ok().filter(|epochs| *epochs > 0).map(Interval::Epochs),
        None => humantime::parse_duration(value).ok().filter(|every| !every.is_zero()).map(Interval::Every),
    };
    interval.ok_or_else(|| {
        Error::invalid(format!("'{value}' is not a distance between checkpoints"))
            .help("write a duration such as '10 s' or a number of epochs such as '20 epochs'")
    })
}

/// What the watermark does when every split is idle: one of the words that the option takes.
pub(super) fn when_all_idle(choice: &str) -> WhenAllIdle {
    match choice {
        "wall_clock" => WhenAllIdle::FollowWallClock,
        _ => WhenAllIdle::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_declared_as_preset_is_what_holds() {
        let zero = Duration::ZERO;
        let mut settings = Settings {
            name: String::new(),
            tick: Tick::Rows(1),
            inflight_bytes: 0,
            inflight_epochs: 0,
            idle_timeout: None,
            when_all_idle: WhenAllIdle::FollowWallClock,
            max_future: zero,
            checkpoint_store: None,
            checkpoint_interval: None,
            checkpoint_retain: 0,
            state_ttl: Some(zero),
            unbounded_state: true,
        };
        for spec in SETTINGS {
            let Preset::Is(text) = spec.preset else { continue };
            set(&mut settings, spec.name, OptionText::from(text)).unwrap();
        }
        assert_eq!(settings, Settings::default());
    }
}
