"""The operating system lets us down: failing, short and empty reads at every place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesparse.checkpoint import open_checkpoint
from edgesparse.errors import ModelFormatError, ModelNotFound
from tests.checkpoint import writers as w


def models(tmp_path: Path) -> list[Path]:
    file = w.base().array("words", w.STRING, ["a", "b"]).tensor("x", 0, (8, 64), w.f32(8, 64))
    file.tensor("s", 36, (1, 128), b"\x15" * 32 + b"\0\0\x80\x3f" + bytes(28))
    (tmp_path / "model.gguf").write_bytes(file.build())
    w.write_folder(tmp_path / "m", w.packed_model(), w.bitnet_config())
    return [tmp_path / "model.gguf", tmp_path / "m"]


def read_all(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as c:
        return {name: c.read(name).tobytes() for name in c.tensors}


class Failing:
    """Positional reads of which the k-th misbehaves."""

    def __init__(self, k: int, how: str) -> None:
        self.k = k
        self.how = how
        self.count = 0

    def now(self) -> bool:
        self.count += 1
        if self.count == self.k and self.how == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.count == self.k

    def wrap_pread(self, real: Callable[..., bytes]) -> Callable[..., bytes]:
        def pread(fd: int, n_bytes: int, offset: int) -> bytes:
            if self.now():
                n_bytes = 0 if self.how == "end" else max(1, n_bytes // 2)
            return real(fd, n_bytes, offset)

        return pread

    def wrap_preadv(self, real: Callable[..., int]) -> Callable[..., int]:
        def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
            if self.now():
                half = 0 if self.how == "end" else max(1, len(buffers[0]) // 2)
                return real(fd, [buffers[0][:half]], offset) if half else 0
            return real(fd, buffers, offset)

        return preadv


@pytest.mark.parametrize("how", ["error", "end", "short"])
def test_every_read_may_fail(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_cases = 0
    real_pread, real_preadv = os.pread, os.preadv
    for path in models(tmp_path):
        good = read_all(path)
        k = 0
        while True:
            k += 1
            failing = Failing(k, how)
            n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", failing.wrap_pread(real_pread))
                patch.setattr(os, "preadv", failing.wrap_preadv(real_preadv))
                try:
                    found = read_all(path)
                except ModelFormatError as error:
                    found = None
                    kind = error.kind
            if failing.count < k:
                break
            if how == "short":  # an incomplete read is continued
                assert found == good
            else:
                assert found is None
                assert kind == ("path" if how == "error" else "truncated")
            if n_open:
                assert len(os.listdir("/proc/self/fd")) == n_open
            n_cases += 1
    assert n_cases >= 30


def test_folders_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        open_checkpoint(tmp_path / "absent" / "model.safetensors")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(tmp_path / "file" / "model.safetensors")
    assert caught.value.kind == "path"
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(str(tmp_path / "a\0b" / "model.safetensors"))
    assert caught.value.kind == "path"


def test_a_file_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(tmp_path / ("n" * 300 + ".gguf"))
    assert caught.value.kind == "path"
