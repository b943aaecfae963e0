//! `diskstore completions` and `diskstore man`: what shells and `man` are told of the programs' flags.

use std::io::Write;
use std::path::Path;

use super::{ClientError, print};
use crate::cli::{PROGRAMS, Shell, table_of};

/// `diskstore completions`.
pub(super) fn completions(
    shell: Shell,
    program: &str,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    print(out, diskstore_flags::completions(table_of(program), shell).as_bytes())
}

/// `diskstore man`: the pages of all programs that have a table here.
pub(super) fn manual(folder: &Path, out: &mut dyn Write) -> Result<(), ClientError> {
    let failed = |what: &Path| {
        let what = format!("writing {}", what.display());
        move |source| ClientError::local(what, source)
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let mut count = 0;
    for program in PROGRAMS {
        let pages = diskstore_flags::pages(table_of(program)).map_err(failed(folder))?;
        for page in pages {
            let path = folder.join(&page.file);
            std::fs::write(&path, &page.text).map_err(failed(&path))?;
            count += 1;
        }
    }
    let words = format!("{count} pages are in {0}: man {0}/diskstore.1\n", folder.display());
    print(out, words.as_bytes())
}
