"""Write a file as a whole or not at all; and find out beforehand that it cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgesparse.errors import UsageError

__all__ = [
    "TEMPORARY",
    "replace_file",
    "replacing",
    "replacing_path",
    "require_output",
    "require_writable",
]

TEMPORARY = ".edgesparse-"
"""What names of temporary files begin with."""


def require_output(path: Path, source: Path, *, replace: bool, as_folder: bool = False) -> None:
    """Refuse as `require_writable` does, and whatever is there already unless it may go.

    Raises
    ------
    UsageError
        `path` cannot be written, is `source`, or is there and not to be replaced.
    """
    require_writable(path, as_folder=as_folder)
    if not path.exists():
        return
    if path.samefile(source):
        raise UsageError("IN and OUT are the same.", advice="Name another output.")
    if not replace:
        raise UsageError(f"{path} exists.", advice="Add -y to replace it.")


def require_writable(path: str | os.PathLike[str], *, as_folder: bool = False) -> None:
    """Refuse what could not be written in the end, before the work that fills it begins.

    Raises
    ------
    UsageError
        `path` is a folder where a file is wanted or the reverse, or lies in no folder that may be
        written to.
    """
    target = Path(path)
    if target.exists() and target.is_dir() != as_folder:
        reason = "it is a file" if as_folder else "it is a folder"
    elif not target.parent.is_dir():
        reason = f"there is no folder {target.parent}"
    elif not os.access(target.parent, os.W_OK | os.X_OK):
        reason = f"the folder {target.parent} may not be written to"
    else:
        return
    raise UsageError(f"{target}: cannot be written ({reason}).", advice="Name another output.")


def replace_file(path: Path, text: str, *, shared: bool = False) -> None:
    """Write `text` as UTF-8 through a temporary file beside `path`.

    A reader sees the old file or the new one, and nothing else stays behind; `shared` as in
    `replacing_path`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with replacing(path, shared=shared) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Parameters
    ----------
    path : Path
    shared : bool
        See `replacing_path`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with replacing_path(path, shared=shared) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def replacing_path(
    path: Path, folder: Path | None = None, *, shared: bool = False
) -> Iterator[Path]:
    """As `replacing`, for what opens files itself: gives the temporary file's path.

    Parameters
    ----------
    path : Path
    folder : Path, optional
        Where the temporary file lies, on the same disk (default: beside `path`): whoever is killed
        leaves it there.
    shared : bool
        Who may read it: whom the process's umask lets, as with any file, or its owner alone.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    name = str((folder or path.parent) / f"{TEMPORARY}{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    os.close(os.open(name, flags, 0o666 if shared else 0o600))
    try:
        yield Path(name)
        _settle(name)
        os.replace(name, path)
        _settle(path.parent)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise


def _settle(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
