//! The machine that was measured on.

use std::{fs, thread};

/// Kernel, processor and number of processors, in one line.
pub(crate) fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (kernel, cpus) = (read("/proc/sys/kernel/osrelease"), read("/proc/cpuinfo"));
    let count = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let model = model(&cpus).unwrap_or("unknown processor");
    let hypervisor = if is_virtual(&cpus) { ", in a virtual machine" } else { "" };
    format!("Linux {}, {model}, {count} processors{hypervisor}", kernel.trim())
}

/// The processor's name, by the first line that has one; not every architecture does.
fn model(cpuinfo: &str) -> Option<&str> {
    let (_, name) = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| matches!(key.trim(), "model name" | "Model" | "cpu model"))?;
    Some(name.trim())
}

fn is_virtual(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named() {
        let text =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU: 3 GHz\nflags\t\t: fpu hypervisor vaes\n";
        assert_eq!(model(text), Some("Some CPU: 3 GHz"));
        assert!(is_virtual(text));
        assert!(!is_virtual("flags\t: fpu nohypervisor\n"));
        assert_eq!(model("processor: 0\n"), None);
    }
}
