//! The `highwater` program: reads its arguments, calls the library, answers an exit code.

/// Batches are large, short-lived and often freed by another thread than the one that made them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    highwater::cli::main()
}
