"""File tensors made of random bytes, and a checkpoint that holds them in memory."""

from __future__ import annotations

import os

import numpy as np

from edgesparse.checkpoint import TensorInfo, TensorType, layout_of, n_bytes_of
from edgesparse.errors import ModelFormatError
from edgesparse.formats import Format
from tests.checkpoint import byte_pictures as pictures

T = TensorType
F = Format

NO_NATIVE = os.environ.get("EDGESPARSE_NO_NATIVE", "") not in ("", "0")
ENGINES = (False,) if NO_NATIVE else (False, True)
"""Values of `native` to try; a missing module is a failure unless it was switched off."""

HALVES = {
    T.Q8_0: (0,),
    T.Q4_0: (0,),
    T.Q4_1: (0, 2),
    T.Q5_0: (0,),
    T.Q5_1: (0, 2),
    T.Q2_K: (80, 82),
    T.Q3_K: (108,),
    T.Q4_K: (0, 2),
    T.Q5_K: (0, 2),
    T.Q6_K: (208,),
    T.TQ1_0: (52,),
    T.TQ2_0: (64,),
    T.PTQ1_0: (26,),
    T.Q2_0: (0,),
    T.PQ2_0: (0,),
    T.Q1_0: (0,),
}
"""Where the half-precision fields of a block stand."""

TERNARY = {
    T.I2_S_128X32: lambda codes, s: pictures.i2s_columns(codes, s, 128),
    T.I2_S_64X16: lambda codes, s: pictures.i2s_columns(codes, s, 64),
    T.I2_S_ROW4: pictures.i2s_row4,
    T.HF_T2: lambda codes, s: pictures.hf_t2(codes),
    T.Q2_0: lambda codes, s: pictures.q2_0(codes, steps(codes, s, 64), 64),
    T.PQ2_0: lambda codes, s: pictures.q2_0(codes, steps(codes, s, 128), 128),
    T.TQ1_0: lambda codes, s: pictures.tq1_0(codes, steps(codes, s, 256)),
    T.TQ2_0: lambda codes, s: pictures.tq2_0(codes, steps(codes, s, 256)),
    T.PTQ1_0: lambda codes, s: pictures.ptq1_0(codes, steps(codes, s, 128)),
    T.IQ2_BN: lambda codes, s: pictures.iq2_bn(codes, np.full(len(codes), s)),
    T.IQ1_BN: lambda codes, s: pictures.iq1_bn(codes, np.full(len(codes), s)),
    T.Q1_0: lambda codes, s: pictures.q1_0(codes, steps(codes, s, 128)),
}
"""Encoders of (n_rows, k) codes with one scale; Q1_0 only of codes without zeros."""


def steps(codes: np.ndarray, scale: float, block: int) -> np.ndarray:
    """Scale of every block as a writer stores it: 0 for a block of zeros."""
    blocks = codes.reshape(len(codes), -1, block)
    return np.where(blocks.any(axis=2), np.float32(scale), np.float32(0))


def random_bytes(kind: TensorType, n_rows: int, k: int, seed: int) -> np.ndarray:
    """Give finite random bytes of a float or block type."""
    rng = np.random.default_rng(seed)
    if kind in (T.F32, T.F16, T.BF16):
        values = rng.normal(size=(n_rows, k)).astype(np.float32)
        if kind is T.BF16:
            return (values.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8)
        dtype = "<f4" if kind is T.F32 else "<f2"
        return values.astype(dtype).reshape(-1).view(np.uint8)
    raw = rng.integers(0, 256, n_bytes_of(kind, (n_rows, k)), dtype=np.uint8)
    blocks = raw.reshape(-1, layout_of(kind).block_bytes)
    for at in HALVES[kind]:
        blocks[:, at : at + 2] = rng.normal(size=(len(blocks), 1)).astype("<f2").view(np.uint8)
    if kind is T.TQ2_0:
        blocks[:, :64] &= ~(blocks[:, :64] & (blocks[:, :64] >> 1) & 0x55)  # 3 becomes 2
    return raw


class Memory:
    """The part of a checkpoint that loading uses, over bytes in memory."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self._raw: dict[str, np.ndarray] = {}
        self.n_read = 0

    def add(
        self,
        name: str,
        kind: TensorType,
        shape: tuple[int, ...],
        raw: np.ndarray | bytes,
        scale: float | None = None,
        ternarize: bool = False,
    ) -> Memory:
        data = np.frombuffer(raw, dtype=np.uint8) if isinstance(raw, bytes) else raw
        assert len(data) == n_bytes_of(kind, shape)
        if kind.name.startswith("I2_S"):
            scale = float(data[-32:-28].copy().view("<f4")[0])
        info = TensorInfo(name, kind, shape, len(data), 0, scale=scale, ternarize=ternarize)
        self.tensors[name], self._raw[name] = info, data
        return self

    def info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise ModelFormatError("missing", name, "no such tensor")
        return self.tensors[name]

    def read(self, name: str) -> np.ndarray:
        return self._raw[name].copy()

    def read_range(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._raw[name][start:stop].copy()

    def read_into(self, name: str, buffer: np.ndarray, start: int = 0) -> None:
        piece = self._raw[name][start : start + len(buffer)]
        assert len(piece) == len(buffer), "read past the tensor"
        buffer[:] = piece
        self.n_read += 1

    def check_unchanged(self) -> None:
        pass
