"""Names that tell nobody who was scanned: symbolic links to scans whose files and folders may be named after a person.

    results/<study>/.scans/            for its owner alone: the one place with the paths of scans
        index.json                     what was found
        {dataset}/{volume}/0001.dcm …  links, in the order of the reader's list
        {dataset}/{volume}.files       their names, where a series is too long for a command line

Readers with the literal ``PERSONAL_PATHS`` (the endings a link may have; the last where the file has none of them) get
links alone, here and in jobs: commands, messages, results and Snakemake's records name these. Only the main process
makes them. One that leads to the right file stays as it is: Snakemake looks at its time.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from dipline.readers.personal import FOLDER


def private(root):
    """The folder, made where it is missing."""
    folder = Path(root) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def link(root, dataset, volume, files, endings):
    """Links to the files of a volume, in their order; what else lies there is removed."""
    folder = private(root) / dataset / volume
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for number, file in enumerate(map(Path, files), 1):
        ending = next((e for e in endings if file.name.lower().endswith(e)), endings[-1])
        links.append(folder / f"{number:04d}{ending}")
        _lead(links[-1], str(file) if file.is_absolute() else os.path.relpath(file, os.path.realpath(folder)))
    for other in set(folder.iterdir()) - set(links):
        other.unlink()
    return links


def _lead(link, target):
    with suppress(OSError):
        if os.readlink(link) == target:
            return
    part = link.with_name(f".{link.name}")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def prune(root, dataset, volumes):
    """Remove the links of volumes that are no longer there."""
    folder = Path(root) / FOLDER / dataset
    for old in folder.iterdir() if folder.is_dir() else ():
        if old.is_dir() and old.name not in volumes:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()


def resolved(text, root):
    """A message with the files behind the links that it names: for the terminal of the one who asks, and for no file."""

    def behind(match):
        path = Path(match[0])
        files = [path] if path.is_symlink() else [p for p in path.glob("*") if p.is_symlink()]
        found = [os.path.normpath(p.parent.resolve() / os.readlink(p)) for p in files]
        if not found:
            return match[0]
        return f"{match[0]} ({found[0] if path.is_symlink() else os.path.commonpath(map(os.path.dirname, found))})"

    return re.sub(rf"{re.escape(str(Path(root) / FOLDER))}/[\w./-]*\w", behind, text)
