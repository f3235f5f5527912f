//! The program `compare` measures in namespaces of its own and writes its document.

use std::{fs, process::Command};

#[test]
fn numbers_are_written_between_the_markers_and_a_chart_beside_them() {
    let directory = std::env::temp_dir().join(format!("tencrypt-compare-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let document = directory.join("performance.md");
    fs::write(&document, "by hand\n<!-- measured -->\nold\n<!-- /measured -->\nby hand too\n").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args([
            "--only",
            "plain",
            "--patterns",
            "tcp1,udp64,idle",
            "--seconds",
            "1",
            "--rounds",
            "1",
            "--vxlan",
        ])
        .arg("--out")
        .arg(&directory)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let text = fs::read_to_string(&document).unwrap();
    assert!(
        text.starts_with("by hand\n<!-- measured -->\n![") && text.ends_with("\nby hand too\n"),
        "{text}"
    );
    assert!(!text.contains("old") && !text.contains("Failed"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| plain | ")).collect();
    // TCP, UDP and latency in each of the two networks.
    assert_eq!(rows.len(), 6, "{text}");
    let numbers =
        rows.iter().flat_map(|row| row.split(" | ").skip(1)).map(|cell| cell.trim_end_matches(" |"));
    let zero = numbers.filter(|cell| cell.parse::<f64>().unwrap() == 0.0).count();
    assert_eq!(zero, 0, "{text}");
    assert!(fs::read_to_string(directory.join("performance.svg")).unwrap().contains(">plain</text>"));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_document_without_markers_is_left_alone_before_anything_is_measured() {
    let directory = std::env::temp_dir().join(format!("tencrypt-compare-refused-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let document = directory.join("performance.md");
    fs::write(&document, "all by hand\n").unwrap();
    let finished = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--only", "plain", "--out"])
        .arg(&directory)
        .output()
        .unwrap();
    assert_eq!(finished.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&finished.stderr).contains("<!-- measured -->"), "{finished:?}");
    assert_eq!(fs::read_to_string(&document).unwrap(), "all by hand\n");
    fs::remove_dir_all(&directory).unwrap();
}
