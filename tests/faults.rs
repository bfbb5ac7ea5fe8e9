//! The program under faults: its processes killed and frozen, its broker lost, its store full or damaged, its network cut. What a reader of
//! committed records sees is what the test counts itself. docs/faults.md lists which fault is tested where.

#[path = "faults/brokers.rs"]
mod brokers;
#[path = "faults/deaths.rs"]
mod deaths;
#[path = "faults/job.rs"]
mod job;
#[path = "support/kafka.rs"]
#[allow(dead_code)] // each test file uses its part
mod kafka;
#[path = "faults/links.rs"]
mod links;
#[path = "faults/networks.rs"]
mod networks;
#[path = "faults/points.rs"]
mod points;
#[path = "faults/rows.rs"]
mod rows;
#[path = "faults/stores.rs"]
mod stores;
#[path = "faults/topics.rs"]
mod topics;
