"""What loading chooses by the instruction set: formats, steps, and whether skipping is worth it."""

from __future__ import annotations

from collections.abc import Container

from edgesparse.engine import DEFAULT_CHUNK, TILED_CHUNK
from edgesparse.errors import UsageError
from edgesparse.formats.sparse_cost import SparseCost, usual_cost
from edgesparse.formats.weight import Format

__all__ = [
    "cost_of_zeros",
    "has_vectors",
    "prompt_chunk",
    "shares_for_columns",
    "ternary_format",
    "ternary_reason",
]


def ternary_format(wanted: str, native: bool, isa: str | None, n_threads: int) -> Format:
    """Give the storage of ternary matrices: the one asked for, or with auto the faster one.

    Raises
    ------
    UsageError
        There is no such storage.
    """
    if wanted not in ("auto", "t2", "t5", "bst"):
        raise UsageError(f"ternary must be auto, t2, t5 or bst, not {wanted!r}.")
    if wanted != "auto":
        return Format[wanted.upper()]
    if not native:
        return Format.T2
    from edgesparse.executors.native import choose_isa
    from edgesparse.tuning import preferred_ternary

    return preferred_ternary(choose_isa(isa), n_threads)


def ternary_reason(
    wanted: str, stored: Container[Format], *, packed: bool, isa: str, n_threads: int
) -> str:
    """Say in which storage ternary matrices lie, and why in that; nothing where there are none.

    Parameters
    ----------
    wanted : str
        What was asked for: auto, t2, t5 or bst.
    stored : container of Format
        The formats of the loaded matrices.
    packed : bool
        Whether the file is a pre-packed one, whose storage stays.
    isa : str
        Instruction set of the native executor; empty for another executor.
    n_threads : int
    """
    found = [fmt for fmt in (Format.T5, Format.BST, Format.T2) if fmt in stored]
    if not found:
        return ""
    name = found[0].name.lower()
    if packed:
        return f"{name}: as the file was packed"
    if wanted != "auto":
        return f"{name}: asked for with --ternary"
    if not isa:
        return f"{name}: what this executor takes"
    from edgesparse.tuning import lookup

    answer = lookup("ternary", isa, n_threads)
    return f"{name}: {answer.reason if answer.value == name else 'to fit into --mem-budget'}"


def cost_of_zeros(native: bool, isa: str | None, n_threads: int) -> SparseCost:
    """Give the rates that decide about zeros: measured ones, or usual ones."""
    if not native:
        return usual_cost("scalar", n_threads)
    from edgesparse.executors.native import choose_isa
    from edgesparse.tuning import sparse_cost

    return sparse_cost(choose_isa(isa), n_threads)


def shares_for_columns(
    native: bool, isa: str | None, n_threads: int, model_bytes: int
) -> dict[Format, float]:
    """Give the share of zeros from which bit slices lie by columns; empty: always."""
    if not native:
        return {}
    from edgesparse.column_share import column_shares
    from edgesparse.executors.native import choose_isa

    return column_shares(choose_isa(isa), n_threads, model_bytes)


def prompt_chunk(native: bool, isa: str | None) -> int:
    """Give the tokens of one step of a prompt."""
    if not native:
        return DEFAULT_CHUNK
    from edgesparse.executors.native import choose_isa

    return TILED_CHUNK if choose_isa(isa) == "amx" else DEFAULT_CHUNK


def has_vectors(isa: str | None, dense_family: bytes, skipping_family: bytes) -> bool:
    """Whether skipping is vectorised where dense products are; scalar lists would lose to those."""
    from edgesparse import _native
    from edgesparse.executors.native import choose_isa, isa_names

    number, lib, ffi = isa_names()[choose_isa(isa)], _native.lib(), _native.ffi()
    dense, sparse = (
        bool(ffi.string(lib.es_kernel_variant(number, family)) != b"scalar")
        for family in (dense_family, skipping_family)
    )
    return sparse or not dense
