"""Write random models with the shapes of published ones, to measure speed with.

    python bench/make_model.py --shape 2b4t --type i2_s --head q6_k --dead-gates 0.8 --out FILE

Weights come from raw output of PCG64, seeded by `--seed` and the tensor's name: the same for every
`--type` and head, on every platform. A million weights at a time are made and written.

Activations stay near 1 through any depth: norms are 1, scales are 1 / sqrt(non-zeros of a row), and
what adds to the residual stream is divided by sqrt(2 layers) besides, so that all layers together
add as much as the embedding's random part.

Dead gates: every embedding is a random vector plus one fixed vector b of signs, equally strong, as
real models carry a direction that all tokens share. With m the normalised stream, m·b / k = beta is
known for each layer. A random row of n non-zeros gives a product with spread sqrt(n) over rows and
tokens. A gate row takes a share rho of its signs from -b, which moves the product by -rho n beta:
with rho = z / (sqrt(n) beta) it is at or below zero in Phi(z) of all cases. Neurons differ, as
real ones do: a row's own product with b, spread beta sqrt(n), makes it rarely or often alive, and
the token decides the rest. Without the option half of the gates are dead.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

if not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.gguf_packing import HEADS, TERNARY, BlockType
from bench.gguf_stream import Tensor, write_gguf
from bench.model_shapes import SHAPES, Shape, metadata
from edgesparse.errors import UsageError
from edgesparse.whole_file import require_writable

__all__ = ["make_model"]

Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

TYPES = {**TERNARY, **{kind: HEADS[kind] for kind in ("q8_0", "q4_0")}}

N_ZERO = 108
"""Bytes of 256 that become a zero: 42 %, as in trained models."""
EMBEDDING_STEP = 0.125
SIGMA = 8
"""Spread of the embedding's random part, and size of its fixed part, in steps: both are 1."""
CHUNK_WEIGHTS = 1 << 20
MAX_LAYERS = 1000

_SIGNS = (256 - N_ZERO) // 2
_CODES = np.repeat(np.array([-1, 0, 1], np.int8), [_SIGNS, N_ZERO, _SIGNS])
_BELL = np.array(
    [round(SIGMA * NormalDist().inv_cdf((i + 0.5) / 256)) for i in range(256)], np.int8
)


class RawBits:
    """Random bytes of one tensor: PCG64's raw output, which numpy promises never to change."""

    def __init__(self, seed: int, name: str) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))

    def take(self, n_bytes: int) -> Bytes:
        raw = self._bits.random_raw(-(-n_bytes // 8))
        return np.asarray(raw).astype("<u8").view(np.uint8)[:n_bytes]


def shared_direction(seed: int, width: int) -> Codes:
    """Return the signs b, shape (width,), that all embeddings share."""
    return np.where(RawBits(seed, "direction").take(width) & 1, 1, -1).astype(np.int8)


def _chunks(n_rows: int, k: int) -> Iterator[int]:
    step = max(1, CHUNK_WEIGHTS // k)
    for begin in range(0, n_rows, step):
        yield min(step, n_rows - begin)


def ternary_rows(seed: int, name: str, n_rows: int, k: int) -> Iterator[Codes]:
    """Give the codes of a matrix in chunks of rows, each (n, k)."""
    bits = RawBits(seed, name)
    for n in _chunks(n_rows, k):
        yield _CODES[bits.take(n * k)].reshape(n, k)


def gate_rows(
    seed: int, name: str, n_rows: int, k: int, dead: float, beta: float
) -> Iterator[Codes]:
    """Give the codes of a gate whose neurons are dead in a share `dead` of cases on average."""
    bits = RawBits(seed, name + ".aligned")
    z = NormalDist().inv_cdf(min(max(dead, 1e-3), 1 - 1e-3))
    rho = min(1.0, abs(z) / (math.sqrt(k * 2 * _SIGNS / 256) * beta))
    signs = shared_direction(seed, k) * np.int8(-1 if z > 0 else 1)
    for codes in ternary_rows(seed, name, n_rows, k):
        drawn = bits.take(2 * codes.size).view("<u2").reshape(codes.shape)
        yield np.where(drawn < rho * 65536, signs * np.abs(codes), codes)


def embedding_rows(seed: int, n_rows: int, k: int) -> Iterator[Codes]:
    """Give the embedding in steps of `EMBEDDING_STEP`, chunks of (n, k)."""
    bits, fixed = RawBits(seed, "token_embd"), SIGMA * shared_direction(seed, k)
    for n in _chunks(n_rows, k):
        yield _BELL[bits.take(n * k)].reshape(n, k) + fixed


def _packed(rows: Iterable[Codes], kind: BlockType, step: float) -> Iterator[Bytes]:
    for codes in rows:
        yield np.ascontiguousarray(kind.pack(codes, step)).reshape(-1)
    if kind.tail_bytes:  # I2_S: the scale stands behind the codes
        tail = np.zeros(kind.tail_bytes // 4, "<f4")
        tail[0] = step
        yield tail.view(np.uint8)


def _scale(shape: Shape, stem: str, k: int) -> float:
    """Return a scale that half precision holds, since TQ1_0 and TQ2_0 store halves."""
    adds = stem in ("attn_output", "ffn_down")
    variance = k * 2 * _SIGNS / 256 * (2 * shape.n_layers if adds else 1)
    return float(np.float16(1 / math.sqrt(variance)))


def _beta(shape: Shape, layer: int) -> float:
    """Return how much of the normalised stream is b in front of a layer's feed-forward."""
    added = (2 * layer + 1) / (2 * shape.n_layers) if shape.sub_norms else 0.0
    return 1 / math.sqrt(2 + added)


def _ones(n: int) -> Iterator[Bytes]:
    yield np.ones(n, "<f4").view(np.uint8)


def _tensors(
    shape: Shape, kind: BlockType, head: BlockType, seed: int, dead: float | None
) -> Iterator[Tensor]:
    dims = (shape.n_vocab, shape.width)
    rows = partial(embedding_rows, seed, *dims)
    n_bytes = head.n_bytes(shape.n_vocab, shape.width)
    yield Tensor(
        "token_embd.weight",
        head.type_id,
        dims,
        n_bytes,
        lambda: _packed(rows(), head, EMBEDDING_STEP),
    )
    yield _norm("output_norm.weight", shape.width)
    for layer in range(shape.n_layers):
        for stem, n in shape.norms().items():
            yield _norm(f"blk.{layer}.{stem}.weight", n)
        for stem, (n_rows, k) in shape.matrices().items():
            name = f"blk.{layer}.{stem}.weight"
            make = partial(ternary_rows, seed, name, n_rows, k)
            if stem == "ffn_gate" and dead is not None:
                make = partial(gate_rows, seed, name, n_rows, k, dead, _beta(shape, layer))
            yield _matrix(name, kind, n_rows, k, make, _scale(shape, stem, k))


def _norm(name: str, n: int) -> Tensor:
    return Tensor(name, 0, (n,), 4 * n, partial(_ones, n))


def _matrix(
    name: str, kind: BlockType, n_rows: int, k: int, make: partial[Iterator[Codes]], step: float
) -> Tensor:
    n_bytes = kind.n_bytes(n_rows, k)
    return Tensor(name, kind.type_id, (n_rows, k), n_bytes, lambda: _packed(make(), kind, step))


def make_model(
    path: Path,
    shape: Shape,
    kind: str,
    *,
    head: str = "f16",
    dead_gates: float | None = None,
    seed: int = 1,
    architecture: str | None = None,
) -> int:
    """Write a model and return its size in bytes.

    Parameters
    ----------
    path : Path
    shape : Shape
    kind : {"i2_s", "tq1_0", "tq2_0", "iq2_bn", "q8_0", "q4_0"}
        Type of the layers' matrices, whose numbers are ternary in any case.
    head : {"f16", "q8_0", "q6_k", "q4_0"}
        Type of the embedding, which is the head too.
    dead_gates : float, optional
        Share of squared-ReLU gates that are zero, between 0 and 1.
    seed : int
    architecture : str, optional
        ``general.architecture``; by default the name by which the engine that the type belongs to
        knows the graph: bitnet.cpp (I2_S) and ik_llama.cpp (IQ2_BN) say ``bitnet-b1.58`` where
        llama.cpp says ``bitnet``.

    Raises
    ------
    ValueError
        Dead gates are wanted where there are none, sizes do not fit the types' blocks, or a number
        is out of range.
    UsageError, OSError
        The file cannot be written; nothing of it stays.
    """
    if dead_gates is not None and (shape.activation != "relu2" or not 0 <= dead_gates <= 1):
        raise ValueError("dead gates need a squared ReLU and a share between 0 and 1")
    if any(k % 256 for _, k in shape.matrices().values()):
        raise ValueError("all rows must be multiples of 256 long")
    if not 1 <= shape.n_layers <= MAX_LAYERS or seed < 0:
        raise ValueError(f"a model has 1 to {MAX_LAYERS} layers, and seeds are not negative")
    require_writable(path)
    if architecture is None:
        released = shape.activation == "relu2" and kind in ("i2_s", "iq2_bn")
        architecture = "bitnet-b1.58" if released else "bitnet" if shape.sub_norms else "llama"
    layers = TYPES[kind]
    name = f"random {path.stem}"
    tensors = list(_tensors(shape, layers, HEADS[head], seed, dead_gates))
    return write_gguf(path, metadata(shape, architecture, name, layers.file_type), tensors)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--type", choices=TYPES, required=True)
    parser.add_argument("--head", choices=HEADS, default="f16", help="default: f16")
    parser.add_argument(
        "--dead-gates",
        type=float,
        metavar="SHARE",
        help="squared-ReLU gates that are zero, 0 to 1 (default: none made so, which is half)",
    )
    parser.add_argument("--layers", type=int, metavar="N", help="instead of the shape's own")
    parser.add_argument("--architecture", help="general.architecture, if not the usual one")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    o = parser.parse_args(arguments)
    shape = SHAPES[o.shape]
    if o.layers is not None:
        shape = replace(shape, n_layers=o.layers)
    try:
        n_bytes = make_model(
            o.out,
            shape,
            o.type,
            head=o.head,
            dead_gates=o.dead_gates,
            seed=o.seed,
            architecture=o.architecture or None,
        )
    except (ValueError, UsageError) as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(f"make_model: {o.out}: cannot be written ({error.strerror})")
    print(f"{o.out}: {n_bytes / 1e6:.1f} MB, sizes of {shape.source}")


if __name__ == "__main__":
    main()
