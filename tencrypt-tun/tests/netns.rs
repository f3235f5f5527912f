//! Threads inside other namespaces.

mod support;

use support::{another_namespace, isolated, net::Net};
use tencrypt_tun::{Capture, CaptureError, NetNs};

#[test]
fn work_runs_inside_the_namespace_and_the_caller_stays_outside() {
    isolated("work_runs_inside_the_namespace_and_the_caller_stays_outside", || {
        let own = NetNs::current().expect("/proc");
        let other = another_namespace();
        assert_ne!(own.id(), other.id());
        assert!(own.is_own() && own.is_host());
        assert!(!other.is_own() && !other.is_host());
        assert_eq!(other.run(|| NetNs::current().expect("/proc").id()).expect("runs"), other.id());
        let thread = other.spawn("inside", || {
            (NetNs::current().expect("/proc").id(), std::thread::current().name().map(str::to_owned))
        });
        let (inside, name) = thread.expect("starts").join().expect("ends");
        assert_eq!((inside, name.as_deref()), (other.id(), Some("inside")));
        assert_eq!(NetNs::current().expect("/proc").id(), own.id());
        // Held by this handle alone, it is found through the descriptor.
        let path =
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&other)));
        assert_eq!(NetNs::open(&path).expect("by path").id(), other.id());
    });
}

#[test]
fn a_capture_acts_on_its_own_namespace_from_threads_in_others() {
    isolated("a_capture_acts_on_its_own_namespace_from_threads_in_others", || {
        let other = another_namespace();
        let net = Net::new();
        let _wire = other.run(|| Net::new().pod()).expect("runs");
        let error = Capture::install(support::plan()).expect_err("there is no eth0 here");
        assert!(matches!(error, CaptureError::InterfaceAbsent { .. }));
        let capture = other.run(|| {
            support::net::set_sysctl("ipv4", "eth0", "rp_filter", "1");
            Capture::install(support::plan()).expect("installs")
        });
        let mut capture = capture.expect("runs");
        assert!(net.link("tenc0").is_none());
        assert_eq!(support::state::routes_8362(&net), [""; 0]);
        let inside = |what: &str| other.run(|| support::net::sysctl("ipv4", "eth0", what)).expect("runs");
        assert_eq!(inside("rp_filter"), "2");
        capture
            .allow_external("10.128.7.7".parse().unwrap(), std::time::Duration::from_secs(1))
            .expect("allows");
        assert!(other.run(|| Net::new().link("tenc0").is_some()).expect("runs"));
        capture.remove().expect("removes");
        assert_eq!(inside("rp_filter"), "1");
        assert!(other.run(|| Net::new().link("tenc0").is_none()).expect("runs"));
    });
}
