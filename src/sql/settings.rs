//! `SET` and `--set`: what a pipeline's settings are called and how their values are read.

use crate::error::{Error, Result, nearest};
use crate::plan::{Settings, Tick, WhenAllIdle};
use std::time::Duration;

/// The settings' names, for near matches and help.
const NAMES: [&str; 7] =
    ["pipeline.name", "tick", "inflight_bytes", "inflight_epochs", "idle_timeout", "when_all_idle", "max_future"];

/// Changes one setting.
pub(super) fn set(settings: &mut Settings, key: &str, value: &str) -> Result<()> {
    match key.to_lowercase().as_str() {
        "pipeline.name" => settings.name = name(value)?,
        "tick" => settings.tick = tick(value)?,
        "inflight_bytes" => settings.inflight_bytes = number(value, "a number of bytes")?,
        "inflight_epochs" => settings.inflight_epochs = number(value, "a number of epochs")?,
        "idle_timeout" => settings.idle_timeout = duration_or_off(value)?,
        "when_all_idle" => settings.when_all_idle = when_all_idle(value)?,
        "max_future" => settings.max_future = duration(value)?,
        _ => {
            let error = Error::invalid(format!("unknown setting '{key}'"));
            return Err(match nearest(key, NAMES) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None => error.help(format!("the settings are {}", NAMES.join(", "))),
            });
        }
    }
    Ok(())
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

fn number(value: &str, what: &str) -> Result<usize> {
    match value.replace('_', "").parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::invalid(format!("'{value}' is not {what} above 0"))),
    }
}

fn duration(value: &str) -> Result<Duration> {
    humantime::parse_duration(value).map_err(|error| {
        Error::invalid(format!("'{value}' is not a duration: {error}")).help("write one such as '5s' or '100 ms'")
    })
}

/// A duration, or none for `off`.
pub(super) fn duration_or_off(value: &str) -> Result<Option<Duration>> {
    match value.eq_ignore_ascii_case("off") {
        true => Ok(None),
        false => duration(value).map(Some),
    }
}

/// What the watermark does when every split is idle.
pub(super) fn when_all_idle(value: &str) -> Result<WhenAllIdle> {
    match value.to_lowercase().as_str() {
        "hold" => Ok(WhenAllIdle::Hold),
        "wall_clock" => Ok(WhenAllIdle::FollowWallClock),
        _ => Err(Error::invalid(format!("'{value}' is not one of hold, wall_clock"))),
    }
}
