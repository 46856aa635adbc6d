//! Where paths lead on this machine, also those of what is still to be made.

use std::io;
use std::path::{Component, Path, PathBuf};

/// The path without links: as far as it is there by what it leads to, the rest as it is written.
///
/// # Errors
/// When it cannot be followed; `NotFound`: it goes up (`..`) out of something that is not there.
pub(super) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for there in path.ancestors() {
        let real = match there.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
        if rest.components().any(|part| part == Component::ParentDir) {
            let what = format!("it goes on from {}, where there is no such directory", real.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        return Ok(real.join(rest).components().collect());
    }
    Ok(path)
}

/// The same, but the last name stays if it is a link: devices have names like `/dev/disk/by-id/...`, which stay theirs.
///
/// # Errors
/// Likewise.
pub(super) fn resolved_but_name(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(resolved(parent)?.join(name))
        }
        _ => resolved(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_is_followed_as_far_as_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(at.join("real/inner")).unwrap();
        symlink(at.join("real/inner"), at.join("link")).unwrap();
        symlink(at.join("real"), at.join("real/name")).unwrap();
        let cases = [
            ("link", "real/inner"),
            ("link/new/er", "real/inner/new/er"),
            // Up from where the link leads, not from where it is.
            ("link/../new", "real/new"),
            ("real/./inner/..", "real"),
            ("missing/new/", "missing/new"),
        ];
        for (path, leads_to) in cases {
            assert_eq!(resolved(&at.join(path)).unwrap(), at.join(leads_to), "{path}");
        }
        let error = resolved(&at.join("missing/../new")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        assert_eq!(resolved_but_name(&at.join("link/../name")).unwrap(), at.join("real/name"));
        assert_eq!(resolved(&at.join("link/../name")).unwrap(), at.join("real"));
        assert_eq!(resolved(Path::new("/")).unwrap(), Path::new("/"));
        assert_eq!(resolved_but_name(Path::new("new")).unwrap(), resolved(Path::new("new")).unwrap());
    }
}
