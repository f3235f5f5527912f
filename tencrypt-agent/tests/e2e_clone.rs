//! A machine that was cloned, or stood still: the pod has another key and no old session, and traffic is back at once.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType,
    netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
    recv, sendto, socket,
};
use serde_json::Value;
use support::{Cluster, Running};
use tencrypt_lab::{Pod, Signal, UdpEcho, test, test_within, udp_echo};

const PORT: u16 = 9001;
/// Longest interruption of traffic.
const SECOND: Duration = Duration::from_secs(1);
/// The kernel's message when the machine was cloned (drivers/virt/vmgenid.c, lib/kobject_uevent.c).
const CLONED: &str =
    "change@/devices/test\0ACTION=change\0DEVPATH=/devices/test\0SUBSYSTEM=acpi\0NEW_VMGENID=1\0";

/// Sends a uevent as a process does, and waits for the kernel's word that it was passed on. One for the kernel (`to` 0)
/// the kernel tells everybody in this network namespace, as its own; one for the group (`to` 1) comes from its sender.
fn send_uevent(text: &str, to: u32) {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(KOBJECT_UEVENT)).unwrap();
    let mut message = Vec::new();
    if to == 0 {
        // nlmsghdr: any type that is not netlink's own, NLM_F_REQUEST and NLM_F_ACK (include/uapi/linux/netlink.h).
        message.extend((16 + text.len() as u32).to_ne_bytes());
        message.extend([0x10_u16, 0x1 | 0x4].map(u16::to_ne_bytes).concat());
        message.extend([0; 8]);
    }
    message.extend(text.as_bytes());
    let address = SocketAddrNetlink::new(0, to);
    assert_eq!(sendto(&socket, &message, SendFlags::empty(), &address), Ok(message.len()));
    if to == 0 {
        let mut answer = [0; 256];
        let (read, _) = recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
        // NLMSG_ERROR with an error of 0.
        assert!(read >= 20 && answer[4..6] == [2, 0] && answer[16..20] == [0; 4], "{:?}", &answer[..read]);
    }
}

/// The signs that may be promised here: the log of the kernel only where it may be read, and a driver looks at a
/// generation device of the virtual machine. `contrib/vm` has a kernel write the line.
fn promised_signs() -> Vec<&'static str> {
    let has_device = ["acpi", "platform"].iter().any(|bus| {
        let devices = fs::read_dir(format!("/sys/bus/{bus}/drivers/vmgenid"));
        devices.is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(|name| name.contains(':')))
        })
    });
    let log = (has_device && fs::File::open("/dev/kmsg").is_ok()).then_some("kernel_log");
    [Some("boot_clock"), log].into_iter().flatten().collect()
}

fn public_key(running: &Running) -> String {
    running.status()["identity"]["public_key"].as_str().unwrap().to_owned()
}

/// Waits until keys were made anew this often, and returns the status.
fn renewed(running: &Running, count: u64) -> Value {
    let begun = Instant::now();
    loop {
        let status = running.status();
        let renewal = &status["renewal"]["count"];
        assert!(renewal.as_u64().unwrap() <= count, "{status}\n{}", running.log());
        if renewal == count {
            return status;
        }
        assert!(begun.elapsed() < support::LIMIT, "{status}\n{}", running.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn one_echo(from: &Pod, to: IpAddr, wait: Duration) -> bool {
    udp_echo(from.netns(), SocketAddr::new(to, PORT), [100], wait).is_ok_and(|lost| lost.is_empty())
}

/// Sends datagrams until one is answered, and asserts that it was within a second.
fn is_back_within_a_second(from: &Pod, to: IpAddr) {
    let begun = Instant::now();
    while !one_echo(from, to, Duration::from_millis(100)) {
        assert!(begun.elapsed() < support::LIMIT, "{to} does not answer");
    }
    assert!(begun.elapsed() <= SECOND, "{to} was away for {:?}", begun.elapsed());
}

#[test]
fn a_clone_has_another_key_and_other_sessions_and_its_traffic_is_back_within_a_second() {
    test("a_clone_has_another_key_and_other_sessions_and_its_traffic_is_back_within_a_second", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let _echoes = [&cluster.a, &cluster.b].map(|pod| UdpEcho::start(pod, PORT).unwrap());
        let programs = [cluster.up(&cluster.a, ""), cluster.up(&cluster.b, "")];
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        let before = programs.each_ref().map(public_key);
        // Uevents are heard and not promised: no kernel but 6.8 sends this one.
        assert_eq!(programs[0].status()["renewal"]["signs"], serde_json::json!(promised_signs()));

        // Other events; its own words from somebody who is not the kernel; nearly its own words.
        send_uevent("change@/devices/test\0ACTION=change\0SUBSYSTEM=acpi\0", 0);
        send_uevent("add@/devices/NEW_VMGENID=1\0ACTION=add\0NEW_VMGENID=1\0", 0);
        send_uevent("change@/devices/test\0ACTION=change\0NEW_VMGENID=2\0", 0);
        send_uevent(CLONED, 1);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(programs.each_ref().map(public_key), before);
        assert!(one_echo(&cluster.a, cluster.b.v4(), SECOND));

        for count in 1..=3 {
            let before = programs.each_ref().map(public_key);
            send_uevent(CLONED, 0);
            let after = programs.each_ref().map(|running| renewed(running, count));
            for ((status, key), running) in after.iter().zip(before).zip(&programs) {
                assert_eq!(status["renewal"]["reason"], "clone", "{status}");
                assert_eq!(status["peers"], serde_json::json!([]), "no session is left: {status}");
                assert_ne!(status["identity"]["public_key"], key, "{}", running.log());
            }
            // Now one speaks first, now the other.
            let (from, to) = if count % 2 == 0 { (&cluster.a, &cluster.b) } else { (&cluster.b, &cluster.a) };
            for (from_pod, to_pod) in [(from, to), (to, from)] {
                to_pod.addresses().into_iter().for_each(|to| is_back_within_a_second(from_pod, to));
            }
            for (running, other) in programs.iter().zip([&after[1], &after[0]]) {
                let key = other["identity"]["public_key"].as_str().unwrap();
                let peers = running.peers();
                let peers = peers.as_array().unwrap().iter().map(|peer| peer["peer"].as_str().unwrap());
                assert!(peers.into_iter().all(|peer| key.starts_with(peer)), "{key}");
            }
        }
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
        for running in &programs {
            let said = running.program.stderr().matches("the machine was cloned or restored").count();
            assert_eq!(said, 3, "said once each time: {}", running.log());
        }
    });
}

#[test]
fn events_that_were_lost_count_as_the_one_that_matters() {
    test("events_that_were_lost_count_as_the_one_that_matters", || {
        let cluster = Cluster::on_one_node();
        let mut running = cluster.up(&cluster.a, "");
        let before = public_key(&running);
        let other = format!("change@/devices/test\0ACTION=change\0PADDING={}\0", "x".repeat(1_500));
        running.program.signal(Signal::Stop).unwrap();
        // 24 MB, where there is room for 8 at most.
        (0..16 << 10).for_each(|_| send_uevent(&other, 0));
        running.program.signal(Signal::Continue).unwrap();
        let status = renewed(&running, 1);
        assert_eq!(status["renewal"]["reason"], "unknown", "{status}");
        assert_ne!(status["identity"]["public_key"], before.as_str());
        // As many that are read in time are nothing.
        (0..64).for_each(|_| send_uevent(&other, 0));
        std::thread::sleep(Duration::from_millis(300));
        renewed(&running, 1);
    });
}

#[test]
fn a_certificate_is_for_one_key_and_the_pod_is_closed_until_its_new_one_has_one() {
    test("a_certificate_is_for_one_key_and_the_pod_is_closed_until_its_new_one_has_one", || {
        let cluster = Cluster::on_one_node();
        let file = |name: &str| cluster.directory.join(name).into_os_string().into_string().unwrap();
        let run = |arguments: &[&str]| {
            let finished = cluster.tencrypt(arguments.iter().map(Into::into));
            assert!(finished.status.success(), "{arguments:?}: {finished:?}");
        };
        run(&["ca", "init", &file("ca")]);
        let issue = |pod: &Pod, name: &str| {
            let netns = pod.netns().path().into_os_string().into_string().unwrap();
            let _ = fs::remove_file(file(name));
            run(&[
                "ca",
                "issue",
                "--ca",
                &file("ca"),
                "--netns",
                &netns,
                "--pod",
                name,
                "--out",
                &file(name),
            ]);
        };
        let identity = |name: &str| {
            format!("[identity]\nca = \"{}\"\ncertificate = \"{}\"\n", file("ca.pub"), file(name))
        };
        let _echo = UdpEcho::start(&cluster.b, PORT).unwrap();
        let programs = [cluster.up(&cluster.a, &identity("a")), cluster.up(&cluster.b, &identity("b"))];
        let until_certified = || {
            issue(&cluster.a, "a");
            issue(&cluster.b, "b");
            let begun = Instant::now();
            while programs.iter().any(|running| running.status()["identity"]["certificate"].is_null()) {
                assert!(begun.elapsed() < support::LIMIT, "{}", programs[0].status());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        until_certified();
        is_back_within_a_second(&cluster.a, cluster.b.v4());
        send_uevent(CLONED, 0);
        for running in &programs {
            let status = renewed(running, 1);
            assert_eq!(status["identity"]["certificate"], Value::Null, "{status}");
            assert!(status["identity"]["problem"].as_str().unwrap().contains("another key"), "{status}");
        }
        let probe = cluster.probe();
        assert!(!one_echo(&cluster.a, cluster.b.v4(), SECOND));
        let report = probe.report();
        assert!(report.is_clean() && report.tunnel == 0, "{report}");
        until_certified();
        is_back_within_a_second(&cluster.a, cluster.b.v4());
    });
}

#[test]
fn a_program_that_stood_still_for_a_minute_seals_nothing_with_old_keys() {
    let limit = Duration::from_secs(240);
    test_within("a_program_that_stood_still_for_a_minute_seals_nothing_with_old_keys", limit, || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let _echoes = [&cluster.a, &cluster.b].map(|pod| UdpEcho::start(pod, PORT).unwrap());
        let (mut a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        let before = [&a, &b].map(public_key);
        // A short one is none.
        a.program.signal(Signal::Stop).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        a.program.signal(Signal::Continue).unwrap();
        is_back_within_a_second(&cluster.a, cluster.b.v4());
        assert_eq!([&a, &b].map(public_key), before);
        assert_eq!(a.status()["renewal"]["count"], 0);

        a.program.signal(Signal::Stop).unwrap();
        std::thread::sleep(Duration::from_millis(61_500));
        let received = |key: &str| {
            let peers = b.peers();
            let of_key =
                peers.as_array().unwrap().iter().find(|peer| key.starts_with(peer["peer"].as_str().unwrap()));
            of_key.map(|peer| peer["rx_bytes"].as_u64().unwrap())
        };
        let heard = received(&before[0]);
        assert!(heard.is_some_and(|bytes| bytes > 0), "its session is still there: {}", b.peers());
        // These wait in the device, and are the first thing that the lane finds.
        assert!(!one_echo(&cluster.a, cluster.b.v4(), Duration::from_millis(100)));
        a.program.signal(Signal::Continue).unwrap();
        is_back_within_a_second(&cluster.b, cluster.a.v4());
        is_back_within_a_second(&cluster.a, cluster.b.v4());
        let status = renewed(&a, 1);
        assert_eq!(status["renewal"]["reason"], "pause", "{status}");
        assert_ne!(status["identity"]["public_key"], before[0].as_str());
        let after = received(&before[0]);
        assert!(after.is_none() || after == heard, "{heard:?}, {after:?}: sealed with the old keys");
        assert_eq!((public_key(&b), b.status()["renewal"]["count"].as_u64()), (before[1].clone(), Some(0)));
        probe.assert_only_encrypted();
    });
}
