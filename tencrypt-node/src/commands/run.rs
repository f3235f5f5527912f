//! `tencrypt-node run`: the agent, with its sockets.

use std::path::{Path, PathBuf};

use tencrypt_agent::{
    failure::{Exit, Failure},
    logging::LEVEL_VARIABLE,
    os::rundir::RunDir,
};
use tokio::task::LocalSet;

use crate::{
    agent::Agent,
    calls,
    data_path::Place,
    install::program,
    launch::{Launcher, is_contained},
    release::Program,
    serve::{BindError, Server},
    settings::Settings,
};

/// The name of the agent's own socket in the run directory.
pub(super) const SOCKET: &str = "agent.sock";

/// The name of the data paths' program.
const PROGRAM: &str = "tencrypt";

/// Runs the agent until a signal.
///
/// # Errors
/// A [`Failure`]: the settings are wrong, another agent runs, or something of the system's is not to be had.
pub(super) fn run(config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::read(config).map_err(|error| Failure::new(Exit::Usage, error))?;
    let run_dir = RunDir::create()?;
    let program = program(&settings)?;
    let place = Place {
        launcher: Launcher::own(!settings.host_namespaces).with_groups(settings.groups),
        group: (!settings.group.is_empty()).then(|| settings.group.clone()),
        run_dir: run_dir.path().to_owned(),
        log: std::env::var(LEVEL_VARIABLE).ok(),
        is_silent: settings.host_namespaces && is_contained(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::runtime(format_args!("runtime: {error}")))?;
    LocalSet::new().block_on(&runtime, serve(settings, &run_dir, place, program))
}

async fn serve(settings: Settings, run_dir: &RunDir, place: Place, program: Program) -> Result<(), Failure> {
    // First: a second agent finds the socket held.
    let server = Server::bind(&run_dir.path().join(SOCKET), settings.listen).await?;
    if let Some(address) = server.address() {
        tracing::info!(%address, "health and metrics");
    }
    let socket = settings.socket_in(run_dir.path());
    let listener = calls::listen(&socket)
        .map_err(|error| Failure::new(Exit::of_io(&error), format_args!("{}: {error}", socket.display())))?;
    let (agent, inbox, senders) =
        Agent::new(settings, run_dir, place, program).map_err(|reason| Failure::new(Exit::Usage, reason))?;
    let failed = |error| Failure::runtime(format_args!("signals and events of folders: {error}"));
    tokio::select! {
        ended = agent.run(inbox) => ended.map_err(failed),
        () = server.serve(senders.questions) => Ok(()),
        () = calls::serve(listener, senders.calls) => Ok(()),
    }
}

/// The program of the data paths, where they are to be started from.
fn program(settings: &Settings) -> Result<Program, Failure> {
    let usage = |reason: String| Failure::new(Exit::Usage, reason);
    let named: PathBuf = match &settings.program {
        Some(path) => path.clone(),
        None => Settings::beside(PROGRAM).map_err(|error| usage(format!("program: {error}")))?,
    };
    let read = |path: &Path| {
        Program::read(path).map_err(|error| usage(format!("program: {}: {error}", path.display())))
    };
    let program = read(&named)?;
    let Some(folder) = &settings.program_folder else { return Ok(program) };
    let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), program.id);
    let path = program::install(&named, folder, PROGRAM, &version)
        .map_err(|error| usage(format!("program_folder: {error}")))?;
    Ok(Program { path, id: program.id })
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let exit = match error {
            BindError::Held { .. } => Exit::Held,
            _ => Exit::Runtime,
        };
        Self::new(exit, error)
    }
}
