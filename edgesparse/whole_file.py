"""Write a file as a whole or not at all; and find out beforehand that it cannot be written."""

from __future__ import annotations

import errno
import os
import secrets
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
_IRREGULAR = "it is no regular file"


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
        `path` is a folder where a file is wanted or the reverse, a device or the like, or lies in
        no folder that may be written to.
    """
    target = Path(path)
    if target.exists() and target.is_dir() != as_folder:
        reason = "it is a file" if as_folder else "it is a folder"
    elif target.exists() and not as_folder and not target.is_file():
        reason = _IRREGULAR
    elif not target.parent.is_dir():
        reason = f"there is no folder {target.parent}"
    elif not os.access(target.parent, os.W_OK | os.X_OK):
        reason = f"the folder {target.parent} may not be written to"
    else:
        return
    raise UsageError(f"{target}: cannot be written ({reason}).", advice="Name another output.")


def replace_file(path: Path, text: str, *, private: bool = False) -> None:
    """Write `text` as UTF-8 through a temporary file beside `path`.

    A reader sees the old file or the new one, and nothing else stays behind.

    Parameters
    ----------
    path : Path
    text : str
    private : bool
        Let nobody else read it.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with replacing(path) as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Raises
    ------
    OSError
        The file cannot be written, or is a device, a pipe or the like.
    """
    with replacing_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def replacing_path(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """As `replacing`, for what opens files itself: gives the temporary file's path.

    A link stays one: what it leads to is replaced.

    Parameters
    ----------
    path : Path
    folder : Path, optional
        Where the temporary file lies if that is on the same disk (default: beside what is
        replaced): whoever is killed leaves it there.

    Raises
    ------
    OSError
        The file cannot be written, or is a device, a pipe or the like.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, _IRREGULAR, str(path))  # renaming would replace the device
    if folder is None or folder.stat().st_dev != path.parent.stat().st_dev:
        folder = path.parent
    name = os.fspath(folder / f"{TEMPORARY}{secrets.token_hex(8)}")
    # For others to read, as far as the umask lets them, and not to write: see `load`'s mmap.
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
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
