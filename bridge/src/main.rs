//! The command line; what it does is in [`clbridge::cli`].

#[cfg(feature = "mutations")]
compile_error!("the feature `mutations` puts bugs into the core on purpose: no binary is built with it");

fn main() -> std::process::ExitCode {
    clbridge::cli::main()
}
