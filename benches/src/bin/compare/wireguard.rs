//! The WireGuard tunnels: started in the foreground and configured through their sockets
//! (wireguard.com/xplatform), so that the program `wg` is not needed.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tencrypt_lab::{self as lab, Program};

use crate::{contender::LIMIT, network::Network, outcome::Outcome, program::last_words};

/// The directory in which the tunnels make their sockets.
pub(crate) const SOCKETS: &str = "/var/run/wireguard";
/// WireGuard's recommendation below an MTU of 1500, bytes: room for IPv6, UDP and its own header and tag.
const MTU: u32 = 1420;
const PORT: u16 = 51820;

/// Private and public key of both ends: those of RFC 7748 section 6.1, so that none has to be computed.
const KEYS: [[&str; 2]; 2] = [
    [
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ],
    [
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ],
];

/// The addresses of the tunnel's devices.
pub(crate) const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 201, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 201, 0, 2))];

/// Starts `program` at both ends of `network` and connects the two. `arguments` go before the device's name.
///
/// # Errors
///
/// One could not be started or configured; the message has what it printed.
pub(crate) fn start(program: &Path, arguments: &[&str], network: &Network) -> Outcome<Vec<Program>> {
    let mut running = Vec::new();
    for (end, netns) in network.ends().into_iter().enumerate() {
        let device = format!("wg{end}");
        let all = arguments.iter().copied().chain([device.as_str()]).map(OsString::from);
        let tunnel = Program::start(program, all, Some(netns))?;
        let configured = connect(&device).and_then(|stream| {
            let net = ipnet::IpNet::new_assert(ADDRESSES[end], 24);
            configure(stream, &settings(end, network.addresses[1 - end]))?;
            netns.set_up_device(&device, net, MTU).map_err(io::Error::other)
        });
        configured.map_err(|error| format!("{error}; it printed: {}", last_words(&tunnel)))?;
        running.push(tunnel);
    }
    Ok(running)
}

/// The request that configures `end`, whose peer is reached at `peer`.
fn settings(end: usize, peer: IpAddr) -> String {
    let [[private, _], [_, public]] = [KEYS[end], KEYS[1 - end]];
    let (endpoint, inside) = (SocketAddr::new(peer, PORT), ADDRESSES[1 - end]);
    format!(
        "set=1\nprivate_key={private}\nlisten_port={PORT}\nreplace_peers=true\npublic_key={public}\n\
         endpoint={endpoint}\nreplace_allowed_ips=true\nallowed_ip={inside}/32\n\n"
    )
}

fn connect(device: &str) -> io::Result<UnixStream> {
    let path = PathBuf::from(SOCKETS).join(format!("{device}.sock"));
    let end = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(&path) {
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
            connected => return connected,
        }
    }
}

fn configure(mut stream: UnixStream, settings: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(settings.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 256];
    while !answer.ends_with(b"\n\n") {
        match stream.read(&mut chunk)? {
            0 => break,
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
    match String::from_utf8_lossy(&answer).trim() {
        "errno=0" => Ok(()),
        other => Err(io::Error::other(format!("the tunnel refused its configuration: {other}"))),
    }
}

/// Hides where the tunnels leave their sockets, and makes the directory.
///
/// # Errors
///
/// What the kernel refused.
pub(crate) fn prepare() -> Outcome<()> {
    lab::cover(Path::new("/run"))?;
    std::fs::create_dir_all(SOCKETS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::MontgomeryPoint;

    use super::*;

    #[test]
    fn public_keys_belong_to_private_keys() {
        for [private, public] in KEYS {
            let byte = |at: usize| u8::from_str_radix(&private[2 * at..2 * at + 2], 16).unwrap();
            let computed = MontgomeryPoint::mul_base_clamped(std::array::from_fn(byte)).to_bytes();
            let text: String = computed.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, public);
        }
    }

    #[test]
    fn each_end_has_its_own_key_and_the_others_address() {
        let text = settings(0, "10.200.0.2".parse().unwrap());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "set=1");
        assert!(lines.contains(&format!("private_key={}", KEYS[0][0]).as_str()));
        assert!(lines.contains(&format!("public_key={}", KEYS[1][1]).as_str()));
        assert!(lines.contains(&"endpoint=10.200.0.2:51820") && lines.contains(&"allowed_ip=10.201.0.2/32"));
        assert!(text.ends_with("\n\n"), "an empty line ends a request");
        // A peer's section starts with its key; what follows is about that peer.
        assert!(
            lines.iter().position(|line| line.starts_with("public_key"))
                < lines.iter().position(|line| line.starts_with("endpoint"))
        );
    }
}
