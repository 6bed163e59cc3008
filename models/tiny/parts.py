"""What the tiny models are made of: random arrays, a vocabulary, sizes and names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

N_VOCAB = 300
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class Source:
    """Reproducible random arrays."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def bell(self, *shape: int) -> np.ndarray:
        """Sums of four 12-bit integers, scaled to unit variance; exact in float32."""
        sums = self._random.randint(0, 4096, (4, *shape)).sum(axis=0) - 2 * 4095
        return (sums / 2364.0).astype(np.float32)

    def codes(self, n_rows: int, k: int) -> np.ndarray:
        """Give -1, 0 and 1; two in five are zero."""
        return self._random.choice(np.array([-1, 0, 0, 1, -1, 0, 0, 1, -1, 1]), (n_rows, k))

    def norm(self, n: int) -> np.ndarray:
        """Give norm weights between 0.5 and 1.5, exact in bfloat16."""
        return (self._random.randint(64, 192, n) / 128).astype(np.float32)

    def raw(self, *shape: int) -> np.ndarray:
        """Give random bytes."""
        return self._random.randint(0, 256, shape).astype(np.uint8)


def vocabulary() -> tuple[list[str], list[str]]:
    """Return tokens of a byte-level BPE and its merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = dict(zip(printable, map(chr, printable), strict=True))
    alphabet |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [*CONTROL, *(alphabet[byte] for byte in range(256))]
    merges = []
    space = alphabet[32]
    pairs = ("th", "he", "in", "er", "an", "re", "on", "at", "en", "nd")
    pairs += ("es", "or", "te", "of", "ed", "is", "it", "al", "ar", "st")
    for left, right in [*pairs, *((space, letter) for letter in "taoiswcbpfmdhnler")]:
        merges.append(f"{left} {right}")
        tokens.append(left + right)
    tokens += [f"<|unused_{i}|>" for i in range(N_VOCAB - len(tokens))]
    return tokens, merges


def shapes(s: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the seven projections of a layer, (n_rows, k)."""
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    width, ff = s["width"], s["ff"]
    return {
        "attn_q": (q, width),
        "attn_k": (kv, width),
        "attn_v": (kv, width),
        "attn_output": (width, q),
        "ffn_gate": (ff, width),
        "ffn_up": (ff, width),
        "ffn_down": (width, ff),
    }


def ternary_layers(source: Source, sizes: Mapping[str, int]) -> dict[str, tuple]:
    """Return name -> (codes, scale) of every projection; scales are exact in bfloat16."""
    layers = {}
    for layer in range(sizes["layers"]):
        for stem, (n_rows, k) in shapes(sizes).items():
            gain = 1.0 if stem != "ffn_down" else 0.75
            scale = round(256 * gain / np.sqrt(0.6 * k) * (1 + layer / 8)) / 256
            layers[f"blk.{layer}.{stem}.weight"] = (source.codes(n_rows, k), scale)
    return layers


def bitnet_norms(source: Source, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    norms = {"output_norm.weight": source.norm(sizes["width"])}
    q_dim = sizes["heads"] * sizes["head_dim"]
    for layer in range(sizes["layers"]):
        norms[f"blk.{layer}.attn_norm.weight"] = source.norm(sizes["width"])
        norms[f"blk.{layer}.attn_sub_norm.weight"] = source.norm(q_dim)
        norms[f"blk.{layer}.ffn_norm.weight"] = source.norm(sizes["width"])
        norms[f"blk.{layer}.ffn_sub_norm.weight"] = source.norm(sizes["ff"])
    return norms


def bitnet_parts(seed: int, sizes: Mapping[str, int]) -> tuple[np.ndarray, dict, dict]:
    source = Source(seed)
    embedding = source.bell(N_VOCAB, sizes["width"])
    return embedding, ternary_layers(source, sizes), bitnet_norms(source, sizes)


BITNET = {"width": 256, "ff": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 64}
SMALL_BITNET = {"width": 128, "ff": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32}
QWEN = {"width": 48, "ff": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 24}
GEMMA3 = QWEN | {"heads": 4, "kv_heads": 1, "layers": 3, "window": 8, "period": 3}


MIXTRAL = QWEN | {"experts": 6, "used": 2}
QWEN2MOE = QWEN | {"experts": 6, "used": 2, "expert_ff": 32, "shared_ff": 64}
QWEN3MOE = QWEN | {"experts": 7, "used": 3, "expert_ff": 32}
MOE_BLOCKS = {"width": 64, "ff": 96, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32}
MOE_BLOCKS |= {"experts": 5, "used": 3, "expert_ff": 64, "shared_ff": 96}
MOE_TERNARY = {"width": 256, "ff": 256, "layers": 1, "heads": 4, "kv_heads": 1, "head_dim": 64}
MOE_TERNARY |= {"experts": 4, "used": 2}


def moe_shapes(s: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the matrices of a layer with experts: stacked ones are (n_experts, n_rows, k)."""
    found: dict[str, tuple[int, ...]] = {
        stem: shape for stem, shape in shapes(s).items() if stem.startswith("attn")
    }
    width, n, ff = s["width"], s["experts"], s.get("expert_ff", s["ff"])
    found |= {"ffn_gate_inp": (n, width), "ffn_gate_exps": (n, ff, width)}
    found |= {"ffn_up_exps": (n, ff, width), "ffn_down_exps": (n, width, ff)}
    if "shared_ff" in s:
        ff = s["shared_ff"]
        found |= {"ffn_gate_inp_shexp": (width,), "ffn_gate_shexp": (ff, width)}
        found |= {"ffn_up_shexp": (ff, width), "ffn_down_shexp": (width, ff)}
    return found


def moe_parts(family: str, seed: int, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return every tensor of a `mixtral`, `qwen2moe` or `qwen3moe`, by GGUF name, in float32.

    Layers named by ``dense`` have a plain feed-forward. Routers are large, so that experts differ
    clearly.
    """
    source = Source(seed)
    width = sizes["width"]
    parts = {"token_embd.weight": source.bell(N_VOCAB, width)}
    parts["output.weight"] = source.bell(N_VOCAB, width) / np.float32(np.sqrt(width))
    parts["output_norm.weight"] = source.norm(width)
    for layer in range(sizes["layers"]):
        blk = f"blk.{layer}"
        norms = {"attn_norm": width, "ffn_norm": width}
        if family == "qwen3moe":
            norms |= {"attn_q_norm": sizes["head_dim"], "attn_k_norm": sizes["head_dim"]}
        parts |= {f"{blk}.{stem}.weight": source.norm(n) for stem, n in norms.items()}
        is_dense = layer == sizes.get("dense", -1)
        for stem, shape in (shapes if is_dense else moe_shapes)(sizes).items():
            gain = np.float32((4 if stem == "ffn_gate_inp" else 1) / np.sqrt(shape[-1]))
            parts[f"{blk}.{stem}.weight"] = source.bell(*shape) * gain
            if family == "qwen2moe" and stem in ("attn_q", "attn_k", "attn_v"):
                parts[f"{blk}.{stem}.bias"] = source.bell(shape[0]) / 4
    return parts


def family_parts(family: str, seed: int, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return every tensor of a `qwen2`, `qwen3` or `gemma3`, by GGUF name, in float32.

    Norm weights are factors (GGUF's meaning in every family).
    """
    source = Source(seed)
    width = sizes["width"]
    parts = {"token_embd.weight": source.bell(N_VOCAB, width)}
    if family == "qwen2":
        parts["output.weight"] = source.bell(N_VOCAB, width) / np.float32(np.sqrt(width))
    parts["output_norm.weight"] = source.norm(width)
    norms = {"attn_norm": width, "ffn_norm": width}
    if family != "qwen2":
        norms |= {"attn_q_norm": sizes["head_dim"], "attn_k_norm": sizes["head_dim"]}
    if family == "gemma3":
        norms |= {"post_attention_norm": width, "post_ffw_norm": width}
    for layer in range(sizes["layers"]):
        blk = f"blk.{layer}"
        parts |= {f"{blk}.{stem}.weight": source.norm(n) for stem, n in norms.items()}
        for stem, (n_rows, k) in shapes(sizes).items():
            parts[f"{blk}.{stem}.weight"] = source.bell(n_rows, k) / np.float32(np.sqrt(k))
            if family == "qwen2" and stem in ("attn_q", "attn_k", "attn_v"):
                parts[f"{blk}.{stem}.bias"] = source.bell(n_rows) / 4
    return parts
