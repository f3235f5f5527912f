//! The program `tencrypt-cni`: a container runtime starts it with an operation in its environment, a network configuration on
//! standard input, and takes one JSON value from standard output.

use std::{
    env,
    io::{self, IsTerminal as _, Read, Write as _},
    process::ExitCode,
};

use tencrypt_cni::{Environment, Node, plugin};

fn main() -> ExitCode {
    let environment = Environment::of(|name| env::var_os(name));
    let is_terminal = io::stdin().is_terminal();
    if !environment.has_command() && is_terminal {
        note(concat!(
            env!("CARGO_PKG_VERSION"),
            ": a chained CNI plugin, which a container runtime starts; https://docs.rs/tencrypt-cni"
        ));
        return ExitCode::FAILURE;
    }
    // From a terminal nothing comes by itself, and a person who asks for the version gives nothing.
    let mut input: Box<dyn Read> = if is_terminal { Box::new(io::empty()) } else { Box::new(io::stdin()) };
    let outcome = plugin::run(&environment, &mut input, &Node);
    if let Some(text) = &outcome.note {
        note(text);
    }
    let mut output = io::stdout();
    match output.write_all(outcome.output.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::from(outcome.exit),
        // Nobody takes the result: nobody may take this for a success.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says something on standard error. If that is closed, nobody hears it.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}: {text}", plugin::TYPE);
}
