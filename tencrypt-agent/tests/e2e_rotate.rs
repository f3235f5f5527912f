//! The tenant's key changes under load, and nobody notices.

mod support;

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Cluster, LIMIT, Running};
use tencrypt_lab::{Direction, TcpServer, test, test_within, throughput, transfer};

const TCP: u16 = 9000;
/// Seconds of rotations under load; `TENCRYPT_TEST_ROTATION` says another number.
const SECONDS: u64 = 8;
/// Epochs that stay: with a rotation a second what is 4 s old is used by nobody.
const HELD: usize = 6;

fn rotate(cluster: &Cluster, key: &Path, step: &str) {
    let done = cluster.tencrypt(["rotate".into(), step.into(), OsString::from(key)]);
    assert!(done.status.success(), "{step}: {done:?}");
}

/// Waits until the status of every pod is so; panics with what it is after `limit`.
fn wait(pods: &[&Running], limit: Duration, what: &str, is: impl Fn(&Value) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let statuses: Vec<Value> = pods.iter().map(|pod| pod.status()).collect();
        if statuses.iter().all(&is) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < limit, "{what}: {statuses:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn accepts(status: &Value, epoch: u64) -> bool {
    status["keys"]["accept"].as_array().is_some_and(|accept| accept.contains(&json!(epoch)))
}

fn only_under(status: &Value, epoch: u64) -> bool {
    let peers = status["peers"].as_array().expect("peers");
    status["keys"]["send"] == epoch && peers.iter().all(|peer| peer["epoch"] == epoch)
}

#[test]
fn a_rotation_every_second_under_load_loses_nothing() {
    let seconds = std::env::var("TENCRYPT_TEST_ROTATION").ok().and_then(|seconds| seconds.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let limit = seconds * 2 + Duration::from_secs(90);
    test_within("a_rotation_every_second_under_load_loses_nothing", limit, || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        let to = cluster.b.addresses()[0];
        cluster.control(&probe, [to]);
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let pods = [&a, &b];
        probe.reset();
        let server = TcpServer::start(&cluster.b, TCP).unwrap();
        let to = SocketAddr::new(to, TCP);
        let before = a.packets("encrypted");

        let over = AtomicBool::new(false);
        let (flood, intact, rotations) = thread::scope(|scope| {
            let from = cluster.a.netns();
            // One connection that lasts all the time, and one after another whose content is checked.
            let flood = scope.spawn(|| throughput(from, to, seconds).unwrap());
            let checked = scope.spawn(|| {
                let mut intact = 0;
                while !over.load(Ordering::Relaxed) {
                    let direction = if intact % 2 == 0 { Direction::Download } else { Direction::Upload };
                    let moved = transfer(from, to, direction, 16 << 20, intact, LIMIT).unwrap();
                    assert!(moved.is_intact(), "{moved:?}");
                    intact += 1;
                }
                intact
            });
            let (begun, mut rotations) = (Instant::now(), 0_u64);
            while begun.elapsed() < seconds {
                rotations += 1;
                let next = rotations + 1;
                rotate(&cluster, &cluster.key_file, "add");
                wait(&pods, LIMIT, "accept", |status| accepts(status, next));
                rotate(&cluster, &cluster.key_file, "activate");
                if rotations as usize >= HELD {
                    rotate(&cluster, &cluster.key_file, "retire");
                }
                wait(&pods, LIMIT, "send", |status| status["keys"]["send"] == next);
                let second = Duration::from_secs(rotations);
                thread::sleep(second.saturating_sub(begun.elapsed()));
            }
            over.store(true, Ordering::Relaxed);
            (flood.join().unwrap(), checked.join().unwrap(), rotations)
        });
        println!(
            "{rotations} rotations in {seconds:?}, {:.0} Mbit/s, {intact} checked transfers, handshakes: {}",
            flood.mbit_per_s(),
            a.status()["peers"][0]["epoch"]
        );
        assert!(rotations >= seconds.as_secs() / 2 && intact > 0 && flood.bytes > 0);
        assert_eq!(server.accepted(), intact + 1, "a connection was made anew");
        assert!(a.packets("encrypted") > before);
        for (name, pod) in [("a", &a), ("b", &b)] {
            for reason in ["unknown_index", "expired", "other_epoch", "auth", "mac1", "held_timeout"] {
                assert_eq!(pod.drops(reason), 0, "{name}: {reason}: {}", pod.status());
            }
            let epoch = pod.status()["peers"][0]["epoch"].as_u64().expect("a peer");
            assert!(epoch + 5 > rotations, "{name}: its session did not follow: {epoch} after {rotations}");
        }
        probe.assert_only_encrypted();
    });
}

#[test]
fn status_shows_how_far_a_rotation_is_and_a_retired_key_gets_silence() {
    test("status_shows_how_far_a_rotation_is_and_a_retired_key_gets_silence", || {
        let cluster = Cluster::on_one_node();
        // Pod b has a file of its own, as on another node.
        let far = cluster.directory.join("far.key");
        fs::copy(&cluster.key_file, &far).unwrap();
        let tenant = format!("[tenant]\nproject = \"shop\"\nkey_file = \"{}\"\n", far.display());
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, &tenant));
        let to = cluster.b.addresses()[0];
        cluster.say_canary(to);
        let probe = cluster.probe();

        rotate(&cluster, &cluster.key_file, "add");
        let taken = wait(&[&a], LIMIT, "accept", |status| accepts(status, 2));
        println!("taken up after {taken:?}");
        fs::copy(&cluster.key_file, &far).unwrap();
        wait(&[&b], LIMIT, "accept", |status| accepts(status, 2));
        let keys = a.status()["keys"].clone();
        let fingerprints = b.status()["keys"]["fingerprints"].clone();
        assert!(fingerprints["1"].is_string() && fingerprints["2"].is_string(), "{fingerprints}");
        let expected = json!({ "send": 1, "accept": [1, 2], "fingerprints": fingerprints, "error": null });
        assert_eq!(keys, expected);
        assert_eq!(a.status()["peers"][0]["epoch"], 1);

        // Only a sends the new one: b answers under it. What shows old epochs is the session, with traffic.
        rotate(&cluster, &cluster.key_file, "activate");
        wait(&[&a], LIMIT, "send", |status| status["keys"]["send"] == 2);
        let end = Instant::now() + LIMIT;
        while !only_under(&a.status(), 2) {
            cluster.say_canary(to);
            assert!(Instant::now() < end, "{}", a.status());
        }
        fs::copy(&cluster.key_file, &far).unwrap();
        wait(&[&b], LIMIT, "send", |status| status["keys"]["send"] == 2);
        rotate(&cluster, &cluster.key_file, "retire");
        wait(&[&a], LIMIT, "retire", |status| !accepts(status, 1));
        cluster.say_canary(to);
        assert!(a.drops("expired") + b.drops("expired") + b.drops("unknown_index") == 0, "{}", b.status());

        // A third epoch that b never learns of: once the second is gone, nothing passes, and nothing in plain.
        rotate(&cluster, &cluster.key_file, "add");
        rotate(&cluster, &cluster.key_file, "activate");
        rotate(&cluster, &cluster.key_file, "retire");
        wait(&[&a], LIMIT, "alone", |status| status["keys"]["accept"] == json!([3]));
        assert_eq!(a.peers(), json!([]));
        let target = SocketAddr::new(to, support::HTTP);
        let silent = tencrypt_lab::http_get(
            cluster.a.netns(),
            target,
            "shop",
            support::CANARY,
            Duration::from_secs(3),
        );
        assert!(silent.is_err());
        assert!(b.drops("other_epoch") > 0, "{}", b.status());
        assert!(probe.report().is_clean(), "{}", probe.report());

        // And with b's file as it is meant to be, all is well.
        fs::copy(&cluster.key_file, &far).unwrap();
        wait(&[&b], LIMIT, "all", |status| status["keys"]["accept"] == json!([3]));
        let end = Instant::now() + LIMIT;
        while tencrypt_lab::http_get(cluster.a.netns(), target, "shop", support::CANARY, LIMIT).is_err() {
            assert!(Instant::now() < end);
        }
        probe.assert_only_encrypted();
    });
}

#[test]
fn a_file_that_may_not_be_used_leaves_the_running_keys_in_force_and_is_said_once() {
    test("a_file_that_may_not_be_used_leaves_the_running_keys_in_force_and_is_said_once", || {
        let cluster = Cluster::on_one_node();
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let to = cluster.b.addresses()[0];
        cluster.say_canary(to);
        let other = fs::read(cluster.genkey("other.key")).unwrap();
        let good = fs::read(&cluster.key_file).unwrap();
        for (content, reason) in [(&other[..], "the tenant id is another one"), (&good[..60], "line 3: ")] {
            fs::write(&cluster.key_file, content).unwrap();
            wait(&[&a, &b], LIMIT, reason, |status| {
                status["keys"]["error"].as_str().is_some_and(|error| error.contains(reason))
            });
            // Twice the time after which the file is looked at, and more.
            thread::sleep(Duration::from_millis(1_500));
            assert_eq!(a.log().matches(reason).count(), 1, "{}", a.log());
            assert_eq!(
                (&a.status()["keys"]["send"], &a.status()["keys"]["accept"]),
                (&json!(1), &json!([1]))
            );
            cluster.say_canary(to);
        }
        fs::write(&cluster.key_file, &good).unwrap();
        wait(&[&a, &b], LIMIT, "no error", |status| status["keys"]["error"].is_null());
        cluster.say_canary(to);
    });
}
