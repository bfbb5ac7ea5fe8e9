//! A module, the instances of it, and what they may do: the only place that names wasmtime.
//!
//! As many instances are made as workers call at once. One that has failed is thrown away, so that no later batch sees what it left behind.

use super::buffers::{self, ALIGNMENT, Packed};
use super::{Declared, FUEL_OF_BATCH, Limits};
use crate::error::{Error, Result, nearest};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use wasmtime::{
    Config, Engine, ExternType, FuncType, Instance as Loaded, Memory, Module, ResourceLimiter, Store, Trap, TypedFunc,
    Val, ValType,
};

/// The largest file that is taken for a function.
const FILE_BYTES_MAX: usize = 64 << 20;

/// Instructions that a guest has to say what went wrong.
const FUEL_OF_REASON: u64 = 10_000_000;

/// The longest reason that is passed on.
const REASON_BYTES_MAX: usize = 1000;

/// What a guest is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// `call(address, length)`: an Arrow IPC stream each way.
    Call,
    /// `call_raw(rows, columns)`.
    CallRaw,
    /// `accumulate(groups, rows, columns)`.
    Accumulate,
    /// `merge(groups, rows, columns)`.
    Merge,
    /// `result(groups, columns)`.
    Result,
}

impl Entry {
    fn name(self) -> &'static str {
        match self {
            Entry::Call => "call",
            Entry::CallRaw => "call_raw",
            Entry::Accumulate => "accumulate",
            Entry::Merge => "merge",
            Entry::Result => "result",
        }
    }

    /// How many numbers of 32 bits it takes, and whether what it gives has 64.
    fn shape(self) -> (usize, bool) {
        match self {
            Entry::Call => (2, true),
            Entry::CallRaw | Entry::Result => (2, false),
            Entry::Accumulate | Entry::Merge => (3, false),
        }
    }
}

/// A module that was found to keep to the protocol.
pub(super) struct Guest {
    module: Module,
    /// `score() of 'score.wasm'`.
    called: String,
    limits: Limits,
    idle: Mutex<Vec<Instance>>,
}

/// Refuses memory beyond the limit, and remembers that it has.
struct Ceiling {
    bytes: usize,
    refused: bool,
}

impl ResourceLimiter for Ceiling {
    fn memory_growing(&mut self, _now: usize, wanted: usize, _most: Option<usize>) -> wasmtime::Result<bool> {
        self.refused |= wanted > self.bytes;
        Ok(wanted <= self.bytes)
    }

    fn table_growing(&mut self, _now: usize, wanted: usize, _most: Option<usize>) -> wasmtime::Result<bool> {
        const ENTRIES_MAX: usize = 1 << 20;
        Ok(wanted <= ENTRIES_MAX)
    }

    fn memories(&self) -> usize {
        1
    }
}

/// A module with a memory of its own.
pub(super) struct Instance {
    store: Store<Ceiling>,
    loaded: Loaded,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    free: Option<TypedFunc<(u32, u32), ()>>,
    /// What `alloc` gave in this call.
    given: Option<(u32, u32)>,
}

/// Why a call has no answer.
pub(super) enum Failure {
    /// The guest stopped, or said that it failed.
    Guest(wasmtime::Error),
    /// What it gave is none, or the mistake is on this side.
    Ours(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Ours(error)
    }
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Failure::Guest(error)
    }
}

fn gave(wrong: impl std::fmt::Display) -> Failure {
    Failure::Ours(Error::data(format!("it gave {wrong}")))
}

/// Columns that lie in a guest's memory.
pub(super) struct Given(u32);

impl Given {
    /// Where their records are.
    pub fn address(&self) -> Val {
        Val::I32(self.0.cast_signed())
    }

    /// A number of rows, as a guest is told it.
    pub fn rows(&self, rows: usize) -> Result<Val> {
        let rows = i32::try_from(rows).map_err(|_| Error::internal(format!("a batch of {rows} rows")))?;
        Ok(Val::I32(rows))
    }
}

fn engine() -> Result<&'static Engine> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        let mut config = Config::new();
        config.consume_fuel(true).cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
        config.wasm_memory64(false).wasm_multi_memory(false);
        Engine::new(&config).map_err(|error| error.to_string())
    });
    engine.as_ref().map_err(|error| Error::internal(format!("WebAssembly cannot run here: {error}")))
}

/// `(i32, i32) -> i64`.
fn signature(parameters: usize, results: &[&str]) -> String {
    let results = if results.is_empty() { "nothing".to_owned() } else { results.join(", ") };
    format!("({}) -> {results}", vec!["i32"; parameters].join(", "))
}

fn signature_of(found: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| types.map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
    let results = list(&mut found.results());
    let results = if results.is_empty() { "nothing".to_owned() } else { results };
    format!("({}) -> {results}", list(&mut found.params()))
}

impl Guest {
    /// Which of `call_raw` and `call` a function of rows is called by: the first if the types are `plain` and it is there.
    pub fn entry(declared: &Declared, plain: bool) -> Result<Entry> {
        let module = compile(declared)?;
        let has = |entry: Entry| module.get_export(entry.name()).is_some();
        match (plain, has(Entry::CallRaw), has(Entry::Call)) {
            (true, true, _) => Ok(Entry::CallRaw),
            (_, _, true) => Ok(Entry::Call),
            (false, true, false) => {
                let error = declared.wrong("call_raw does not take or give an ARRAY, MAP or ROW");
                Err(error.help("export 'call', which takes one Arrow IPC stream and gives one"))
            }
            (_, false, false) => {
                let error = declared.wrong("it exports neither 'call_raw' nor 'call'");
                Err(error.help(instead(&module, "call_raw").unwrap_or_else(|| {
                    "docs/functions.md says what a function exports; call_raw is the simple one".to_owned()
                })))
            }
        }
    }

    /// Checks the module and makes a first instance of it.
    pub fn load(declared: &Declared, entries: &[Entry]) -> Result<Self> {
        let module = compile(declared)?;
        let check = |name: &str, wanted: String, required: bool| match module.get_export(name) {
            Some(ExternType::Func(found)) if signature_of(&found) == wanted => Ok(()),
            Some(ExternType::Func(found)) => {
                let error = declared.wrong(format!("export '{name}' is {}, not {wanted}", signature_of(&found)));
                Err(error.help(format!("declare it with {wanted}; addresses and lengths have 32 bits")))
            }
            Some(_) => Err(declared.wrong(format!("export '{name}' is not a function"))),
            None if required => {
                let error = declared.wrong(format!("it does not export '{name}'"));
                let advice = format!("export a function {name} {wanted}");
                Err(error.help(instead(&module, name).unwrap_or(advice)))
            }
            None => Ok(()),
        };
        match module.get_export("memory") {
            Some(ExternType::Memory(memory)) => {
                let wants = memory.minimum().saturating_mul(memory.page_size());
                let may = declared.limits.memory;
                if wants > may {
                    let error = declared.wrong(format!("it wants {wants} bytes of memory, and may have {may}"));
                    return Err(
                        error.help(format!("allow it more: WITH ('memory' = '{} MiB')", wants.div_ceil(1 << 20)))
                    );
                }
            }
            _ => {
                let error = declared.wrong("it does not export its memory");
                return Err(error.help("export it as 'memory', as compilers do for the target wasm32-unknown-unknown"));
            }
        }
        check("alloc", signature(1, &["i32"]), true)?;
        check("free", signature(2, &[]), false)?;
        check("error", signature(0, &["i64"]), false)?;
        for entry in entries {
            let (parameters, wide) = entry.shape();
            check(entry.name(), signature(parameters, &[if wide { "i64" } else { "i32" }]), true)?;
        }
        let guest = Guest {
            module,
            called: format!("{}() of '{}'", declared.name, declared.file),
            limits: declared.limits,
            idle: Mutex::new(Vec::new()),
        };
        let first = guest.instance()?;
        guest.keep(first);
        Ok(guest)
    }

    fn instance(&self) -> Result<Instance> {
        let bytes = usize::try_from(self.limits.memory).unwrap_or(usize::MAX);
        let mut store = Store::new(self.module.engine(), Ceiling { bytes, refused: false });
        store.limiter(|ceiling| ceiling);
        store.set_fuel(FUEL_OF_BATCH).map_err(|error| Error::internal(error.to_string()))?;
        let loaded = Loaded::new(&mut store, &self.module, &[]);
        let loaded = loaded.map_err(|error| self.failed(&error, &store, FUEL_OF_BATCH, None).within("at its start"))?;
        let internal = |error: wasmtime::Error| Error::internal(format!("{}: {error}", self.called));
        let memory =
            loaded.get_memory(&mut store, "memory").ok_or_else(|| Error::internal("a module lost its memory"))?;
        let alloc = loaded.get_typed_func(&mut store, "alloc").map_err(internal)?;
        let free = loaded.get_typed_func(&mut store, "free").ok();
        Ok(Instance { store, loaded, memory, alloc, free, given: None })
    }

    fn keep(&self, instance: Instance) {
        self.idle.lock().expect("nobody panics with it").push(instance);
    }

    /// Does `work` with an instance that nobody else uses; it may take the instructions of a batch of `rows` rows.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::error::ErrorKind::Data) if the guest fails, runs out of instructions or memory, or gives what is none.
    pub fn with<T>(&self, rows: usize, work: impl FnOnce(&mut Instance) -> Result<T, Failure>) -> Result<T> {
        let idle = self.idle.lock().expect("nobody panics with it").pop();
        let mut instance = idle.map_or_else(|| self.instance(), Ok)?;
        let fuel = FUEL_OF_BATCH.saturating_add(self.limits.fuel.saturating_mul(rows as u64));
        instance.store.set_fuel(fuel).map_err(|error| Error::internal(error.to_string()))?;
        let done = work(&mut instance).and_then(|done| instance.done().map(|()| done));
        match done {
            Ok(done) => {
                self.keep(instance);
                Ok(done)
            }
            Err(Failure::Guest(cause)) => {
                let reason = instance.reason();
                Err(self.failed(&cause, &instance.store, fuel, reason))
            }
            Err(Failure::Ours(error)) => Err(error.about(&self.called)),
        }
    }

    /// What a failure of the guest means.
    fn failed(&self, cause: &wasmtime::Error, store: &Store<Ceiling>, fuel: u64, reason: Option<String>) -> Error {
        let called = &self.called;
        let bytes = self.limits.memory;
        match (cause.downcast_ref::<Trap>(), reason) {
            (Some(Trap::OutOfFuel), _) => {
                Error::data(format!("{called} did not end within {fuel} instructions for a batch")).help(format!(
                    "if it is meant to take so long, allow it more for each row: WITH ('fuel' = '{}')",
                    self.limits.fuel.saturating_mul(10)
                ))
            }
            (_, _) if store.data().refused => {
                Error::data(format!("{called} needs more than the {bytes} bytes of memory that it may have"))
                    .help(format!("allow it more: WITH ('memory' = '{} MiB')", (bytes >> 20).max(1) * 4))
            }
            (_, Some(reason)) => Error::data(format!("{called} failed: {reason}")),
            (Some(trap), None) => {
                let trap = trap.to_string();
                Error::data(format!("{called} failed: {}", trap.strip_prefix("wasm trap: ").unwrap_or(&trap)))
                    .help("a function that exports 'error' can say why; see docs/functions.md")
            }
            (None, None) => Error::data(format!("{called} failed: {cause}"))
                .help("a function that exports 'error' can say why; see docs/functions.md"),
        }
    }
}

/// The module, compiled once however often its definition is planned.
fn compile(declared: &Declared) -> Result<Module> {
    static KNOWN: Mutex<VecDeque<(blake3::Hash, Module)>> = Mutex::new(VecDeque::new());
    const KNOWN_MAX: usize = 16;
    let hash = blake3::hash(&declared.code);
    let known = || KNOWN.lock().expect("nobody panics with it");
    if let Some((_, module)) = known().iter().find(|(other, _)| *other == hash) {
        return Ok(module.clone());
    }
    if declared.code.len() > FILE_BYTES_MAX {
        let error = declared.wrong(format!("the file has {} bytes", declared.code.len()));
        let advice = format!("{FILE_BYTES_MAX} are the most: build it with optimisation and without debug symbols");
        return Err(error.help(advice));
    }
    let none = |reason: String| {
        let error = declared.wrong(format!("it is not a WebAssembly module{reason}"));
        error.help("compile it for wasm32-unknown-unknown; wat2wasm makes a module of a text in .wat")
    };
    if !declared.code.starts_with(b"\0asm") {
        return Err(none(String::new()));
    }
    let module = Module::from_binary(engine()?, &declared.code).map_err(|error| {
        let cause = error.root_cause().to_string();
        none(format!(": {}", cause.lines().next().unwrap_or_default()))
    })?;
    if let Some(import) = module.imports().next() {
        let error = declared.wrong(format!("it imports '{}.{}'", import.module(), import.name()));
        let advice = "a function gets nothing from outside: compile it for wasm32-unknown-unknown, not for WASI";
        return Err(error.help(advice));
    }
    let mut known = known();
    known.push_front((hash, module.clone()));
    known.truncate(KNOWN_MAX);
    Ok(module)
}

/// The export that may have been meant by `name`.
fn instead(module: &Module, name: &str) -> Option<String> {
    let names: Vec<&str> = module.exports().map(|export| export.name()).collect();
    nearest(name, names).map(|near| format!("it exports '{near}': call that '{name}'"))
}

impl Instance {
    /// Puts columns into the guest's memory.
    pub fn give(&mut self, columns: &[ArrayRef]) -> Result<Given, Failure> {
        let packed = Packed::new(columns)?;
        let address = self.room(packed.size())?;
        let memory = &mut self.memory.data_mut(&mut self.store)[address as usize..][..packed.size()];
        packed.write(address, memory);
        Ok(Given(address))
    }

    /// Asks the guest for `size` bytes.
    fn room(&mut self, size: usize) -> Result<u32, Failure> {
        let asked =
            u32::try_from(size).map_err(|_| Error::data(format!("a batch has {size} bytes, too many for it")))?;
        let address = self.alloc.call(&mut self.store, asked)?;
        if address == 0 {
            return Err(Failure::Guest(wasmtime::Error::msg(format!("its alloc has no {size} bytes"))));
        }
        if !(address as usize).is_multiple_of(ALIGNMENT) {
            return Err(Failure::Ours(Error::data(format!(
                "its alloc gave {address}, which is not a multiple of {ALIGNMENT}"
            ))));
        }
        buffers::bytes(self.memory.data(&self.store), address as usize, size, "room")
            .map_err(|wrong| Error::data(format!("its alloc gave {wrong}")))?;
        self.given = Some((address, asked));
        Ok(address)
    }

    /// Calls the guest; what it gives is not 0.
    pub fn call(&mut self, entry: Entry, arguments: &[Val]) -> Result<u64, Failure> {
        let function = self.loaded.get_func(&mut self.store, entry.name());
        let function = function.ok_or_else(|| Error::internal(format!("a module lost {}", entry.name())))?;
        let mut given = [if entry.shape().1 { Val::I64(0) } else { Val::I32(0) }];
        function.call(&mut self.store, arguments, &mut given)?;
        match given[0] {
            Val::I32(0) | Val::I64(0) => {
                Err(Failure::Guest(wasmtime::Error::msg(format!("its {} gave 0", entry.name()))))
            }
            Val::I32(number) => Ok(u64::from(number.cast_unsigned())),
            Val::I64(number) => Ok(number.cast_unsigned()),
            _ => Err(Error::internal("a number of another type").into()),
        }
    }

    /// The columns whose records are at `address`.
    pub fn take(&mut self, address: u64, columns: &[(&DataType, usize)]) -> Result<Vec<ArrayRef>, Failure> {
        let address = u32::try_from(address).map_err(|_| Error::internal("an address of more than 32 bits"))?;
        buffers::read(self.memory.data(&self.store), address, columns).map_err(gave)
    }

    /// Sends columns as an Arrow IPC stream of one batch, and takes one with one column back.
    pub fn exchange(&mut self, columns: Vec<(FieldRef, ArrayRef)>) -> Result<ArrayRef, Failure> {
        let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let internal = |error: arrow::error::ArrowError| Error::internal(error.to_string());
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal)?;
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(internal)?;
        writer.write(&batch).map_err(internal)?;
        let message = writer.into_inner().map_err(internal)?;
        let address = self.room(message.len())?;
        self.memory.data_mut(&mut self.store)[address as usize..][..message.len()].copy_from_slice(&message);
        let length = i32::try_from(message.len()).map_err(|_| Error::data("a batch has too many bytes for it"))?;
        let answer = self.call(Entry::Call, &[Val::I32(address.cast_signed()), Val::I32(length)])?;
        let answer = self.text(answer, "a message").map_err(gave)?;
        let none = |error: arrow::error::ArrowError| gave(format!("what is no Arrow IPC stream: {error}"));
        let batches =
            StreamReader::try_new(answer, None).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(none)?;
        match batches.as_slice() {
            [batch] if batch.num_columns() == 1 => Ok(Arc::clone(batch.column(0))),
            [batch] => Err(gave(format!("{} columns, not one", batch.num_columns()))),
            other => Err(gave(format!("{} batches, not one", other.len()))),
        }
    }

    /// The bytes at the address in the higher half of `place`, as many as the lower half says.
    fn text(&self, place: u64, what: &str) -> Result<&[u8], String> {
        let (address, length) = ((place >> 32) as usize, (place & u64::from(u32::MAX)) as usize);
        buffers::bytes(self.memory.data(&self.store), address, length, what)
    }

    /// Gives back the room that was asked for: the answer has been copied by now.
    fn done(&mut self) -> Result<(), Failure> {
        match (&self.free, self.given.take()) {
            (Some(free), Some(given)) => Ok(free.call(&mut self.store, given)?),
            _ => Ok(()),
        }
    }

    /// What the guest says about its failure, if it says anything.
    fn reason(&mut self) -> Option<String> {
        let error: TypedFunc<(), u64> = self.loaded.get_typed_func(&mut self.store, "error").ok()?;
        self.store.set_fuel(FUEL_OF_REASON).ok()?;
        let place = error.call(&mut self.store, ()).ok()?;
        let text = self.text(place, "a reason").ok().filter(|text| !text.is_empty())?;
        let text = &text[..text.len().min(REASON_BYTES_MAX)];
        Some(String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
