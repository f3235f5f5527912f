//! Words to the service manager that started the program (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The variable that names the socket: a path, or behind `@` a name in the abstract namespace.
pub(crate) const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// A way to the service manager.
#[derive(Debug)]
pub struct ServiceManager(UnixDatagram);

impl ServiceManager {
    /// Connects to the one that started the program; `None`: it waits for no word.
    ///
    /// Call it outside of the pod: the abstract namespace is the network namespace's.
    ///
    /// # Errors
    /// There is no such socket.
    pub fn connect() -> io::Result<Option<Self>> {
        match env::var_os(SOCKET_VARIABLE) {
            Some(name) if !name.is_empty() => Self::connect_to(&name).map(Some),
            _ => Ok(None),
        }
    }

    fn connect_to(name: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let address = match name.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Says that the service has started, and its state in words.
    pub fn ready(&self, state: &str) {
        self.send(&format!("READY=1\nSTATUS={state}"));
    }

    /// Says that the service is about to end.
    pub(crate) fn stopping(&self) {
        self.send(
            "STOPPING=1\nSTATUS=ending; the namespace stays closed until it is opened by `tencrypt down`",
        );
    }

    fn send(&self, words: &str) {
        if let Err(error) = self.0.send(words.as_bytes()) {
            tracing::warn!(%error, "{SOCKET_VARIABLE}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn words_arrive_at_a_path_and_at_an_abstract_name() {
        let path = env::temp_dir().join(format!("tencrypt-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("tencrypt-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, name) in [(by_path, path.as_os_str().to_owned()), (by_name, format!("@{name}").into())] {
            let manager = ServiceManager::connect_to(&name).unwrap();
            manager.ready("the pod's traffic is protected");
            assert!(received(&socket).starts_with("READY=1\n"));
            manager.stopping();
            assert!(received(&socket).starts_with("STOPPING=1\n"));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(ServiceManager::connect_to(path.as_os_str()).is_err());
    }
}
