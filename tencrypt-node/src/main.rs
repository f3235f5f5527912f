//! The program `tencrypt-node`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tencrypt_node::run()
}
