//! The program `tencrypt`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tencrypt_agent::run()
}
