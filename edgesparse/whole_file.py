"""Write a file as a whole or not at all; and find out beforehand that it cannot be written."""

from __future__ import annotations

import os
import tempfile
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


def replace_file(path: Path, text: str) -> None:
    """Write `text` as UTF-8 through a temporary file beside `path`.

    A reader sees the old file or the new one, and nothing else stays behind.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with replacing_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def replacing_path(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """As `replacing`, for what opens files itself: gives the temporary file's path.

    Parameters
    ----------
    path : Path
    folder : Path, optional
        Where the temporary file lies, on the same disk (default: beside `path`): whoever is killed
        leaves it there.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=folder or path.parent)
    os.close(handle)
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
