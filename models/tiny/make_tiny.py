"""Make the small random models of this folder, the same bytes every time.

    python models/tiny/make_tiny.py [FOLDER]

Weights come from integers of a frozen generator (`numpy.random.RandomState`), so no platform's
logarithm or sine can change a bit. Files are written by the `gguf` package; what it cannot write
(I2_S, K-quants, safetensors) is packed here from the formats' byte pictures.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from folders import make_bitnet_folder, make_family_folder, make_llama_folder, make_moe_folder
from gguf import GGMLQuantizationType as Type
from parts import (
    BITNET,
    GEMMA3,
    MIXTRAL,
    MOE_BLOCKS,
    MOE_TERNARY,
    N_VOCAB,
    QWEN,
    QWEN2MOE,
    QWEN3MOE,
    SMALL_BITNET,
    Source,
    bitnet_parts,
    family_parts,
    moe_parts,
    shapes,
    vocabulary,
)

I2_S = 36
"""Id that BitNet's own files use; the `gguf` package no longer knows it."""


def new_writer(path: Path, architecture: str, name: str, **sizes: float) -> gguf.GGUFWriter:
    """Start a file with its sizes and its tokenizer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_context_length(256)
    writer.add_embedding_length(sizes["width"])
    writer.add_block_count(sizes["layers"])
    writer.add_feed_forward_length(sizes["ff"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_key_length(sizes["head_dim"])
    writer.add_value_length(sizes["head_dim"])
    writer.add_rope_dimension_count(sizes.get("rope_dim", sizes["head_dim"]))
    writer.add_rope_freq_base(sizes.get("theta", 10_000.0))
    writer.add_layer_norm_rms_eps(1e-5)
    tokens, merges = vocabulary()
    types = [3 if t.startswith("<|") else 1 for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def k_quant(source: Source, kind: Type, n_rows: int, k: int) -> np.ndarray:
    """Give random blocks of 256 whose values lie around zero with a spread near 1 / sqrt(k)."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = source.raw(n_rows, k // 256, block_bytes)
    step = 1.0 / np.sqrt(k)
    if kind is Type.Q6_K:  # int8 scale times code in [-32, 31]
        blocks[..., 208:210] = np.array([step / 1400], "<f2").view(np.uint8)
    else:  # 6-bit scale times code in [0, 15] or [0, 31], minus 6-bit minimum
        top = 15 if kind is Type.Q4_K else 31
        d = step / (32 * top / 3)
        blocks[..., 0:2] = np.array([d], "<f2").view(np.uint8)
        blocks[..., 2:4] = np.array([d * top / 2], "<f2").view(np.uint8)
    return blocks.reshape(n_rows, -1)


def add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: Type) -> None:
    """Quantise float values with the `gguf` package and add them."""
    writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)


def add_matrix(
    writer: gguf.GGUFWriter, source: Source, name: str, kind: Type, n_rows: int, k: int
) -> None:
    if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        writer.add_tensor(name, k_quant(source, kind, n_rows, k), raw_dtype=kind)
    else:
        gain = np.float32(1.0 if name.startswith("token_embd") else 1.0 / np.sqrt(k))
        add(writer, name, source.bell(n_rows, k) * gain, kind)


def i2_s(codes: np.ndarray, scale: float) -> np.ndarray:
    """Pack runs of 128 codes into 32 bytes, weights j, j + 32, … from the top bits down."""
    lanes = (codes + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = lanes[:, 0] << 6 | lanes[:, 1] << 4 | lanes[:, 2] << 2 | lanes[:, 3]
    tail = np.frombuffer(struct.pack("<8f", *[scale] * 8), np.uint8)
    return np.concatenate([packed.reshape(-1), tail])


def make_bitnet(path: Path, kind: Type | int, embedding_kind: Type, sizes: dict, seed: int) -> None:
    """Write a BitNet b1.58 model; the same seed gives the same weights in every ternary type."""
    embedding, layers, norms = bitnet_parts(seed, sizes)
    writer = new_writer(path, "bitnet-b1.58", path.stem, **sizes, theta=100_000.0)
    add(writer, "token_embd.weight", embedding, embedding_kind)
    for name, values in norms.items():
        writer.add_tensor(name, values)
    for name, (codes, scale) in layers.items():
        if kind == I2_S:
            data = i2_s(codes, scale).view(np.int8)
            writer.add_tensor(name, data, raw_shape=codes.shape, raw_dtype=I2_S)
        else:
            add(writer, name, (codes * scale).astype(np.float32), kind)
    finish(writer)


def make_llama(
    path: Path,
    sizes: dict,
    kinds: Mapping[str, tuple[Type, ...]],
    seed: int,
    *,
    biases: bool = False,
    rope_freqs: bool = False,
    linear_rope: float = 0.0,
    activation: str = "",
) -> None:
    """Write a Llama; `kinds` gives each matrix one type per layer; no "output": tied head."""
    source = Source(seed)
    writer = new_writer(path, "llama", path.stem, **sizes)
    if linear_rope:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(linear_rope)
    if activation:
        writer.add_string("llama.hidden_activation", activation)
    width = sizes["width"]
    add_matrix(writer, source, "token_embd.weight", kinds["token_embd"][0], N_VOCAB, width)
    if "output" in kinds:
        add_matrix(writer, source, "output.weight", kinds["output"][0], N_VOCAB, width)
    writer.add_tensor("output_norm.weight", source.norm(width))
    if rope_freqs:
        half = sizes["head_dim"] // 2
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, half, dtype=np.float32))
    for layer in range(sizes["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", source.norm(width))
        for stem, (n_rows, k) in shapes(sizes).items():
            kind = kinds[stem][layer % len(kinds[stem])]
            add_matrix(writer, source, f"blk.{layer}.{stem}.weight", kind, n_rows, k)
            if biases and stem in ("attn_q", "attn_k", "attn_v", "attn_output"):
                writer.add_tensor(f"blk.{layer}.{stem}.bias", source.bell(n_rows) / 4)
    finish(writer)


def make_family(path: Path, family: str, sizes: dict, seed: int) -> None:
    """Write a Qwen2, Qwen3 or Gemma 3 in half precision, with what its metadata says."""
    theta = 1_000_000.0
    writer = new_writer(path, family, path.stem, **sizes, theta=theta)
    if family == "gemma3":
        writer.add_sliding_window(sizes["window"])
        writer.add_sliding_window_pattern(sizes["period"])
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
        writer.add_attention_scale(24**-0.5)
    for name, values in family_parts(family, seed, sizes).items():
        add(writer, name, values, Type.F32 if values.ndim == 1 else Type.F16)
    finish(writer)


def make_moe(
    path: Path, family: str, sizes: dict, kinds: Mapping[str, Type], seed: int, activation: str = ""
) -> None:
    """Write a mixture of experts; matrices that `kinds` does not name are in F32."""
    a = "llama" if family == "mixtral" else family
    writer = new_writer(path, a, path.stem, **sizes)
    writer.add_expert_count(sizes["experts"])
    writer.add_expert_used_count(sizes["used"])
    if "expert_ff" in sizes:
        writer.add_expert_feed_forward_length(sizes["expert_ff"])
    if "shared_ff" in sizes:
        writer.add_expert_shared_feed_forward_length(sizes["shared_ff"])
    if activation:
        writer.add_string(f"{a}.hidden_activation", activation)
    for name, values in moe_parts(family, seed, sizes).items():
        kind = kinds.get(name.split(".")[-2], Type.F32)
        if kind is Type.TQ2_0:  # ternary to begin with: rounding finds one step in each row
            step = np.float32(0.75 / np.sqrt(values.shape[-1]))
            values = np.clip(np.rint(values / step), -1, 1).astype(np.float32) * step
        add(writer, name, values, Type.F32 if values.ndim == 1 else kind)
    finish(writer)


def make_all(folder: Path) -> None:
    """Write every model into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    make_bitnet(folder / "bitnet-tq1_0.gguf", Type.TQ1_0, Type.Q8_0, BITNET, 1)
    make_bitnet(folder / "bitnet-tq2_0.gguf", Type.TQ2_0, Type.Q8_0, BITNET, 1)
    make_bitnet(folder / "bitnet-i2_s.gguf", I2_S, Type.F16, SMALL_BITNET, 2)
    make_bitnet_folder(folder / "bitnet-packed", SMALL_BITNET, 2)
    floats = (Type.F32, Type.F16), (Type.F16, Type.BF16), (Type.BF16, Type.F32)
    a, b, c = floats
    ragged = {
        "width": 60,
        "ff": 100,
        "layers": 2,
        "heads": 3,
        "kv_heads": 1,
        "head_dim": 20,
        "rope_dim": 16,
    }
    make_llama(
        folder / "llama-floats.gguf",
        ragged,
        {"token_embd": b, "output": c, "attn_q": a, "attn_k": b, "attn_v": c, "attn_output": b}
        | {"ffn_gate": c, "ffn_up": a, "ffn_down": b},
        3,
    )
    make_llama(
        folder / "llama-blocks.gguf",
        {"width": 128, "ff": 160, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32},
        {
            "token_embd": (Type.Q5_1,),
            "attn_q": (Type.Q8_0, Type.Q4_1),
            "attn_k": (Type.Q4_0, Type.Q5_0),
        }
        | {"attn_v": (Type.Q4_1, Type.Q8_0), "attn_output": (Type.Q5_0, Type.Q5_1)}
        | {"ffn_gate": (Type.Q5_1, Type.Q4_0), "ffn_up": (Type.Q4_0,), "ffn_down": (Type.Q4_1,)},
        4,
        biases=True,
        linear_rope=2.0,
    )
    make_llama(
        folder / "llama-k.gguf",
        {"width": 256, "ff": 256, "layers": 1, "heads": 8, "kv_heads": 1, "head_dim": 32},
        {"token_embd": (Type.Q4_K,), "output": (Type.Q6_K,), "attn_q": (Type.Q4_K,)}
        | {"attn_k": (Type.Q5_K,), "attn_v": (Type.Q6_K,), "attn_output": (Type.Q5_K,)}
        | {"ffn_gate": (Type.Q4_K,), "ffn_up": (Type.Q5_K,), "ffn_down": (Type.Q6_K,)},
        5,
        rope_freqs=True,
    )
    make_llama(
        folder / "llama-relu.gguf",
        {"width": 64, "ff": 160, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 32},
        {"token_embd": (Type.Q8_0,), "attn_q": (Type.Q8_0,), "attn_k": (Type.Q8_0,)}
        | {"attn_v": (Type.Q8_0,), "attn_output": (Type.Q8_0,), "ffn_gate": (Type.Q8_0, Type.F16)}
        | {"ffn_up": (Type.Q8_0, Type.F32), "ffn_down": (Type.F16, Type.BF16)},
        7,
        activation="relu",
    )
    small = {"width": 48, "ff": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
    make_llama_folder(folder / "llama-bf16", small, 6)
    for i, (family, sizes) in enumerate((("qwen2", QWEN), ("qwen3", QWEN), ("gemma3", GEMMA3))):
        make_family(folder / f"{family}-f16.gguf", family, sizes, 7 + i)
        make_family_folder(folder / f"{family}-bf16", family, sizes, 7 + i)
    moe = (("mixtral", MIXTRAL), ("qwen2moe", QWEN2MOE), ("qwen3moe", QWEN3MOE))
    for i, (family, sizes) in enumerate(moe):
        make_moe_folder(folder / f"{family}-bf16", family, sizes, 10 + i)
    make_moe(
        folder / "qwen2moe-blocks.gguf",
        "qwen2moe",
        MOE_BLOCKS | {"dense": 1},
        {"token_embd": Type.Q8_0, "output": Type.Q8_0, "attn_q": Type.Q8_0, "attn_k": Type.Q5_0}
        | {"attn_v": Type.Q8_0, "attn_output": Type.Q4_0, "ffn_gate_exps": Type.Q4_0}
        | {"ffn_up_exps": Type.Q8_0, "ffn_down_exps": Type.Q4_1, "ffn_gate_shexp": Type.F16}
        | {"ffn_up_shexp": Type.BF16, "ffn_down_shexp": Type.Q5_1, "ffn_gate": Type.Q4_0}
        | {"ffn_up": Type.Q4_1, "ffn_down": Type.Q8_0},
        13,
    )
    ternary = ("attn_q", "attn_k", "attn_v", "attn_output")
    ternary += ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    make_moe(
        folder / "mixtral-tq2_0.gguf",
        "mixtral",
        MOE_TERNARY,
        {"token_embd": Type.Q4_0, "output": Type.Q4_0} | dict.fromkeys(ternary, Type.TQ2_0),
        14,
        activation="relu2",
    )


if __name__ == "__main__":
    make_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
