"""What `edgesparse bench --kernels` measures: the kernels of a shape, of a matrix, of a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from edgesparse.benchmark.shapes import Shape
from edgesparse.formats.weight import Format, Slices, storage_bytes
from edgesparse.formats.without_zeros import expected_bytes

__all__ = [
    "HEAD_FORMATS",
    "TERNARY_FORMATS",
    "Case",
    "Stored",
    "matrix_cases",
    "model_cases",
    "shape_cases",
]

TERNARY_FORMATS = (Format.T2, Format.T5)
"""Interchangeable ones; t2n is for products that skip zeros, where a model has them."""
HEAD_FORMATS = (Format.Q8, Format.Q6, Format.Q4, Format.Q8M, Format.Q4M, Format.F16)
ZEROS = (0.5, 0.7)
"""Shares of zeros that bitmap kernels are measured with."""
CSR_ZEROS = 0.95
SLICED_FORMATS = (Format.BS1, Format.BS2, Format.BS3, Format.BS4)
GROUPS = (32, 64, 128)
MAX_HEAD_ROWS = 32_768
"""Rows of a head that are measured: more change nothing but the memory that they take."""
DEPTH = 1024


@dataclass(frozen=True)
class Case:
    """What to measure, apart from instruction set and threads.

    Attributes
    ----------
    kernel : str
        Storage format in lower case, or ``attention``.
    where : str
        Model and tensor that have this size.
    n_rows, k : int
        Matrix; for attention, heads × head_dim and positions in the cache.
    n_tokens : int
    heads : tuple of int
        Attention: heads, kv heads, head_dim.
    in_cache : bool
        One copy again and again instead of many in turn.
    zeros : float
        Formats without zeros: share of codes that are 0.
    slices : Slices or None
        How bs1 to bs4 store their steps; other formats have none.
    lossy : bool
        Bit slices: look up in rounded tables.
    """

    kernel: str
    where: str
    n_rows: int
    k: int
    n_tokens: int
    heads: tuple[int, int, int] = (0, 0, 0)
    in_cache: bool = False
    zeros: float = 0.0
    slices: Slices | None = None
    lossy: bool = False

    @property
    def op(self) -> str:
        """``gemv``, ``gemm`` or ``attention``."""
        if self.kernel == "attention":
            return "attention"
        return "gemv" if self.n_tokens == 1 else "gemm"

    @property
    def copy_bytes(self) -> int:
        """Bytes of one copy of the weight, or of one layer of cache in halfs."""
        if self.kernel == "attention":
            return 4 * (self.k + self.n_tokens) * self.heads[1] * self.heads[2]
        fmt = Format[self.kernel.upper()]
        if fmt.has_varying_length:
            return expected_bytes(fmt, self.n_rows, self.k, self.zeros)
        return storage_bytes(fmt, self.n_rows, self.k, self.slices)


class Stored(NamedTuple):
    """A weight of a model, without its bytes.

    Attributes
    ----------
    tensor : str
    format : Format
    n_rows, k : int
    zeros : float
        Share of codes that are 0, of formats without them only.
    slices : Slices or None
        Of bs1 to bs4.
    """

    tensor: str
    format: Format
    n_rows: int
    k: int
    zeros: float = 0.0
    slices: Slices | None = None


def shape_cases(name: str, shape: Shape, tokens: Sequence[int]) -> list[Case]:
    """List the kernels that a model of `shape` runs: its distinct matrices, head and attention."""
    cases = []
    seen: dict[tuple[int, int], str] = {}
    for tensor, size in shape.matrices().items():
        seen.setdefault(size, tensor)
    for (n_rows, k), tensor in seen.items():
        skips = tensor == "ffn_down" and shape.activation == "relu2"
        for fmt in (*TERNARY_FORMATS, *((Format.T2N,) if skips else ())):
            for n in tokens:
                cases.append(Case(fmt.name.lower(), f"{name} {tensor}", n_rows, k, n))
    size = shape.matrices()["ffn_up"]
    for fmt in (Format.Q8, Format.Q4):
        cases.append(Case(fmt.name.lower(), f"{name} ffn_up", *size, 1))
    cases += _slice_cases(f"{name} ffn_up", *size, 1, GROUPS[:1])
    pruned = [*itertools.product((Format.BMP8, Format.BMP4), ZEROS), (Format.CSR, CSR_ZEROS)]
    for fmt, zeros in [*pruned, (Format.NM8, 0.5), (Format.NM4, 0.5)]:
        where = f"{name} ffn_up, {zeros:.0%} zeros"
        cases.append(Case(fmt.name.lower(), where, *size, 1, zeros=zeros))
    rows = min(shape.n_vocab, MAX_HEAD_ROWS)
    cases += [Case(f.name.lower(), f"{name} head", rows, shape.width, 1) for f in HEAD_FORMATS]
    heads = (shape.n_heads, shape.n_kv_heads, shape.head_dim)
    return cases + _attention_cases(name, heads, min(DEPTH, shape.n_ctx // 2), tokens)


def matrix_cases(n_rows: int, k: int, tokens: Sequence[int]) -> list[Case]:
    """List what one matrix can be stored as and multiplied by: ternary, blocks, bit slices."""
    where = f"{n_rows}x{k}"
    cases = []
    for n in tokens:
        for fmt in (*TERNARY_FORMATS, *HEAD_FORMATS):
            cases.append(Case(fmt.name.lower(), where, n_rows, k, n))
        cases += _slice_cases(where, n_rows, k, n, GROUPS)
    return cases


def _slice_cases(
    where: str, n_rows: int, k: int, n_tokens: int, groups: Iterable[int]
) -> list[Case]:
    """List ternary planes, and 1 to 4 bits with exact tables and with rounded ones."""
    cases = [Case(Format.BST.name.lower(), where, n_rows, k, n_tokens)]
    for fmt, group, lossy in itertools.product(SLICED_FORMATS, groups, (False, True)):
        slices = Slices(group)
        name = fmt.name.lower()
        cases.append(Case(name, where, n_rows, k, n_tokens, slices=slices, lossy=lossy))
    return cases


def _attention_cases(
    name: str, heads: tuple[int, int, int], depth: int, tokens: Iterable[int]
) -> list[Case]:
    rows = heads[0] * heads[2]
    return [Case("attention", f"{name} @ d{depth}", rows, depth, n, heads) for n in tokens]


def model_cases(
    name: str,
    weights: Iterable[Stored],
    heads: tuple[int, int, int],
    depth: int,
    tokens: Sequence[int],
) -> list[Case]:
    """List the kernels that a loaded model runs.

    Parameters
    ----------
    name : str
    weights : iterable of Stored
    heads : tuple of int
        Heads, kv heads, head_dim.
    depth : int
        Positions in the cache for attention.
    tokens : sequence of int
    """
    seen: dict[tuple[Format, int, int, Slices | None], tuple[str, float]] = {}
    for weight in weights:
        short = weight.tensor.removesuffix(".weight")
        if short.startswith("blk."):
            short = short.split(".", 2)[-1]
        formats = TERNARY_FORMATS if weight.format in TERNARY_FORMATS else (weight.format,)
        for each in formats:
            key = (each, weight.n_rows, weight.k, weight.slices)
            seen.setdefault(key, (short, weight.zeros))
    cases = []
    for (fmt, n_rows, k, slices), (tensor, zeros) in seen.items():
        large = n_rows > MAX_HEAD_ROWS  # a head: only the last token of a prompt goes through it
        for n in [n for n in tokens if n == 1] if large else tokens:
            size = (min(n_rows, MAX_HEAD_ROWS), k)
            for lossy in (False, True) if slices is not None else (False,):
                case = Case(fmt.name.lower(), f"{name} {tensor}", *size, n, zeros=zeros)
                cases.append(replace(case, slices=slices, lossy=lossy))
    return cases + _attention_cases(name, heads, depth, tokens)
