//! Completion scripts, with the names of network namespaces where one is asked for.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::cli::Cli;

/// Directory of the names that `ip netns` gives (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// Writes the completion script for `shell`: bash, zsh or fish.
#[must_use]
pub(crate) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tencrypt", &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => in_bash(&script),
        Shell::Zsh => in_zsh(&script),
        _ => in_fish(&script),
    }
}

/// Replaces files by namespaces after `--netns`: files only where a path was begun.
fn in_bash(script: &str) -> String {
    const FILES: &str = r#"COMPREPLY=($(compgen -f "${cur}"))"#;
    let names = format!(
        r#"if [[ "${{cur}}" == */* ]]; then {FILES}; else COMPREPLY=($(cd {NAMES} 2>/dev/null && compgen -f -- "${{cur}}")); fi"#
    );
    let mut after_option = false;
    let mut text = String::with_capacity(script.len());
    for line in script.lines() {
        let replaced = if after_option { line.replace(FILES, &names) } else { line.to_owned() };
        after_option = line.trim() == "--netns)";
        text.push_str(&replaced);
        text.push('\n');
    }
    text
}

/// Has files completed from the directory of the names; a path that begins with `/` is completed as always.
fn in_zsh(script: &str) -> String {
    edit_option_lines(script, "'--netns=[", |line| {
        line.replace(":_default'", &format!(":_files -W {NAMES}'"))
    })
}

/// Adds the names, and takes files away unless a path was begun.
fn in_fish(script: &str) -> String {
    let paths = "string match -q '*/*' -- (commandline -ct); and __fish_complete_path (commandline -ct)";
    let names = format!(r#" -f -a "(command ls {NAMES} 2>/dev/null; {paths})""#);
    edit_option_lines(script, " -l netns ", |line| format!("{line}{names}"))
}

fn edit_option_lines(script: &str, option: &str, edit: impl Fn(&str) -> String) -> String {
    let lines = script.lines().map(|line| if line.contains(option) { edit(line) } else { line.to_owned() });
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_that_takes_a_namespace_offers_names() {
        fn options(command: &clap::Command) -> usize {
            let own = command.get_arguments().filter(|argument| argument.get_long() == Some("netns")).count();
            own + command.get_subcommands().map(options).sum::<usize>()
        }
        let options = options(&Cli::command());
        assert!(options >= 6, "{options}");
        for (shell, offer) in [
            (Shell::Bash, "$(cd /run/netns 2>/dev/null && compgen"),
            (Shell::Zsh, ":_files -W /run/netns'"),
            (Shell::Fish, "ls /run/netns 2>/dev/null"),
        ] {
            assert_eq!(script(shell).matches(offer).count(), options, "{shell}");
        }
    }
}
