//! `initials(name STRING) RETURNS STRING` as a WebAssembly function, without any library.
//!
//! `cargo build --release --target wasm32-unknown-unknown`, and then
//! `CREATE FUNCTION initials(name STRING) RETURNS STRING LANGUAGE wasm AS 'target/wasm32-unknown-unknown/release/initials.wasm'`.

use std::cell::RefCell;

/// A column in memory: where its validity is, a bit a row, or 0 if every value is there; its values; and where each starts among them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Column {
    validity: u32,
    values: u32,
    offsets: u32,
}

/// The answer must stand until the next call, so it is kept here.
#[derive(Default)]
struct Answer {
    column: Column,
    validity: Vec<u8>,
    values: Vec<u8>,
    offsets: Vec<i32>,
}

thread_local! {
    /// What the host puts in: aligned to 16 bytes, used again for each batch.
    static ROOM: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
    static ANSWER: RefCell<Answer> = RefCell::default();
    static WRONG: RefCell<String> = const { RefCell::new(String::new()) };
}

fn address<T>(slice: &[T]) -> u32 {
    slice.as_ptr() as usize as u32
}

/// `length` values at `address`.
///
/// # Safety
/// They must be there, which the host promises.
unsafe fn slice<'a, T>(address: u32, length: usize) -> &'a [T] {
    unsafe { std::slice::from_raw_parts(address as usize as *const T, length) }
}

#[unsafe(no_mangle)]
pub extern "C" fn alloc(size: u32) -> u32 {
    ROOM.with_borrow_mut(|room| {
        room.clear();
        room.resize((size as usize).div_ceil(16), 0);
        address(room)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn call_raw(rows: u32, columns: u32) -> u32 {
    let rows = rows as usize;
    // SAFETY: the host puts one record there for each argument, and as many offsets and bytes as rows ask for
    let (name, offsets) = unsafe {
        let name = slice::<Column>(columns, 1)[0];
        (name, slice::<i32>(name.offsets, rows + 1))
    };
    let (validity, bytes) = unsafe {
        let validity = (name.validity != 0).then(|| slice::<u8>(name.validity, rows.div_ceil(8)));
        (validity, slice::<u8>(name.values, offsets[rows] as usize))
    };
    ANSWER.with_borrow_mut(|answer| {
        answer.validity = validity.map(<[u8]>::to_vec).unwrap_or_default();
        answer.values.clear();
        answer.offsets.clear();
        answer.offsets.push(0);
        for row in offsets.windows(2) {
            let text = &bytes[row[0] as usize..row[1] as usize];
            let Ok(text) = std::str::from_utf8(text) else {
                WRONG.set("a name is not UTF-8".to_owned());
                return 0;
            };
            let initials = text.split_whitespace().filter_map(|word| word.chars().next());
            answer.values.extend(initials.collect::<String>().into_bytes());
            answer.offsets.push(answer.values.len() as i32);
        }
        answer.column = Column {
            validity: if answer.validity.is_empty() { 0 } else { address(&answer.validity) },
            values: address(&answer.values),
            offsets: address(&answer.offsets),
        };
        (&raw const answer.column) as usize as u32
    })
}

/// Why the last call gave 0: address and length of a text.
#[unsafe(no_mangle)]
pub extern "C" fn error() -> u64 {
    WRONG.with_borrow(|wrong| (u64::from(address(wrong.as_bytes())) << 32) | wrong.len() as u64)
}
