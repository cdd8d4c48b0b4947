//! The folder of rule files, and files and folders named on the command line.

use std::io;
use std::path::{Path, PathBuf};

use super::plan::RuleFile;

/// What a rule file is called.
pub(crate) const EXTENSION: &str = "sql";

/// Written where there is no folder yet: valid, and every line of it a comment, so that it does nothing.
const EXAMPLE: &str = include_str!("example.sql");

/// Every rule file of the folder, in the order of names.
pub(super) fn read_folder(folder: &Path) -> io::Result<Vec<RuleFile>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Editors keep their drafts under names that begin with a point.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() && path.extension().is_some_and(|it| it == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// The files named, and those of the folders named.
pub(crate) fn read_paths(paths: &[PathBuf]) -> io::Result<Vec<RuleFile>> {
    let mut files = Vec::new();
    for path in paths {
        let found = if path.is_dir() { read_folder(path) } else { read(path).map(|file| vec![file]) };
        files.extend(found.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
        })?);
    }
    Ok(files)
}

/// Makes the folder with a commented example in it, if there is none.
pub(super) fn make_folder(folder: &Path) -> io::Result<bool> {
    if folder.is_dir() {
        return Ok(false);
    }
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("example.sql"), EXAMPLE)?;
    Ok(true)
}

fn read(path: &Path) -> io::Result<RuleFile> {
    Ok(RuleFile { name: path.display().to_string(), text: std::fs::read_to_string(path)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_missing_is_made_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("rules");
        assert!(make_folder(&folder).expect("make"));
        assert!(!make_folder(&folder).expect("again"));
        std::fs::write(folder.join(".draft.sql"), "x").expect("write");
        std::fs::write(folder.join("notes.txt"), "x").expect("write");
        std::fs::write(folder.join("b.sql"), "x").expect("write");
        let names: Vec<_> = read_folder(&folder).expect("read").into_iter().map(|file| file.name).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].ends_with("b.sql") && names[1].ends_with("example.sql"), "{names:?}");
    }
}
