//! A web page through a tunnel, without a TUN device and without privileges.
//!
//! - `cargo run -p tencrypt-example-smoltcp`: both sides in this program, a thread each, on loopback.
//! - `cargo run -p tencrypt-example-smoltcp -- KEY_FILE OWN_ADDRESS SERVER:PORT PATH`: from a pod of a tenant. In the place
//!   of `tencrypt up` in the pod whose address is given; the server is in a pod where that runs.
#![forbid(unsafe_code)]

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tencrypt::{KeyRing, TunnelConfig};
use tencrypt_example_smoltcp::{Failure, Place, Pod, demonstration_keys};

const LIMIT: Duration = Duration::from_secs(20);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PROTECTED: &str = "10.0.0.0/8";
const PORT: u16 = 8_080;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => both_sides(),
        [key_file, own, server, path] => {
            let own: Ipv4Addr = own.parse()?;
            let keys = KeyRing::parse(&fs::read_to_string(key_file)?)?;
            let udp = UdpSocket::bind((own, TunnelConfig::DEFAULT_PORT))?;
            let page = Pod::new(keys, own, PROTECTED, udp, Vec::new())?.get(server.parse()?, path, LIMIT)?;
            println!("{}", String::from_utf8_lossy(&page));
            Ok(())
        }
        _ => Err("expected nothing, or KEY_FILE OWN_ADDRESS SERVER:PORT PATH".into()),
    }
}

fn both_sides() -> Result<(), Failure> {
    let bind = |pod: Ipv4Addr, socket: &str| -> Result<(UdpSocket, Place), Failure> {
        let udp = UdpSocket::bind(socket)?;
        let place = Place { pod: pod.into(), socket: udp.local_addr()? };
        Ok((udp, place))
    };
    let (here, place_here) = bind(HERE, "127.0.84.1:0")?;
    let (there, place_there) = bind(THERE, "127.0.84.2:0")?;
    let page = "a page that no wire has seen\n".repeat(1_000);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut pod = Pod::new(demonstration_keys()?, THERE, PROTECTED, there, vec![place_here])?;
            pod.serve(PORT, &page, || is_over.load(Ordering::Relaxed))
        });
        let fetch = || -> Result<(), Failure> {
            let mut pod = Pod::new(demonstration_keys()?, HERE, PROTECTED, here, vec![place_there])?;
            for _ in 0..2 {
                let fetched = pod.get(SocketAddrV4::new(THERE, PORT), "/", LIMIT)?;
                println!("{HERE}: fetched {} bytes from {THERE}", fetched.len());
                assert!(fetched == page.as_bytes(), "another page");
            }
            Ok(())
        };
        let fetched = fetch();
        is_over.store(true, Ordering::Relaxed);
        serving.join().map_err(|_| "the server panicked")??;
        fetched
    })
}
