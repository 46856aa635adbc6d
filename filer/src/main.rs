//! The `twinfiler` program: see `filer::cli`.

fn main() -> std::process::ExitCode {
    filer::cli::run(std::env::args_os()).into()
}
