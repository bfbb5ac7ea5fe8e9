//! The `highwater` program: reads its arguments, calls the library, answers an exit code.

fn main() -> std::process::ExitCode {
    highwater::cli::main()
}
