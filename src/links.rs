//! Links by which the programs in this executable are called.

use std::{fs, io, os::unix::fs::symlink, path::Path};

/// Makes a link to this executable for every name in `folder`, which is made if it is missing: beside the executable a
/// relative one, so that the folder can be moved. Links that are there already are made new. Returns their number.
///
/// # Errors
/// Something that is not a link has a name; the folder can't be written. The message names it.
pub fn make<'a>(folder: &Path, names: impl Iterator<Item = &'a str> + Clone) -> io::Result<usize> {
    let at = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let own = std::env::current_exe().map_err(|error| at(Path::new("the path of this executable"), error))?;
    fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
    let folder = folder.canonicalize().map_err(|error| at(folder, error))?;
    let beside = own.parent() == Some(&folder);
    let target = if beside { own.file_name().map_or(own.as_path(), Path::new) } else { own.as_path() };
    // First look, then act: half of the links are worse than none.
    for name in names.clone() {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok_and(|it| !it.is_symlink()) {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "there is another program, which would be lost");
            return Err(at(&path, error));
        }
    }
    let mut made = 0;
    for name in names {
        let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
        // A rename leaves no moment without the program.
        let link = fs::remove_file(&fresh).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        link.and_then(|()| symlink(target, &fresh))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|e| at(&path, e))?;
        made += 1;
    }
    Ok(made)
}
