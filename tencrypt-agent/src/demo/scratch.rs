//! The directory with the demonstration's key, configurations and control sockets.

use std::{
    env, fs,
    os::unix::{fs::DirBuilderExt as _, process::parent_id},
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// A directory of this demonstration's own; removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it, in the process that outlives the world: a world that is killed leaves nothing behind either.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub(super) fn create() -> Result<Self, Failure> {
        let path = path_for(std::process::id());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::runtime(format_args!("demo: directory {}: {error}", path.display())))?;
        Ok(Self { path })
    }

    /// Path of the directory, for the world: its parent made it.
    pub(super) fn of_parent() -> PathBuf {
        path_for(parent_id())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it any more.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn path_for(process: u32) -> PathBuf {
    Path::new(&env::temp_dir()).join(format!("tencrypt-demo-{process}"))
}
