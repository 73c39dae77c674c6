//! The command line; what it does is in [`clbridge::cli`].

fn main() -> std::process::ExitCode {
    clbridge::cli::main()
}
