"""Make the small random models of this folder, the same bytes every time.

    python models/tiny/make_tiny.py [FOLDER]

Weights come from integers of a frozen generator (`numpy.random.RandomState`), so no platform's
logarithm or sine can change a bit. Files are written by the `gguf` package; what it cannot write
(I2_S, K-quants, safetensors) is packed here from the formats' byte pictures.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

N_VOCAB = 300
I2_S = 36
"""Id that BitNet's own files use; the `gguf` package no longer knows it."""
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
    pairs = [
        "th",
        "he",
        "in",
        "er",
        "an",
        "re",
        "on",
        "at",
        "en",
        "nd",
        "es",
        "or",
        "te",
        "of",
        "ed",
        "is",
        "it",
        "al",
        "ar",
        "st",
    ]
    for left, right in [*pairs, *((space, letter) for letter in "taoiswcbpfmdhnler")]:
        merges.append(f"{left} {right}")
        tokens.append(left + right)
    tokens += [f"<|unused_{i}|>" for i in range(N_VOCAB - len(tokens))]
    return tokens, merges


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
) -> None:
    """Write a Llama; `kinds` gives each matrix one type per layer; no "output": tied head."""
    source = Source(seed)
    writer = new_writer(path, "llama", path.stem, **sizes)
    if linear_rope:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(linear_rope)
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


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple, bytes]]) -> None:
    """Write name -> (dtype, shape, bytes)."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def bf16(values: np.ndarray) -> bytes:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


HF_NAMES = {
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


def hf_name(name: str) -> str:
    top = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    top["output_norm.weight"] = "model.norm.weight"
    if name in top:
        return top[name]
    _, layer, stem, parameter = name.split(".")
    return f"model.layers.{layer}.{HF_NAMES[stem]}.{parameter}"


def hf_config(model_type: str, sizes: Mapping[str, int], **more: object) -> dict[str, object]:
    return {
        "model_type": model_type,
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["ff"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "head_dim": sizes["head_dim"],
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "vocab_size": N_VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **more,
    }


def write_folder(folder: Path, config: dict, tensors: Mapping[str, tuple]) -> None:
    folder.mkdir(exist_ok=True)
    tokens, merges = vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, **special, "special": True}
            for i, token in enumerate(tokens)
            if token.startswith("<|")
        ],
        "pre_tokenizer": byte_level | {"use_regex": True},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    for name, value in (("config", config), ("tokenizer", tokenizer)):
        text = json.dumps(value, indent=1 if name == "config" else None) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors)


def make_bitnet_folder(folder: Path, sizes: dict, seed: int) -> None:
    """Write the model of `make_bitnet` with this seed, packed as Hugging Face does."""
    embedding, layers, norms = bitnet_parts(seed, sizes)
    half = embedding.astype("<f2")
    tensors = {"model.embed_tokens.weight": ("F16", half.shape, half.tobytes())}
    for name, values in norms.items():
        tensors[hf_name(name)] = ("BF16", values.shape, bf16(values))
    for name, (codes, scale) in layers.items():
        quarters = (codes + 1).astype(np.uint8).reshape(4, -1, codes.shape[1])
        packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
        tensors[hf_name(name)] = ("U8", packed.shape, packed.tobytes())
        tensors[hf_name(name) + "_scale"] = ("BF16", (1,), bf16(np.array([scale])))
    quantization = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }
    config = hf_config("bitnet", sizes, hidden_act="relu2", rope_theta=100_000.0)
    write_folder(folder, config | {"quantization_config": quantization}, tensors)


def make_llama_folder(folder: Path, sizes: dict, seed: int) -> None:
    """Write a bfloat16 Llama with Llama 3's stretch of the rotary frequencies."""
    source = Source(seed)
    width = sizes["width"]
    tensors = {}
    for name, n_rows in (("token_embd.weight", N_VOCAB), ("output.weight", N_VOCAB)):
        gain = np.float32(1.0 if name.startswith("token") else 1.0 / np.sqrt(width))
        values = source.bell(n_rows, width) * gain
        tensors[hf_name(name)] = ("BF16", values.shape, bf16(values))
    tensors["model.norm.weight"] = ("BF16", (width,), bf16(source.norm(width)))
    for layer in range(sizes["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            tensors[hf_name(f"blk.{layer}.{norm}.weight")] = (
                "BF16",
                (width,),
                bf16(source.norm(width)),
            )
        for stem, (n_rows, k) in shapes(sizes).items():
            values = source.bell(n_rows, k) / np.float32(np.sqrt(k))
            name = hf_name(f"blk.{layer}.{stem}.weight")
            tensors[name] = ("BF16", values.shape, bf16(values))
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = hf_config("llama", sizes, hidden_act="silu", rope_theta=10_000.0)
    config |= {"rope_scaling": scaling, "tie_word_embeddings": False}
    write_folder(folder, config, tensors)


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
    small = {"width": 48, "ff": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
    make_llama_folder(folder / "llama-bf16", small, 6)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
