//! A folder of a test, and an agent in it that does whatever the test says.

use std::{
    fs,
    io::Write as _,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tencrypt_cni::call::{self, Call, Reply};

/// The time for what is to happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A folder, removed with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tencrypt-cni-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("node.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An agent that serves one connection after the other, until it is dropped.
pub(crate) struct Agent {
    socket: PathBuf,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens in `folder`.
    pub(crate) fn start(folder: &Folder, mut serve: impl FnMut(UnixStream) + Send + 'static) -> Self {
        let socket = folder.socket();
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept()
                && !stop.load(Ordering::SeqCst)
            {
                serve(stream);
            }
        });
        Self { socket, is_over, thread: Some(thread) }
    }

    /// Listens in `folder`, and gives each call to `answer`.
    pub(crate) fn answering(folder: &Folder, mut answer: impl FnMut(Call) -> Reply + Send + 'static) -> Self {
        Self::start(folder, move |stream| {
            assert!(call::is_permitted(&stream).unwrap());
            let call = call::receive(&stream, LIMIT).unwrap();
            // Who asks may have gone.
            let _ = call::respond(&stream, &answer(call), LIMIT);
        })
    }

    /// Listens in `folder`, reads every request and sends these bytes for an answer.
    pub(crate) fn saying(folder: &Folder, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(folder, move |mut stream| {
            let _ = call::receive(&stream, LIMIT);
            let _ = stream.write_all(&bytes);
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it, if it still listens.
        let _ = UnixStream::connect(&self.socket);
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}
