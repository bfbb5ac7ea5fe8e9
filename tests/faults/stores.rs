//! A checkpoint store that is full, not writable, damaged, or moved.

use crate::deaths::{Feed, see_through};
use crate::job::{DevBroker, Input, Job, Run, Special, wait_for};
use crate::points::ONE;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// A file system of its own in memory, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Of 4 MiB. None if this user may not have one, which is said.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let disk = Disk(path);
        if disk.mounted("size=4m") {
            return Some(disk);
        }
        println!("SKIPPED: this user cannot mount a file system");
        None
    }

    fn mounted(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "none"]).arg(&self.0).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn remount(&self, how: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        assert!(command.status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_and_one_that_is_read_only_lose_nothing() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let job = Job::endless(&input);
    let Some(disk) = Disk::mount(job.path("checkpoints")) else { return };
    let (feed, run) = (Feed::start(&input, 0), job.start(ONE, &[]));
    let advanced = |what: &str| {
        let before = job.checkpoint();
        wait_for(what, || job.checkpoint() > before);
    };
    advanced("checkpoint");
    let filler = disk.0.join("filler");
    // until nothing is left
    let _ = fs::write(&filler, vec![7; 8 << 20]);
    let full = job.checkpoint();
    wait_for("complaint", || run.err().contains("No space left on device"));
    assert!(job.checkpoint() <= full.map(|epoch| epoch + 5), "checkpoints on a full disk");
    fs::remove_file(&filler).unwrap();
    advanced("checkpoint once there is room");
    disk.remount("ro");
    wait_for("complaint", || run.err().contains("Read-only file system"));
    sleep(Duration::from_secs(1));
    disk.remount("rw");
    advanced("checkpoint once it can be written");
    see_through(&job, run, feed.end(), "a full disk");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    found.sort();
    found
}

/// A pipeline that was killed after its 10th checkpoint.
fn half_done(input: &Input) -> Job {
    let job = Job::new(input);
    let (code, err) = job.start(&["--no-restart"], &[("HIGHWATER_FAIL", "commit.recorded@10:kill")]).end();
    assert_eq!(code, -9, "{err}");
    job
}

/// What the newest checkpoint of `job` is: its manifest, an object of its state, and a record of the log before it.
fn parts(job: &Job) -> [PathBuf; 3] {
    let records = files(&job.store().join("log"));
    let newest = records.last().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(newest).unwrap()).unwrap();
    let manifest = job.store().join(record["record"]["manifest"].as_str().unwrap());
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let told = told.get("manifest").unwrap_or(&told);
    let object = job.store().join(told["state"][0]["path"].as_str().unwrap());
    [manifest, object, records[records.len() - 2].clone()]
}

#[test]
fn what_is_damaged_stops_it_and_is_named() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, 8000);
    let job = half_done(&input);
    let (whole, store) = (job.path("whole"), job.path("checkpoints"));
    copy(&store, &whole);
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 4] = [
        ("a flipped byte", |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("cut short", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("deleted", |path| fs::remove_file(path).unwrap()),
    ];
    for (damage, harm) in damages {
        for (part, path) in ["manifest", "object", "record"].iter().zip(parts(&job)) {
            harm(&path);
            let (code, err) = job.run(&[]);
            let name = path.strip_prefix(job.store()).unwrap().to_str().unwrap().to_owned();
            assert_eq!(code, 6, "{part} {damage}: {err}");
            assert!(err.contains(&name), "{part} {damage}: {name} is not named in {err}");
            fs::remove_dir_all(&store).unwrap();
            copy(&whole, &store);
        }
    }
    let (code, err) = job.run(&[]);
    assert_eq!(code, 0, "{err}");
    job.check(8000, "after it was brought back");
}

/// Who falls back to an earlier checkpoint loses nothing; what was published after it is published again.
#[test]
fn an_earlier_checkpoint_can_be_fallen_back_to() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, 8000);
    let job = half_done(&input);
    let newest = job.checkpoint().unwrap();
    let [manifest, ..] = parts(&job);
    fs::write(&manifest, "").unwrap();
    assert_eq!(job.run(&[]).0, 6);
    let (code, err) = job.run(&["--fall-back-to", &(newest - 2).to_string()]);
    assert_eq!(code, 0, "{err}");
    let (lost, doubled) = job.difference(8000);
    assert!(lost.is_empty(), "{lost:?}");
    let (windows, _) = crate::job::expected(8000);
    // two epochs of 400 rows are four windows of each word
    assert!(doubled.len() <= 6 * 7, "{}", doubled.len());
    assert!(doubled.iter().all(|row| windows.contains(row)), "{doubled:?}");
}

/// A savepoint in another place starts a pipeline of another name and with another definition.
#[test]
fn a_savepoint_that_was_moved_starts_a_changed_pipeline() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, 4050);
    let mut job = Job::endless(&input);
    let run = job.start(ONE, &[]);
    wait_for("checkpoint", || job.checkpoint().is_some());
    sleep(Duration::from_secs(1));
    let (code, out, err) = job.tell(&["stop", "pipeline.sql", "--savepoint", "before"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("savepoint before"), "{out}");
    assert_eq!(run.end().0, 0);
    let saved = job.store().join("savepoints/before");
    let moved = job.path("elsewhere");
    fs::rename(&saved, &moved).unwrap();
    fs::remove_dir_all(job.path("checkpoints")).unwrap();
    input.send(4050..8000, None);

    job.name = crate::kafka::unique("changed");
    let text = job.text(Special { endless: true, ..Special::default() });
    let added = "CREATE TABLE counts (c BIGINT) WITH ('connector' = 'file', 'path' = 'counts.csv', 'format' = 'csv');
        INSERT INTO counts SELECT count(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;";
    // without the windows
    let dropped = text.split("INSERT INTO windows").next().unwrap().to_owned()
        + "INSERT INTO totals"
        + text.split("INSERT INTO totals").nth(1).unwrap();
    let dropped =
        dropped.lines().filter(|line| !line.starts_with("CREATE TABLE windows")).collect::<Vec<_>>().join("\n");
    let from = ["--from-savepoint", "elsewhere"];
    fs::write(job.path("pipeline.sql"), &dropped).unwrap();
    let (code, err) = job.run(&from);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("would be dropped") && err.contains("--allow-dropped-state"), "{err}");
    assert!(!job.store().join("log/00000000000000000001.json").exists(), "a refusal changes nothing");

    fs::write(job.path("pipeline.sql"), format!("{text}{added}")).unwrap();
    let mut run = job.start(&from, &[]);
    run.wait_for("beginning", |_| job.checkpoint().is_some());
    let err = run.err();
    assert!(err.contains("state kept") && err.contains("state new"), "{err}");
    see_through(&job, run, 8000, "from a savepoint");

    // and the one with less, once somebody has said that it may
    job.name = crate::kafka::unique("smaller");
    let renamed = dropped.replacen(dropped.split('\'').nth(3).unwrap(), &job.name, 1);
    fs::write(job.path("pipeline.sql"), renamed).unwrap();
    let mut run = job.start(&[&from[..], &["--allow-dropped-state"]].concat(), &[]);
    run.wait_for("beginning", |_| job.checkpoint().is_some());
    let (code, err) = run.stop();
    assert!(code == 0 && err.contains("state dropped") && err.contains("state kept"), "{code}: {err}");
}

/// Bytes that a process had in memory at most, as far as one can tell while it runs.
fn memory_peak(process: nix::unistd::Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// A checkpoint of 1000 epochs has 400 MB of records for a sink: they are written part by part, before it is due.
#[test]
fn many_records_of_one_checkpoint_need_little_memory_and_survive_a_death() {
    const ROWS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "SET 'pipeline.name' = 'parts'; SET 'checkpoint_store' = 'checkpoints';
SET 'tick' = '100 rows'; SET 'checkpoint_interval' = '1000 epochs';
CREATE TABLE t (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{ROWS}', 'splits' = '1',
  'fields.n.kind' = 'sequence');
CREATE TABLE out (n BIGINT, x STRING) WITH ('connector' = 'file', 'path' = 'out/', 'format' = 'csv');
INSERT INTO out SELECT n, repeat('x', 4000) FROM t;\n"
    );
    fs::write(dir.path().join("pipeline.sql"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(["run", "pipeline.sql", "--no-progress"]).current_dir(dir.path()).stdin(Stdio::null());
    let once = dir.path().join("failed");
    command.env("HIGHWATER_FAIL", "part.written@3:kill").env("HIGHWATER_FAIL_ONCE", &once);
    let mut run = Run::of(command, dir.path().join("run.err"));
    let mut peak = 0;
    run.wait_for("death", |run| {
        peak = run.processes().into_iter().map(memory_peak).fold(peak, u64::max);
        once.exists()
    });
    wait_for("end", || {
        peak = run.processes().into_iter().map(memory_peak).fold(peak, u64::max);
        !run.running()
    });
    let (code, err) = run.end();
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("a new generation starts"), "{err}");
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            let read = fs::read_to_string(entry).unwrap();
            let number = |line: &str| line.split_once(',').and_then(|(number, _)| number.parse::<u64>().ok());
            numbers.extend(read.lines().filter_map(number));
        }
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..ROWS), "{} rows: {err}", numbers.len());
    println!("       {} MiB at most", peak >> 20);
    assert!(peak < 350 << 20, "{} MiB", peak >> 20);
    let second = fs::read_dir(dir.path().join("checkpoints/parts/g2")).unwrap().map(|entry| entry.unwrap().path());
    let parts = second.flat_map(|epoch| fs::read_dir(epoch).unwrap()).map(|entry| entry.unwrap().file_name());
    let parts = parts.filter(|name| name.to_string_lossy().starts_with("part-")).count();
    assert!(parts > 10, "the second generation has {parts} parts");
}
