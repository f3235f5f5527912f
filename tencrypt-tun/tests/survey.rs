//! A look at a namespace: before a capture, beside one that runs, and at what one leaves; nothing changes by it.

mod support;

use std::net::IpAddr;

use support::{
    isolated,
    net::Net,
    plan,
    state::{assert_same, snapshot},
};
use tencrypt_tun::{Capture, Captured, Survey};

fn look() -> Survey {
    Survey::take("eth0".parse().expect("name"), "tenc0".parse().expect("name")).expect("looks")
}

#[test]
fn a_capture_is_told_from_none_and_from_what_one_leaves() {
    isolated("a_capture_is_told_from_none_and_from_what_one_leaves", || {
        let net = Net::new();
        let absent = look();
        assert_eq!((absent.interface, absent.captured), (None, Captured::No));
        let _wire = net.pod();
        let before = snapshot(&net);
        let found = look();
        assert_eq!((found.captured, found.device, found.occupied), (Captured::No, false, None));
        let interface = found.interface.expect("eth0");
        let addresses: [IpAddr; 2] = ["10.128.1.5", "fd00:128:1::5"].map(|text| text.parse().unwrap());
        assert_eq!((&interface.addresses[..], interface.mtu.underlay()), (&addresses[..], 1500));
        assert_eq!(interface.gateways.len(), 2);
        assert_same(&before, &snapshot(&net));

        let capture = Capture::install(plan()).expect("installs");
        let installed = snapshot(&net);
        let found = look();
        assert_eq!((found.captured, found.device, found.occupied), (Captured::Running, true, None));
        assert_same(&installed, &snapshot(&net));
        drop(capture);
        let found = look();
        assert_eq!((found.captured, found.device, found.occupied), (Captured::Closed, false, None));
        Capture::clean("eth0".parse().unwrap(), "tenc0".parse().unwrap()).expect("cleans");
        assert_eq!(look().captured, Captured::No);
    });
}
