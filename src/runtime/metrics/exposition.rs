//! The counters as Prometheus reads them. docs/metrics.md lists them; a test compares it with what is served.

use super::{Metrics, Role, StepCells};
use crate::error::{Error, Result};
use crate::runtime::usage;
use crate::time::Watermark;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A figure of each step on each worker.
struct Series {
    name: &'static str,
    about: &'static str,
    /// The steps that have it.
    of: &'static [Role],
    read: Read,
}

/// Where a figure is found.
enum Read {
    /// It only grows.
    Count(fn(&StepCells) -> &AtomicU64),
    /// The same, of nanoseconds, shown as seconds.
    Time(fn(&StepCells) -> &AtomicU64),
    /// It goes up and down, and there may be none. The wall clock's microseconds tell how old a watermark is.
    Gauge(fn(&StepCells, i64) -> Option<f64>),
}

const ALL: &[Role] = &[Role::Source, Role::Inner, Role::Lookup, Role::Sink, Role::View];
const TAKING: &[Role] = &[Role::Inner, Role::Lookup, Role::Sink, Role::View];
const GIVING: &[Role] = &[Role::Source, Role::Inner, Role::Lookup];

const SPEAKING: &[Role] = &[Role::Source, Role::Inner, Role::Lookup, Role::View];

const STEPS: [Series; 21] = [
    Series {
        name: "step_rows_in",
        about: "Rows that the step took in",
        of: TAKING,
        read: Read::Count(|cells| &cells.rows_in),
    },
    Series {
        name: "step_rows_out",
        about: "Rows that the step gave on, or that a source read",
        of: GIVING,
        read: Read::Count(|cells| &cells.rows_out),
    },
    Series {
        name: "step_batches_in",
        about: "Batches that the step took in",
        of: TAKING,
        read: Read::Count(|cells| &cells.batches_in),
    },
    Series {
        name: "step_batches_out",
        about: "Batches that the step gave on, or that a source read",
        of: GIVING,
        read: Read::Count(|cells| &cells.batches_out),
    },
    Series {
        name: "step_read_bytes",
        about: "Bytes that a source read, as they are outside",
        of: &[Role::Source],
        read: Read::Count(|cells| &cells.read_bytes),
    },
    Series {
        name: "step_written_bytes",
        about: "Bytes that a sink wrote, as they are outside, where the connector knows",
        of: &[Role::Sink],
        read: Read::Count(|cells| &cells.written_bytes),
    },
    Series {
        name: "step_exchanged_bytes",
        about: "Bytes that were sent to other processes for the step to take in",
        of: TAKING,
        read: Read::Count(|cells| &cells.exchanged_bytes),
    },
    Series {
        name: "step_errors",
        about: "Errors of the step; the first one ends the run",
        of: ALL,
        read: Read::Count(|cells| &cells.errors),
    },
    Series {
        name: "step_bad_records",
        about: "Records that could not be read, of tables that bear them",
        of: &[Role::Source],
        read: Read::Count(|cells| &cells.bad_records),
    },
    Series {
        name: "step_late_rows",
        about: "Rows that came after their window had closed",
        of: &[Role::Inner],
        read: Read::Count(|cells| &cells.late_rows),
    },
    Series {
        name: "step_lookup_hits",
        about: "Keys that a lookup knew when a batch came",
        of: &[Role::Lookup],
        read: Read::Count(|cells| &cells.lookup_hits),
    },
    Series {
        name: "step_lookup_misses",
        about: "Keys that a lookup did not know, and waited for",
        of: &[Role::Lookup],
        read: Read::Count(|cells| &cells.lookup_misses),
    },
    Series {
        name: "step_lookup_answers",
        about: "Questions of a lookup that were answered",
        of: &[Role::Lookup],
        read: Read::Count(|cells| &cells.lookup_answers),
    },
    Series {
        name: "step_lookup_seconds",
        about: "Time that these questions took, attempts and pauses between them included",
        of: &[Role::Lookup],
        read: Read::Time(|cells| &cells.lookup_nanos),
    },
    Series {
        name: "step_lookup_keys",
        about: "Keys that a lookup remembers",
        of: &[Role::Lookup],
        read: Read::Gauge(|cells, _| cells.remembered().map(|keys| keys as f64)),
    },
    Series {
        name: "step_busy_seconds",
        about: "Time spent in the step, what it sends included",
        of: ALL,
        read: Read::Time(|cells| &cells.busy_nanos),
    },
    Series {
        name: "step_lag_rows",
        about: "Rows that wait to be read, where the outside says how many",
        of: &[Role::Source],
        read: Read::Gauge(|cells, _| cells.lag().map(|rows| rows as f64)),
    },
    Series {
        name: "step_watermark_seconds",
        about: "The watermark of the last complete epoch, in seconds since 1970",
        of: SPEAKING,
        read: Read::Gauge(|cells, _| moment(cells).map(|micros| micros as f64 / 1e6)),
    },
    Series {
        name: "step_event_time_lag_seconds",
        about: "How far the watermark is behind the wall clock",
        of: SPEAKING,
        read: Read::Gauge(|cells, wall| moment(cells).map(|micros| wall.saturating_sub(micros) as f64 / 1e6)),
    },
    Series {
        name: "view_held_rows",
        about: "Rows in memory for who asks for the view, those included that are not added up yet",
        of: &[Role::View],
        read: Read::Gauge(|cells, _| Some(cells.held_rows() as f64)),
    },
    Series {
        name: "view_held_bytes",
        about: "Memory of these rows",
        of: &[Role::View],
        read: Read::Gauge(|cells, _| Some(cells.held_bytes.load(Relaxed) as f64)),
    },
];

/// The watermark, if it is a moment.
fn moment(cells: &StepCells) -> Option<i64> {
    Some(cells.mark()).filter(|mark| *mark != Watermark::NONE && *mark != Watermark::END).map(Watermark::micros)
}

impl Metrics {
    /// All of them in the OpenMetrics text format.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::error::ErrorKind::Internal) if they cannot be written, which no counter should bring about.
    pub fn exposition(self: &Arc<Self>) -> Result<String> {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("highwater");
        own.register(
            "pipeline",
            "The pipeline that runs",
            Info::new([("pipeline", self.pipeline.clone()), ("version", env!("CARGO_PKG_VERSION").to_owned())]),
        );
        own.register_collector(Box::new(Pipeline(Arc::clone(self))));
        registry.register_collector(Box::new(Process));
        let mut written = String::new();
        text::encode(&mut written, &registry)
            .map_err(|error| Error::internal("the metrics cannot be written").caused_by(error))?;
        Ok(written)
    }
}

/// What the steps and epochs of a pipeline are at.
struct Pipeline(Arc<Metrics>);

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pipeline").field(&self.0.pipeline).finish()
    }
}

impl Collector for Pipeline {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let wall = self.0.clock.wall();
        for series in &STEPS {
            let metric = match series.read {
                Read::Count(_) | Read::Time(_) => MetricType::Counter,
                Read::Gauge(_) => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(series.name, series.about, None, metric)?;
            for step in self.0.steps.iter().filter(|step| series.of.contains(&step.role)) {
                for (place, cells) in step.cells() {
                    let labels = [("step", step.name.as_str()), ("worker", &(self.0.first + place).to_string())];
                    let labels = labels.as_slice();
                    let mut one = family.encode_family(&labels)?;
                    match series.read {
                        Read::Count(cell) => count(&mut one, &cell(cells).load(Relaxed))?,
                        Read::Time(cell) => count(&mut one, &(cell(cells).load(Relaxed) as f64 / 1e9))?,
                        Read::Gauge(gauge) => gauge(cells, wall).map_or(Ok(()), |value| one.encode_gauge(&value))?,
                    }
                }
            }
        }
        // epochs are opened and told finished by worker 0
        if self.0.first == 0 {
            let epochs = [
                ("epochs_opened", "Epochs that have begun", &self.0.epochs_opened),
                ("epochs_finished", "Epochs that every sink has finished", &self.0.epochs_finished),
                ("checkpoints", "Checkpoints that are committed", &self.0.checkpoints),
            ];
            for (name, about, cell) in epochs {
                count(&mut encoder.encode_descriptor(name, about, None, MetricType::Counter)?, &cell.load(Relaxed))?;
            }
            let about = "Epochs that have begun and that some sink has not finished";
            encoder
                .encode_descriptor("epochs_in_flight", about, None, MetricType::Gauge)?
                .encode_gauge(&self.0.epochs_in_flight())?;
            let about = "From the tick that ends an epoch until every sink has finished it";
            let histogram = encoder.encode_descriptor("epoch_seconds", about, None, MetricType::Histogram)?;
            self.0.epoch_seconds.encode(histogram)?;
            let about = "The epoch of the last checkpoint that is committed";
            encoder
                .encode_descriptor("checkpoint_epoch", about, None, MetricType::Gauge)?
                .encode_gauge(&self.0.checkpoint_epoch.load(Relaxed))?;
            let about = "From the end of a checkpoint's epoch on worker 0 until it is committed";
            let histogram = encoder.encode_descriptor("checkpoint_seconds", about, None, MetricType::Histogram)?;
            self.0.checkpoint_seconds.encode(histogram)?;
        }
        Ok(())
    }
}

fn count(encoder: &mut MetricEncoder, value: &impl prometheus_client::encoding::EncodeCounterValue) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
}

/// What every process tells, by the names that everyone uses.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        if let Ok(cpu) = usage::cpu() {
            let about = "Processor time of all threads";
            let mut one = encoder.encode_descriptor("process_cpu_seconds", about, None, MetricType::Counter)?;
            count(&mut one, &cpu.as_secs_f64())?;
        }
        encoder
            .encode_descriptor("process_resident_memory_bytes", "Memory in use", None, MetricType::Gauge)?
            .encode_gauge(&usage::memory())
    }
}
