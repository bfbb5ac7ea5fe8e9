//! Writes the valid inputs of every target to `corpus/TARGET/`, from where libFuzzer begins.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    for target in highwater_fuzz::fuzzing::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
