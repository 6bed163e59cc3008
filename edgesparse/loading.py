"""From a checkpoint to a plan with its parameters: which tensors a plan needs, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgesparse import _native
from edgesparse.architectures import ROPE_LOCAL_TABLE, ROPE_TABLE
from edgesparse.config import ModelConfig
from edgesparse.cpus import usable_cpus
from edgesparse.errors import ModelFormatError, UsageError
from edgesparse.executors.base import Float32, Parameters
from edgesparse.formats.coarse import make_coarse
from edgesparse.formats.head import TWO_STAGE, head_override
from edgesparse.formats.load import load_vector, load_weights
from edgesparse.formats.sparse import choose_sparse, note_zeros, rounding
from edgesparse.formats.sparse_cost import SparseCost
from edgesparse.formats.weight import NEURON_MAJOR, ROW_BY_ROW, Format
from edgesparse.ops.rope_kv import rope_table
from edgesparse.plan.op import LOGITS, Embed, Experts, Linear, Norm, RopeKV, linears_of
from edgesparse.plan.plan import Plan

if TYPE_CHECKING:
    from edgesparse.checkpoint import Checkpoint
    from edgesparse.esp.stored import StoredWeights

__all__ = [
    "embedding_names",
    "expected_zeros",
    "fixed_columns",
    "head_name",
    "live_row_names",
    "load_parameters",
    "load_vectors",
    "neuron_major_names",
    "rope_tables",
    "stored_formats",
    "tensor_names",
    "vector_names",
    "weight_names",
]

_COMPARE_BYTES = 4 << 20
_RELU_ZEROS = 0.6
"""Share of zeros among inputs behind a ReLU whose text nobody has looked at."""


def tensor_names(checkpoint: Checkpoint) -> set[str]:
    """Name the tensors that a plan may use.

    A head that repeats the embedding byte for byte, as in the first upload of BitNet 2B-4T, is left
    out: the model is tied, and would otherwise be stored twice.
    """
    names = set(checkpoint.tensors)
    if "output.weight" in names and checkpoint.stored is None and _repeats_embedding(checkpoint):
        names.remove("output.weight")
    return names


def _repeats_embedding(checkpoint: Checkpoint) -> bool:
    head, embedding = checkpoint.info("output.weight"), checkpoint.info("token_embd.weight")
    if (head.type, head.shape, head.n_bytes) != (
        embedding.type,
        embedding.shape,
        embedding.n_bytes,
    ):
        return False
    for start in range(0, head.n_bytes, _COMPARE_BYTES):
        stop = min(start + _COMPARE_BYTES, head.n_bytes)
        a = checkpoint.read_range("output.weight", start, stop)
        if not np.array_equal(a, checkpoint.read_range("token_embd.weight", start, stop)):
            return False
    return True


def weight_names(plan: Plan) -> list[str]:
    """Name the matrices that a plan reads, in the order in which it first reads them."""
    names: dict[str, None] = {}
    for op in plan.ops:
        if isinstance(op, Embed):
            names[op.weight] = None
        for linear in linears_of(op):
            for out in linear.outputs:
                names[out.weight] = None
                if out.side is not None:
                    names[out.side] = None
    return list(names)


def neuron_major_names(plan: Plan) -> set[str]:
    """Name the matrices that only ever meet inputs with zeros to skip."""
    linears = [linear for op in plan.ops for linear in linears_of(op)]
    skipping = {out.weight for op in linears if op.skip_zeros for out in op.outputs}
    plain = {out.weight for op in linears if not op.skip_zeros for out in op.outputs}
    return skipping - plain - embedding_names(plan)


def expected_zeros(plan: Plan) -> dict[str, float]:
    """Give the least share of zeros that each matrix is expected to meet, of those that meet any.

    It is what a calibration expects, or what gates with a ReLU usually make.
    """
    shares: dict[str, float] = {}
    for linear in (each for op in plan.ops for each in linears_of(op) if each.skip_zeros):
        for out in linear.outputs:
            share = linear.dead_share or _RELU_ZEROS
            shares[out.weight] = min(share, shares.get(out.weight, share))
    return shares


def _why_by_rows(
    zeros: Mapping[str, float], least: Mapping[Format, float], name: str, fmt: Format
) -> str:
    needed = least.get(fmt, 0.0)
    if zeros[name] >= needed:
        return ""
    return f"by rows: skipping pays from {needed:.0%} zeros on, {zeros[name]:.0%} are expected"


def embedding_names(plan: Plan) -> set[str]:
    """Name the matrices whose rows are looked up."""
    return {op.weight for op in plan.ops if isinstance(op, Embed)}


def fixed_columns(plan: Plan) -> set[str]:
    """Name the matrices whose columns keep their order: looked-up rows, experts."""
    experts = (linear for op in plan.ops if isinstance(op, Experts) for linear in linears_of(op))
    return embedding_names(plan) | {out.weight for op in experts for out in op.outputs}


def live_row_names(plan: Plan, predicted: Container[str] = ()) -> set[str]:
    """Name the matrices of which a token needs single rows, wherever they are used.

    `predicted` names ops whose first output, the gate, will be predicted.
    """
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for op in plan.ops:
        if isinstance(op, Embed):
            names[False].add(op.weight)
        for linear in linears_of(op):
            for i, out in enumerate(linear.outputs):
                is_live = out.live is not None or (i == 0 and linear.name in predicted)
                names[is_live].add(out.weight)
    return names[True] - names[False]


def head_name(plan: Plan) -> str:
    """Name the matrix that makes the logits; in a tied model it is the embedding too."""
    outputs = [out for op in plan.ops if isinstance(op, Linear) for out in op.outputs]
    return next(out.weight for out in outputs if out.dst == LOGITS)


def vector_names(plan: Plan) -> dict[str, int]:
    """Name the vectors that a plan reads, with the length that each must have (0: any)."""
    widths = dict(plan.buffers)
    widths[LOGITS] = plan.n_vocab
    names: dict[str, int] = {}
    for op in plan.ops:
        if isinstance(op, (Linear, Experts)):
            if op.norm is not None:
                names[op.norm] = widths[op.src]
            names.update((out.bias, widths[out.dst]) for out in op.outputs if out.bias)
        elif isinstance(op, Norm):
            names[op.weight] = widths[op.src]
        elif isinstance(op, RopeKV):
            names.update((norm, op.head_dim) for norm in (op.norm_q, op.norm_k) if norm)
    return names


def load_parameters(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    *,
    head: str = "exact",
    native: bool | None = None,
    threads: int | None = None,
    ternary: Format = Format.T2,
    by_neurons: bool = True,
    row_by_row: Container[str] = (),
    layers: str = "auto",
    cost: SparseCost | None = None,
    columns_from: Mapping[Format, float] | None = None,
    before: Callable[[Mapping[str, Format], int, int], None] | None = None,
    mapped: bool = False,
) -> Parameters:
    """Read and convert everything that `plan` names.

    Parameters
    ----------
    checkpoint : Checkpoint
    config : ModelConfig
    plan : Plan
    head : str
        How to store the head: one of `edgesparse.choices.HEADS`.
    native : bool, optional
        Repack in C; by default when the compiled module is available.
    threads : int, optional
        Threads of loading; by default one per CPU that this process may use.
    row_by_row : container of str
        Matrices whose rows are to lie one by one, see `live_row_names`.
    ternary : Format
        Storage of ternary matrices.
    by_neurons : bool
        Matrices that only meet inputs with zeros lie neuron by neuron, so that zeros are skipped.
    layers : str
        How to store the other matrices of layers: one of `edgesparse.choices.WEIGHTS`.
    cost : SparseCost, optional
        Decides which matrices are stored without their zeros; none is when omitted.
    columns_from : mapping of Format to float, optional
        Shares of zeros from which bit slices by columns are faster; by default always.
    before : callable, optional
        See `load_weights`.
    mapped : bool
        Map a pre-packed file instead of reading it, see `StoredWeights.load`.

    Raises
    ------
    ModelFormatError
        A tensor is missing, malformed, or of another shape than the plan needs.
    UsageError
        The head cannot be stored as asked.
    MemoryBudgetError
        The weights do not fit.
    """
    _check_shapes(checkpoint, plan)
    name = head_name(plan)
    if checkpoint.stored is not None:
        formats = stored_formats(checkpoint.stored, plan, head, row_by_row)
        if before is not None:
            before(formats, checkpoint.stored.n_bytes(formats), 0)
        n_threads = threads or usable_cpus()
        weights = checkpoint.stored.load(formats, threads=n_threads, mapped=mapped)
    else:
        override = head_override(checkpoint.info(name), head)
        inner = [each for each in weight_names(plan) if each not in {name, *embedding_names(plan)}]
        rounded = {each: rounding(checkpoint.info(each), layers) for each in inner}
        overrides = {each: fmt for each, fmt in rounded.items() if fmt is not None}
        if override is not None:
            overrides[name] = override
        weights = load_weights(
            checkpoint,
            weight_names(plan),
            native=native,
            threads=threads,
            ternary=ternary,
            neuron_major=neuron_major_names(plan) if by_neurons else (),
            by_rows=partial(_why_by_rows, expected_zeros(plan), columns_from or {}),
            row_by_row=row_by_row,
            before=before,
            overrides=overrides,
            slices={"slices": True, "blocks": False}.get(layers),
            in_place=fixed_columns(plan) | ({name} if head == TWO_STAGE else set()),
            sparse={}
            if cost is None or layers == "dense"
            else dict.fromkeys(inner, partial(choose_sparse, weights=layers, cost=cost)),
        )
        weights |= {each: note_zeros(weights[each]) for each in inner}
    vectors = load_vectors(checkpoint, plan)
    tables = rope_tables(checkpoint, config, plan)
    coarse = None
    if head == TWO_STAGE:
        use_native = _native.available() if native is None else native
        coarse = make_coarse(weights[name], native=use_native, threads=threads or usable_cpus())
    return Parameters(weights, vectors, tables, coarse)


def stored_formats(
    stored: StoredWeights, plan: Plan, head: str, row_by_row: Container[str]
) -> dict[str, Format]:
    """Give the formats of a pre-packed file, if they are those that the plan and the flags want.

    Raises
    ------
    UsageError
        They were chosen otherwise when the file was made.
    """
    formats = {name: stored.records[name].format for name in weight_names(plan)}
    by_inputs = neuron_major_names(plan)
    for name, found in formats.items():
        others = NEURON_MAJOR if name in by_inputs else ROW_BY_ROW if name in row_by_row else {}
        plain = found if found.is_sparse and not others else found.row_format
        wanted = others.get(plain, plain)
        # Bit slices by rows are the same numbers: at worst, zeros are read.
        if found is not wanted and not (found.is_sliced and found is plain):
            raise _packed_otherwise(f"{name} is stored as {found.name}, not as {wanted.name}")
    name = head_name(plan)
    record = stored.records[name]
    if head == "exact" and record.is_rounded:
        raise _packed_otherwise(f"the head is rounded ({record.note})")
    if head not in ("auto", "exact", TWO_STAGE) and record.format is not Format[head.upper()]:
        raise _packed_otherwise(f"the head is stored as {record.format.name}")
    return formats


def _packed_otherwise(detail: str) -> UsageError:
    return UsageError(
        f"the pre-packed file was made for other settings: {detail}.",
        advice="Give the flags that it was converted with and no others (--sparse off among them), "
        "or convert again with these. --sparsity and --predict want the model that the file was "
        "made from.",
    )


def load_vectors(checkpoint: Checkpoint, plan: Plan) -> dict[str, Float32]:
    """Read the norm weights and biases that `plan` names; raises as `load_parameters`."""
    for name, length in vector_names(plan).items():
        _check_shape(checkpoint, name, (length,))
    offset = np.float32(checkpoint.get_float("edgesparse.norm_offset", 0.0))
    vectors: dict[str, Float32] = {}
    for name in vector_names(plan):
        vector = load_vector(checkpoint, name)
        vectors[name] = np.ascontiguousarray(
            vector + offset if offset and name.endswith("norm.weight") else vector
        )
    return vectors


def rope_tables(checkpoint: Checkpoint, config: ModelConfig, plan: Plan) -> dict[str, Float32]:
    """Make the tables of rotations that a plan names."""
    tables = {ROPE_TABLE: _rope(checkpoint, config, plan)}
    if config.rope_theta_local is not None:
        theta = config.rope_theta_local
        tables[ROPE_LOCAL_TABLE] = rope_table(plan.n_ctx, config.rope_dim, theta)
    return tables


def _rope(checkpoint: Checkpoint, config: ModelConfig, plan: Plan) -> Float32:
    scaling = config.rope_scaling
    divisors = scaling.divisors(config.rope_dim, config.rope_theta)
    if "rope_freqs.weight" in checkpoint.tensors:
        stored = load_vector(checkpoint, "rope_freqs.weight").astype(np.float64)
        if stored.shape != (config.rope_dim // 2,) or not (stored > 0).all():
            raise ModelFormatError(
                "shape",
                "rope_freqs.weight",
                f"expected {config.rope_dim // 2} positive numbers, found shape {stored.shape}",
                path=checkpoint.path,
            )
        divisors = stored
    table = rope_table(plan.n_ctx, config.rope_dim, config.rope_theta, divisors)
    return table if scaling.magnitude == 1.0 else table * np.float32(scaling.magnitude)


def _check_shapes(checkpoint: Checkpoint, plan: Plan) -> None:
    """Compare every tensor's shape with the buffers that it connects, before anything is loaded."""
    widths = dict(plan.buffers)
    widths[LOGITS] = plan.n_vocab
    for op in plan.ops:
        if isinstance(op, Embed):
            _check_shape(checkpoint, op.weight, (plan.n_vocab, widths[op.dst]))
        for linear in linears_of(op):
            n_used = op.n_used if isinstance(op, Experts) else 1
            k = widths[linear.src]
            k = k // n_used if isinstance(op, Experts) and op.per_slot else k
            for out in linear.outputs:
                for name in filter(None, (out.weight, out.side)):
                    _check_shape(checkpoint, name, (widths[out.dst] // n_used, k))
    for name, length in vector_names(plan).items():
        _check_shape(checkpoint, name, (length,))


def _check_shape(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> None:
    found = checkpoint.info(name).shape
    if tuple(found) != expected:
        raise ModelFormatError(
            "shape",
            name,
            f"expected shape {expected}, found {tuple(found)}",
            path=checkpoint.path,
            advice="The metadata and the tensors of this file contradict each other.",
        )
