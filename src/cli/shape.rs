//! `highwater completions` and `highwater man`: the command line, described for shells and readers.

use crate::error::{Error, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::PathBuf;

/// Where the scripts go.
pub const COMPLETIONS_HELP: &str = "\
bash: highwater completions bash > ~/.local/share/bash-completion/completions/highwater
zsh:  highwater completions zsh > a folder of $fpath, as _highwater
fish: highwater completions fish > ~/.config/fish/completions/highwater.fish";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// Which shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Write a page for each command into this directory, which is made; without it the first page goes to standard output
    dir: Option<PathBuf>,
}

/// Prints what makes `shell` complete `command`'s arguments.
pub fn completions(mut command: Command, arguments: &CompletionArguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "highwater", &mut script);
    print(script)
}

/// Prints or writes the manual.
pub fn man(command: Command, arguments: &ManArguments) -> Result<()> {
    let Some(dir) = &arguments.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Error::internal(format!("the page cannot be written: {error}")))?;
        return print(page);
    };
    let failed = |error: std::io::Error| Error::unavailable(format!("{}: {error}", dir.display())).caused_by(error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)
}

fn print(text: Vec<u8>) -> Result<()> {
    super::say(String::from_utf8_lossy(&text).trim_end())
}
