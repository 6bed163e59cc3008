"""A decoder in plain numpy that shares no code with the engine.

Weights come from the `gguf` and `safetensors` packages; the arithmetic is the textbook's, in the
float type asked for. Only the three rules that define these models' numbers are written a second
time: int8 activations in front of ternary weights, the half-precision cache, the rotary scalings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import safe_open

TERNARY = (gguf.GGMLQuantizationType.TQ1_0, gguf.GGMLQuantizationType.TQ2_0)


@dataclass
class Net:
    """Sizes, rules and a way to get a matrix as float32 (and whether it is ternary)."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    theta: float
    eps: float
    neighbours: bool  # which elements rotate together
    relu2: bool
    relu: bool
    names: frozenset[str]
    matrix: Callable[[str], tuple[np.ndarray, bool]]
    divisors: np.ndarray | None = None

    def inverse_frequencies(self) -> np.ndarray:
        plain = 1.0 / self.theta ** (np.arange(0, self.rope_dim, 2) / self.rope_dim)
        return plain if self.divisors is None else plain / self.divisors


def from_gguf(path: Path) -> Net:
    reader = gguf.GGUFReader(path)

    def key(name: str, default: Any = None) -> Any:
        found = reader.get_field(name)
        return default if found is None else found.contents()

    a = key("general.architecture")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads = key(f"{a}.attention.head_count")
    head_dim = key(f"{a}.attention.key_length", key(f"{a}.embedding_length") // heads)

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        tensor = tensors[name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        return values, tensor.tensor_type in TERNARY

    rope_dim = key(f"{a}.rope.dimension_count", head_dim)
    divisors = None
    if key(f"{a}.rope.scaling.type") == "linear":
        divisors = np.full(rope_dim // 2, float(key(f"{a}.rope.scaling.factor")))
    if "rope_freqs.weight" in tensors:
        divisors = matrix("rope_freqs.weight")[0].astype(np.float64)
    return Net(
        layers=key(f"{a}.block_count"),
        width=key(f"{a}.embedding_length"),
        heads=heads,
        kv_heads=key(f"{a}.attention.head_count_kv"),
        head_dim=head_dim,
        rope_dim=rope_dim,
        theta=key(f"{a}.rope.freq_base"),
        eps=key(f"{a}.attention.layer_norm_rms_epsilon"),
        neighbours=a == "llama",
        relu2=a == "bitnet-b1.58",
        relu=key(f"{a}.hidden_activation") == "relu",
        names=frozenset(tensors),
        matrix=matrix,
        divisors=divisors,
    )


_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}


def from_folder(folder: Path) -> Net:
    config = json.loads((folder / "config.json").read_text())
    raw = _safetensors(folder / "model.safetensors")
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    if "lm_head.weight" in raw:
        names["output.weight"] = "lm_head.weight"
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in _MODULES.items():
            name = f"model.layers.{layer}.{theirs}.weight"
            if name in raw:
                names[f"blk.{layer}.{ours}.weight"] = name

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        stored = raw[names[name]]
        if stored.dtype != np.uint8:
            return stored.astype(np.float32), False
        codes = np.concatenate([(stored >> shift) & 3 for shift in (0, 2, 4, 6)]).astype(np.float32)
        return (codes - 1) * raw[names[name] + "_scale"].astype(np.float32), True

    head_dim = config["head_dim"]
    net = Net(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=head_dim,
        rope_dim=head_dim,
        theta=config["rope_theta"],
        eps=config["rms_norm_eps"],
        neighbours=False,
        relu2=config["hidden_act"] == "relu2",
        relu=config["hidden_act"] == "relu",
        names=frozenset(names),
        matrix=matrix,
    )
    if "rope_scaling" in config:
        net.divisors = _llama3_divisors(net.inverse_frequencies(), config["rope_scaling"])
    return net


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a file; numpy has no bfloat16, so those come from the bytes by their offsets."""
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    tensors = {}
    with safe_open(path, "numpy") as file:
        for name, entry in json.loads(raw[8 : 8 + n]).items():
            if entry["dtype"] != "BF16":
                tensors[name] = file.get_tensor(name)
                continue
            begin, end = (8 + n + at for at in entry["data_offsets"])
            halves = np.frombuffer(raw[begin:end], "<u2").astype("<u4") << 16
            tensors[name] = halves.view("<f4").reshape(entry["shape"])
    return tensors


def _llama3_divisors(frequencies: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    """Stretch long waves by the factor, keep short ones, blend between (Llama 3.1)."""
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    out = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        if wavelength < original / high:
            out.append(1.0)
        elif wavelength > original / low:
            out.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append(1.0 / ((1 - smooth) / factor + smooth))
    return np.array(out)


def load(path: Path) -> Net:
    return from_folder(path) if path.is_dir() else from_gguf(path)


def logits(
    net: Net, prompts: Sequence[Sequence[int]], dtype: type = np.float64, *, half_cache: bool = True
) -> list[np.ndarray]:
    """Compute the logits at every position of each prompt; every matrix is decoded once."""
    cuts = np.cumsum([len(p) for p in prompts])[:-1]
    ids = np.concatenate([np.asarray(p) for p in prompts])
    x = net.matrix("token_embd.weight")[0][ids].astype(dtype)
    for layer in range(net.layers):
        blk = f"blk.{layer}."
        h = _norm(net, x, blk + "attn_norm.weight", dtype)
        q, k, v = (_linear(net, h, blk + stem, dtype) for stem in ("attn_q", "attn_k", "attn_v"))
        parts = zip(*(np.split(a, cuts) for a in (q, k, v)), strict=True)
        mixed = np.concatenate([_attend(net, *part, dtype, half_cache) for part in parts])
        if blk + "attn_sub_norm.weight" in net.names:
            mixed = _norm(net, mixed, blk + "attn_sub_norm.weight", dtype)
        x = x + _linear(net, mixed, blk + "attn_output", dtype)
        h = _norm(net, x, blk + "ffn_norm.weight", dtype)
        gate, up = (_linear(net, h, blk + stem, dtype) for stem in ("ffn_gate", "ffn_up"))
        if net.relu2 or net.relu:
            hidden = np.maximum(gate, 0) ** (2 if net.relu2 else 1) * up
        else:
            hidden = gate / (1 + np.exp(-gate)) * up
        if blk + "ffn_sub_norm.weight" in net.names:
            hidden = _norm(net, hidden, blk + "ffn_sub_norm.weight", dtype)
        x = x + _linear(net, hidden, blk + "ffn_down", dtype)
    x = _norm(net, x, "output_norm.weight", dtype)
    head = "output" if "output.weight" in net.names else "token_embd"
    return np.split(_linear(net, x, head, dtype), cuts)


def _norm(net: Net, x: np.ndarray, name: str, dtype: type) -> np.ndarray:
    mean = (x * x).mean(axis=-1, keepdims=True)
    return x / np.sqrt(mean + dtype(net.eps)) * net.matrix(name)[0].astype(dtype)


def _linear(net: Net, x: np.ndarray, stem: str, dtype: type) -> np.ndarray:
    weight, ternary = net.matrix(f"{stem}.weight")
    if ternary:
        s = dtype(127) / np.maximum(np.abs(x).max(axis=-1, keepdims=True), dtype(1e-5))
        x = np.clip(np.rint(x * s), -128, 127) / s
    y = x @ weight.T.astype(dtype)
    if f"{stem}.bias" in net.names:
        y = y + net.matrix(f"{stem}.bias")[0].astype(dtype)
    return y


def _attend(
    net: Net, q: np.ndarray, k: np.ndarray, v: np.ndarray, dtype: type, half_cache: bool
) -> np.ndarray:
    n = len(q)
    q = _rotate(net, q.reshape(n, net.heads, net.head_dim), dtype)
    k = _rotate(net, k.reshape(n, net.kv_heads, net.head_dim), dtype)
    v = v.reshape(n, net.kv_heads, net.head_dim)
    if half_cache:
        k, v = k.astype(np.float16).astype(dtype), v.astype(np.float16).astype(dtype)
    out = np.empty_like(q)
    future = np.triu(np.ones((n, n), bool), 1)
    for head in range(net.heads):
        source = head // (net.heads // net.kv_heads)
        scores = q[:, head] @ k[:, source].T / dtype(np.sqrt(net.head_dim))
        scores[future] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ v[:, source]
    return out.reshape(n, -1)


def _rotate(net: Net, x: np.ndarray, dtype: type) -> np.ndarray:
    """Multiply pairs, seen as complex numbers, by unit numbers."""
    half = net.rope_dim // 2
    angles = np.arange(len(x))[:, None] * net.inverse_frequencies()
    turn = np.exp(1j * angles)[:, None, :]
    out = x.astype(dtype).copy()
    if net.neighbours:
        first, second = slice(0, net.rope_dim, 2), slice(1, net.rope_dim, 2)
    else:
        first, second = slice(0, half), slice(half, net.rope_dim)
    turned = (x[..., first] + 1j * x[..., second]) * turn
    out[..., first], out[..., second] = turned.real, turned.imag
    return out
