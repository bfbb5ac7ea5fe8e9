//! How libFuzzer feeds a target: half of the inputs that it makes get their checksums right again, so that what is behind
//! them is reached.

pub use highwater::fuzzing;
pub use libfuzzer_sys;

/// Feeds the target of this name.
#[macro_export]
macro_rules! feed {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<&$crate::fuzzing::Target> =
            std::sync::LazyLock::new(|| $crate::fuzzing::target($name).expect("src/fuzzing.rs has it"));

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let _ = (TARGET.run)(bytes);
        });

        $crate::libfuzzer_sys::fuzz_mutator!(|bytes: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let size = $crate::libfuzzer_sys::fuzzer_mutate(bytes, size, max_size);
            if seed % 2 == 0 {
                return size;
            }
            let mut sealed = bytes[..size].to_vec();
            (TARGET.reseal)(&mut sealed);
            sealed.truncate(max_size);
            bytes[..sealed.len()].copy_from_slice(&sealed);
            sealed.len()
        });
    };
}
