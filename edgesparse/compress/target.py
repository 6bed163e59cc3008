"""`Target`: the types that `edgesparse quantize` makes, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgesparse.checkpoint import TensorType
from edgesparse.checkpoint.types import n_bytes_of
from edgesparse.errors import UsageError
from edgesparse.formats.weight import Format, Slices, Zeros, storage_bytes

__all__ = ["Target"]

_SLICED = re.compile(r"w([1-4])_(?:g(32|64|128)|row)")
_STANDARD = {"q8_0": TensorType.Q8_0, "q4_0": TensorType.Q4_0, "q4_1": TensorType.Q4_1}
_TERNARY = ("t2", "tq2_0")


@dataclass(frozen=True)
class Target:
    """What matrices become.

    Attributes
    ----------
    name : str
        ``w4_g128``, ``q8_0``, ``t2``, …
    bits : int
        Of bit slices; 0 for the standard types.
    group : int
        Columns of a group, 0 for a row.
    type : TensorType or None
        The standard type, or None for bit slices.
    """

    name: str
    bits: int = 0
    group: int = 0
    type: TensorType | None = None

    @classmethod
    def parse(cls, name: str) -> Target:
        """Read a type's name.

        Raises
        ------
        UsageError
            There is no such type.
        """
        wanted = name.lower()
        found = _SLICED.fullmatch(wanted)
        if found:
            return cls(wanted, int(found[1]), int(found[2] or 0))
        if wanted in _STANDARD:
            return cls(wanted, type=_STANDARD[wanted])
        if wanted in _TERNARY:
            return cls(wanted, type=TensorType.TQ2_0)
        raise UsageError(
            f"{name} is no type to quantise to.",
            advice="Use w1 to w4 with _g32, _g64, _g128 or _row, such as w4_g128; q8_0, q4_0, "
            "q4_1; or t2 for a model that was trained ternary.",
        )

    @property
    def is_ternary(self) -> bool:
        """Whether numbers become -1, 0 and 1 times one scale."""
        return self.type is TensorType.TQ2_0

    def type_of(self, k: int) -> TensorType | None:
        """Return the standard type of a matrix whose rows have `k` columns, None for bit slices."""
        return TensorType.F16 if self.type and not self.is_ternary and k % 32 else self.type

    def columns(self, k: int) -> int:
        """Columns of a group in a row of `k`."""
        return min(self.group, k) if self.group else k

    def n_bytes(self, n_rows: int, k: int) -> int:
        """Bytes of a matrix of this shape in a file."""
        kind = self.type_of(k)
        if kind is not None:
            return n_bytes_of(kind, (n_rows, k))
        group = self.group if self.group < k else 0
        fmt = Format(Format.BS1 + self.bits - 1)
        return storage_bytes(fmt, n_rows, k, Slices(group, Zeros.POINTS))
