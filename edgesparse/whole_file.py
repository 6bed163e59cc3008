"""`replace_file`, `replacing`: write a file as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replace_file", "replacing"]


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
    handle, temporary = tempfile.mkstemp(prefix=".edgesparse-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
