//! The manual pages: one for the program, one for each command.

use std::{io, path::Path};

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::cli::Cli;
use crate::{
    failure::{Exit, Failure},
    os::files,
};

/// Writes the pages into `directory`, each in place of what is there under its name.
///
/// # Errors
/// A [`Failure`]: a page cannot be written.
pub(crate) fn write(directory: &Path) -> Result<(), Failure> {
    for (name, page) in pages() {
        let path = directory.join(name);
        files::replace(&path, &page, 0o644).map_err(|error| {
            Failure::new(Exit::of_io(&error), format_args!("cannot make {}: {error}", path.display()))
        })?;
    }
    Ok(())
}

/// Every page with the name of its file.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Gives each command the names of those before it.
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages);
    pages
}

/// Adds the page of `command` and those of the commands below it.
fn add(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let page = Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text).unwrap_or_else(|_: io::Error| unreachable!("memory takes every byte"));
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    pages.push((format!("{name}.1"), text));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add(below, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_options_and_examples() {
        let pages = pages();
        let page = |name: &str| {
            let found = pages.iter().find(|(file, _)| file == &format!("{name}.1"));
            String::from_utf8(found.unwrap_or_else(|| panic!("no page {name}")).1.clone()).unwrap()
        };
        fn look(command: &clap::Command, name: &str, page: &dyn Fn(&str) -> String) {
            let text = page(name);
            let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
            for option in shown.filter_map(clap::Arg::get_long) {
                assert!(text.contains(&option.replace('-', "\\-")), "{name} lacks --{option}: {text}");
            }
            assert!(text.contains("Examples:"), "{name}: {text}");
            for below in command.get_subcommands() {
                look(below, &format!("{name}-{}", below.get_name()), page);
            }
        }
        look(&Cli::command(), "tencrypt", &page);
        assert!(page("tencrypt").contains("TENCRYPT_RUN_DIR"));
        assert!(page("tencrypt-rotate-add").contains("tencrypt rotate add"));
    }
}
