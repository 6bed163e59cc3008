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

GATES = {"bitnet-b1.58": "relu2", "gemma3": "gelu"}
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
    gate: str  # silu, relu2, relu, fatrelu, shiftrelu or gelu
    names: frozenset[str]
    matrix: Callable[[str], tuple[np.ndarray, bool]]
    divisors: np.ndarray | None = None
    embed_scale: float = 1.0
    attention_scale: float | None = None
    window: int = 0
    period: int = 0  # every such layer sees everything
    local_theta: float | None = None
    used: int = 0  # experts of a token
    normalize: bool = True
    threshold: float = 0.0  # of fatrelu and shiftrelu

    def is_local(self, layer: int) -> bool:
        return bool(self.window) and not (self.period and layer % self.period == self.period - 1)

    def inverse_frequencies(self, local: bool = False) -> np.ndarray:
        other = local and self.local_theta is not None
        theta = self.local_theta if other else self.theta
        plain = 1.0 / theta ** (np.arange(0, self.rope_dim, 2) / self.rope_dim)
        return plain if self.divisors is None or other else plain / self.divisors


def from_gguf(path: Path) -> Net:
    reader = gguf.GGUFReader(path)

    def key(name: str, default: Any = None) -> Any:
        found = reader.get_field(name)
        return default if found is None else found.contents()

    a = key("general.architecture")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = {name.replace("_exps.", ".0.") for name in tensors}
    heads = key(f"{a}.attention.head_count")
    width = key(f"{a}.embedding_length")
    head_dim = key(f"{a}.attention.key_length", width // heads)

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        stem, number = _expert(name)
        tensor = tensors[name if number is None else f"{stem}_exps.weight"]
        data = tensor.data if number is None else tensor.data[number]
        values = gguf.dequantize(data, tensor.tensor_type).astype(np.float32)
        return values, tensor.tensor_type in TERNARY

    rope_dim = key(f"{a}.rope.dimension_count", head_dim)
    divisors = None
    if key(f"{a}.rope.scaling.type") == "linear":
        divisors = np.full(rope_dim // 2, float(key(f"{a}.rope.scaling.factor")))
    if "rope_freqs.weight" in tensors:
        divisors = matrix("rope_freqs.weight")[0].astype(np.float64)
    return Net(
        layers=key(f"{a}.block_count"),
        width=width,
        heads=heads,
        kv_heads=key(f"{a}.attention.head_count_kv"),
        head_dim=head_dim,
        rope_dim=rope_dim,
        theta=key(f"{a}.rope.freq_base"),
        eps=key(f"{a}.attention.layer_norm_rms_epsilon"),
        neighbours=a == "llama",
        gate=key(f"{a}.hidden_activation", GATES.get(a, "silu")),
        names=frozenset(names),
        matrix=matrix,
        divisors=divisors,
        embed_scale=width**0.5 if a == "gemma3" else 1.0,
        attention_scale=key(f"{a}.attention.scale"),
        window=key(f"{a}.attention.sliding_window", 0),
        period=key(f"{a}.attention.sliding_window_pattern", 0),
        local_theta=10_000.0 if a == "gemma3" else None,
        used=key(f"{a}.expert_used_count", 0),
        normalize=a != "qwen2moe",
        threshold=key(f"{a}.hidden_activation_param", 0.0),
    )


def _expert(name: str) -> tuple[str, int | None]:
    """Split ``blk.0.ffn_up.3.weight`` into ``blk.0.ffn_up`` and 3; other names have no number."""
    parts = name.split(".")
    return (".".join(parts[:3]), int(parts[3])) if len(parts) == 5 else (name, None)


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
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_QWEN_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_MIXTRAL = {"ffn_gate_inp": "block_sparse_moe.gate"}
for _number in range(7):
    for _stem, _qwen, _mixtral in (
        ("ffn_gate", "gate_proj", "w1"),
        ("ffn_up", "up_proj", "w3"),
        ("ffn_down", "down_proj", "w2"),
    ):
        _QWEN_EXPERTS[f"{_stem}.{_number}"] = f"mlp.experts.{_number}.{_qwen}"
        _MIXTRAL[f"{_stem}.{_number}"] = f"block_sparse_moe.experts.{_number}.{_mixtral}"
_GEMMA3_MODULES = _MODULES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
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
    gemma = config["model_type"] == "gemma3_text"
    modules = _GEMMA3_MODULES if gemma else _MODULES | _QWEN_EXPERTS
    modules = _MODULES | _MIXTRAL if config["model_type"] == "mixtral" else modules
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in modules.items():
            for kind in ("weight", "bias"):
                name = f"model.layers.{layer}.{theirs}.{kind}"
                if name in raw:
                    names[f"blk.{layer}.{ours}.{kind}"] = name

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        stored = raw[names[name]]
        if gemma and name.endswith("norm.weight"):
            return 1 + stored.astype(np.float32), False
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
        gate="gelu" if gemma else config["hidden_act"],
        names=frozenset(names),
        matrix=matrix,
    )
    if gemma:
        net.embed_scale = net.width**0.5
        net.attention_scale = config["query_pre_attn_scalar"] ** -0.5
        net.window, net.period = config["sliding_window"], config["sliding_window_pattern"]
        net.local_theta = config["rope_local_base_freq"]
        net.divisors = np.full(head_dim // 2, config["rope_scaling"]["factor"])
    elif "rope_scaling" in config:
        net.divisors = _llama3_divisors(net.inverse_frequencies(), config["rope_scaling"])
    net.used = config.get("num_experts_per_tok", 0)
    net.normalize = config.get("norm_topk_prob", True)
    net.threshold = config.get("hidden_act_param", 0.0)
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
    x = net.matrix("token_embd.weight")[0][ids].astype(dtype) * dtype(net.embed_scale)
    for layer in range(net.layers):
        blk = f"blk.{layer}."
        h = _norm(net, x, blk + "attn_norm.weight", dtype)
        q, k, v = (_linear(net, h, blk + stem, dtype) for stem in ("attn_q", "attn_k", "attn_v"))
        parts = zip(*(np.split(a, cuts) for a in (q, k, v)), strict=True)
        mixed = np.concatenate([_attend(net, layer, *part, dtype, half_cache) for part in parts])
        if blk + "attn_sub_norm.weight" in net.names:
            mixed = _norm(net, mixed, blk + "attn_sub_norm.weight", dtype)
        x = x + _post(net, _linear(net, mixed, blk + "attn_output", dtype), blk, "attention")
        h = _norm(net, x, blk + "ffn_norm.weight", dtype)
        if blk + "ffn_gate_inp.weight" in net.names:
            x = x + _mixture(net, h, blk, dtype)
            continue
        gate, up = (_linear(net, h, blk + stem, dtype) for stem in ("ffn_gate", "ffn_up"))
        hidden = _activation(net, gate) * up
        if blk + "ffn_sub_norm.weight" in net.names:
            hidden = _norm(net, hidden, blk + "ffn_sub_norm.weight", dtype)
        x = x + _post(net, _linear(net, hidden, blk + "ffn_down", dtype), blk, "ffw")
    x = _norm(net, x, "output_norm.weight", dtype)
    head = "output" if "output.weight" in net.names else "token_embd"
    return np.split(_linear(net, x, head, dtype), cuts)


def _mixture(net: Net, h: np.ndarray, blk: str, dtype: type) -> np.ndarray:
    """Let each token use its best experts, and the shared one if there is one."""

    def feed_forward(rows: np.ndarray, suffix: str) -> np.ndarray:
        gate, up = (
            _linear(net, rows, f"{blk}ffn_{stem}{suffix}", dtype) for stem in ("gate", "up")
        )
        return _linear(net, _activation(net, gate) * up, f"{blk}ffn_down{suffix}", dtype)

    scores = _linear(net, h, blk + "ffn_gate_inp", dtype)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = powers / powers.sum(axis=1, keepdims=True)
    out = np.zeros_like(h)
    best = np.argsort(-scores, axis=1)[:, : net.used]
    for token, row in enumerate(best):
        total = weights[token, row].sum() if net.normalize else dtype(1)
        for number in row:
            y = feed_forward(h[token : token + 1], f".{number}")[0]
            out[token] += y * (weights[token, number] / total)
    if blk + "ffn_up_shexp.weight" in net.names:
        share = 1 / (1 + np.exp(-_linear(net, h, blk + "ffn_gate_inp_shexp", dtype)))
        out += feed_forward(h, "_shexp") * share.reshape(-1, 1)
    return out


def _activation(net: Net, x: np.ndarray) -> np.ndarray:
    if net.gate in ("relu", "relu2"):
        return np.maximum(x, 0) ** (2 if net.gate == "relu2" else 1)
    if net.gate == "fatrelu":  # ProSparse: x stays from the threshold on
        return np.where(x >= net.threshold, x, 0)
    if net.gate == "shiftrelu":
        return np.maximum(x - x.dtype.type(net.threshold), 0)
    if net.gate == "silu":
        return x / (1 + np.exp(-x))
    inner = np.sqrt(2 / np.pi).astype(x.dtype) * (x + x.dtype.type(0.044715) * x**3)
    return x * (1 + np.tanh(inner)) / 2


def _post(net: Net, x: np.ndarray, blk: str, stem: str) -> np.ndarray:
    name = f"{blk}post_{stem}_norm.weight"
    return _norm(net, x, name, x.dtype.type) if name in net.names else x


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
    net: Net, layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray, dtype: type, half_cache: bool
) -> np.ndarray:
    n = len(q)
    local = net.is_local(layer)
    q, k = q.reshape(n, net.heads, net.head_dim), k.reshape(n, net.kv_heads, net.head_dim)
    if f"blk.{layer}.attn_q_norm.weight" in net.names:
        q = _norm(net, q, f"blk.{layer}.attn_q_norm.weight", dtype)
        k = _norm(net, k, f"blk.{layer}.attn_k_norm.weight", dtype)
    q, k = _rotate(net, q, dtype, local), _rotate(net, k, dtype, local)
    v = v.reshape(n, net.kv_heads, net.head_dim)
    if half_cache:
        k, v = k.astype(np.float16).astype(dtype), v.astype(np.float16).astype(dtype)
    out = np.empty_like(q)
    hidden = np.triu(np.ones((n, n), bool), 1)
    if local:
        hidden |= np.tril(np.ones((n, n), bool), -net.window)
    scale = dtype(net.attention_scale or net.head_dim**-0.5)
    for head in range(net.heads):
        source = head // (net.heads // net.kv_heads)
        scores = q[:, head] @ k[:, source].T * scale
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ v[:, source]
    return out.reshape(n, -1)


def _rotate(net: Net, x: np.ndarray, dtype: type, local: bool) -> np.ndarray:
    """Multiply pairs, seen as complex numbers, by unit numbers."""
    half = net.rope_dim // 2
    angles = np.arange(len(x))[:, None] * net.inverse_frequencies(local)
    turn = np.exp(1j * angles)[:, None, :]
    out = x.astype(dtype).copy()
    if net.neighbours:
        first, second = slice(0, net.rope_dim, 2), slice(1, net.rope_dim, 2)
    else:
        first, second = slice(0, half), slice(half, net.rope_dim)
    turned = (x[..., first] + 1j * x[..., second]) * turn
    out[..., first], out[..., second] = turned.real, turned.imag
    return out
