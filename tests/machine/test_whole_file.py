"""Files are written whole or not at all, and are as readable as their kind should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgesparse.whole_file import replace_file, replacing, replacing_path


def test_who_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as file:
            file.write(b"1")
        with replacing_path(tmp_path / "b") as temporary:
            temporary.write_bytes(b"2")
        replace_file(tmp_path / "c", "3", private=True)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert modes == {"a": 0o640, "b": 0o640, "c": 0o600}


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
