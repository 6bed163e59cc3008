"""Folders as AutoGPTQ, AutoAWQ and compressed-tensors write them, from known codes.

Packing goes through Python integers of any size: one stream of bits, written the slow way.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

N_VOCAB, WIDTH, FF, HEADS, KV_HEADS, HEAD_DIM = 40, 64, 96, 4, 2, 16
SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, WIDTH),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, WIDTH),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, WIDTH),
    "self_attn.o_proj": (WIDTH, HEADS * HEAD_DIM),
    "mlp.gate_proj": (FF, WIDTH),
    "mlp.up_proj": (FF, WIDTH),
    "mlp.down_proj": (WIDTH, FF),
}
GGUF = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass
class Matrix:
    """Unsigned codes (R, C), zero points and steps (R, G), group of each column."""

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray

    def values(self) -> np.ndarray:
        zeros, scales = self.zeros[:, self.groups], self.scales.astype("f4")[:, self.groups]
        return scales * (self.codes - zeros).astype("f4")


def random_matrix(
    rng: np.random.RandomState,
    shape: tuple[int, int],
    bits: int,
    group: int,
    *,
    symmetric: bool,
    act_order: bool = False,
    lowest_zero: int = 0,
    groups: np.ndarray | None = None,
) -> Matrix:
    n_rows, k = shape
    group = k if group == -1 else group
    n_groups = -(-k // group)
    if groups is None:
        groups = np.arange(k) // group
    if act_order:
        groups = rng.permutation(groups)
    codes = rng.randint(0, 1 << bits, shape)
    middle = np.full((n_rows, n_groups), 1 << (bits - 1))
    zeros = middle if symmetric else rng.randint(lowest_zero, 1 << bits, (n_rows, n_groups))
    scales = (rng.randint(1, 2000, (n_rows, n_groups)) / 2**bits / 8000).astype("f2")
    return Matrix(codes, zeros, scales, groups)


def words_of(values: Iterable[int], bits: int, per_word: int = 0) -> list[int]:
    """Write values into 32-bit words; `per_word` of them in each, else a dense stream."""
    values = [int(v) for v in values]
    if per_word:
        lists = [values[i : i + per_word] for i in range(0, len(values), per_word)]
        return [sum(v << (bits * i) for i, v in enumerate(part)) for part in lists]
    stream = sum(v << (bits * i) for i, v in enumerate(values))
    return [stream >> (32 * i) & 0xFFFFFFFF for i in range(-(-len(values) * bits // 32))]


def rows_of_words(rows: np.ndarray, bits: int, per_word: int = 0) -> np.ndarray:
    return np.array([words_of(row, bits, per_word) for row in rows], dtype="<u4").view("<i4")


Parts = dict[str, tuple[str, np.ndarray]]


def gptq(m: Matrix, bits: int, *, plus_one: bool = True) -> Parts:
    stored = (m.zeros - plus_one) & ((1 << bits) - 1)
    return {
        "qweight": ("I32", np.ascontiguousarray(rows_of_words(m.codes, bits).T)),
        "qzeros": ("I32", rows_of_words(stored.T, bits)),
        "scales": ("F16", np.ascontiguousarray(m.scales.T)),
        "g_idx": ("I32", m.groups.astype("<i4")),
    }


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(m: Matrix) -> Parts:
    def pack(outputs: np.ndarray) -> np.ndarray:  # (n, R) in natural order
        slots = outputs.reshape(len(outputs), -1, 8)[..., list(AWQ_ORDER)]
        return rows_of_words(slots.reshape(len(outputs), -1), 4)

    return {
        "qweight": ("I32", pack(m.codes.T)),
        "qzeros": ("I32", pack(m.zeros.T)),
        "scales": ("F16", np.ascontiguousarray(m.scales.T)),
    }


def pack_quantized(m: Matrix, bits: int, *, padded: bool, symmetric: bool) -> Parts:
    per_word = 32 // bits if padded else 0
    parts = {
        "weight_packed": ("I32", rows_of_words(m.codes, bits, per_word)),
        "weight_scale": ("F16", m.scales),
        "weight_shape": ("I64", np.array(m.codes.shape, "<i8")),
    }
    if not symmetric:
        packed = rows_of_words(m.zeros.T, bits, per_word).T
        parts["weight_zero_point"] = ("I32", np.ascontiguousarray(packed))
    return parts


def int_quantized(m: Matrix, *, symmetric: bool) -> Parts:
    parts = {
        "weight": ("I8", (m.codes - 128).astype("i1")),
        "weight_scale": ("F16", m.scales),
    }
    if not symmetric:
        parts["weight_zero_point"] = ("I8", (m.zeros - 128).astype("i1"))
    return parts


@dataclass
class Folder:
    """A model in the making: what will be written, open to damage before it is."""

    config: dict[str, Any]
    tensors: dict[str, tuple[str, np.ndarray]]
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        path.mkdir(exist_ok=True)
        header, body, at = {}, b"", 0
        for name, (dtype, array) in self.tensors.items():
            raw = np.ascontiguousarray(array).tobytes()
            header[name] = {
                "dtype": dtype,
                "shape": list(array.shape),
                "data_offsets": [at, at + len(raw)],
            }
            body, at = body + raw, at + len(raw)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
        (path / "config.json").write_text(json.dumps(self.config))
        return path


def make_folder(
    quantization: dict[str, Any],
    make: Callable[[tuple[int, int]], tuple[Matrix, Parts]],
    **changes: Any,
) -> Folder:
    """Make a one-layer Llama whose seven projections are what `make` gives.

    `changes` are keys of its configuration.
    """
    rng = np.random.RandomState(1)
    config = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": FF,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": N_VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "quantization_config": quantization,
    } | changes
    n_vocab = config["vocab_size"]
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "model.embed_tokens.weight": ("F32", rng.normal(size=(n_vocab, WIDTH)).astype("f4")),
        "model.norm.weight": ("F32", np.ones(WIDTH, "f4")),
    }
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"model.layers.0.{norm}.weight"] = ("F32", np.ones(WIDTH, "f4"))
    folder = Folder(config, tensors)
    for module, shape in SHAPES.items():
        matrix, parts = make(shape)
        folder.values[f"blk.0.{GGUF[module]}.weight"] = matrix.values()
        for suffix, tensor in parts.items():
            tensors[f"model.layers.0.{module}.{suffix}"] = tensor
    return folder
