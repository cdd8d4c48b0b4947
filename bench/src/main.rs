//! The command `muster-bench`; everything is in the library, so that tests reach it.

fn main() -> std::process::ExitCode {
    muster_bench::main()
}
