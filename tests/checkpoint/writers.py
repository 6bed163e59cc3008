"""Small writers of GGUF and safetensors, free to write nonsense; independent of the readers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B"}
_FORMATS |= {U64: "Q", I64: "q", F64: "d"}

# id and bytes per row, written down here a second time on purpose
GGUF_IDS = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "I8": 24,
    "I16": 25,
    "I32": 26,
    "I64": 27,
    "F64": 28,
    "BF16": 30,
    "TQ1_0": 34,
    "TQ2_0": 35,
    "I2_S_128X32": 36,
    "Q1_0": 41,
    "Q2_0": 42,
    "IQ1_BN": 134,
    "IQ2_BN": 135,
    "PQ2_0": 142,
    "PTQ1_0": 143,
}


class Gguf:
    """Bytes of a GGUF file; remembers where its integer fields lie, for mutations."""

    def __init__(self, magic: bytes = b"GGUF", version: int = 3) -> None:
        self.magic = magic
        self.version = version
        self.pairs: list[bytes] = []
        self.records: list[bytes] = []
        self.data = b""
        self.alignment = 32
        self.n_pairs: int | None = None
        self.n_tensors: int | None = None

    @staticmethod
    def string(text: str | bytes, length: int | None = None) -> bytes:
        raw = text.encode() if isinstance(text, str) else text
        return struct.pack("<Q", len(raw) if length is None else length) + raw

    def raw_pair(self, key: str | bytes, type_id: int, payload: bytes) -> Gguf:
        self.pairs.append(self.string(key) + struct.pack("<I", type_id) + payload)
        return self

    def pair(self, key: str, type_id: int, value: object) -> Gguf:
        if type_id == STRING:
            return self.raw_pair(key, STRING, self.string(value))
        return self.raw_pair(key, type_id, struct.pack("<" + _FORMATS[type_id], value))

    def array(self, key: str, type_id: int, values: list, count: int | None = None) -> Gguf:
        n = len(values) if count is None else count
        if type_id == STRING:
            body = b"".join(self.string(value) for value in values)
        else:
            body = struct.pack(f"<{len(values)}{_FORMATS[type_id]}", *values)
        return self.raw_pair(key, ARRAY, struct.pack("<IQ", type_id, n) + body)

    def record(self, name: str | bytes, dims: list[int], type_id: int, offset: int) -> Gguf:
        """Add a record; `dims` in file order, contiguous first."""
        head = self.string(name) + struct.pack("<I", len(dims))
        body = b"".join(struct.pack("<Q", dim & (2**64 - 1)) for dim in dims)
        self.records.append(head + body + struct.pack("<IQ", type_id, offset))
        return self

    def tensor(self, name: str, type_id: int, shape: tuple[int, ...], payload: bytes) -> Gguf:
        """Add a record and its data, properly placed; `shape` in numpy order."""
        self.record(name, list(reversed(shape)), type_id, len(self.data))
        self.data += payload + bytes(-len(payload) % self.alignment)
        return self

    def header(self) -> bytes:
        n_tensors = len(self.records) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        head = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_pairs)
        return head + b"".join(self.pairs) + b"".join(self.records)

    def build(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data


def base() -> Gguf:
    """Give a valid header to add to."""
    return Gguf().pair("general.architecture", STRING, "llama").pair("llama.block_count", U32, 2)


def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], **extra: object) -> bytes:
    header: dict[str, object] = dict(extra)
    data = b""
    for name, (dtype, shape, payload) in tensors.items():
        offsets = [len(data), len(data) + len(payload)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += payload
    return framed(json.dumps(header).encode(), data)


def framed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def llama_config(**changes: object) -> dict[str, object]:
    config: dict[str, object] = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 10,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    }
    return {key: value for key, value in (config | changes).items() if value is not ...}


def bitnet_config(linear_class: str | None = "autobitlinear", **changes: object) -> dict:
    quantization: dict[str, object] = {"quant_method": "bitnet", "modules_to_not_convert": None}
    if linear_class:
        quantization |= {"linear_class": linear_class, "quantization_mode": "offline"}
    known = {"model_type": "bitnet", "hidden_act": "relu2", "quantization_config": quantization}
    return llama_config(**(known | changes))


PROJECTIONS = {
    "self_attn.q_proj": ("attn_q", 64, 64),
    "self_attn.k_proj": ("attn_k", 32, 64),
    "self_attn.v_proj": ("attn_v", 32, 64),
    "self_attn.o_proj": ("attn_output", 64, 64),
    "mlp.gate_proj": ("ffn_gate", 96, 64),
    "mlp.up_proj": ("ffn_up", 96, 64),
    "mlp.down_proj": ("ffn_down", 64, 96),
}


def f32(*shape: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).normal(size=shape).astype("<f4").tobytes()


def bf16(values: np.ndarray) -> bytes:
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def packed_model(scale: float = 0.5, seed: int = 0) -> dict[str, tuple]:
    """Give the tensors of a one-layer packed BitNet folder."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, tuple] = {"model.embed_tokens.weight": ("F32", (10, 64), f32(10, 64))}
    for module, (_, rows, cols) in PROJECTIONS.items():
        pairs = rng.integers(0, 3, size=(4, rows // 4, cols), dtype=np.uint8)
        packed = pairs[0] | pairs[1] << 2 | pairs[2] << 4 | pairs[3] << 6
        stem = f"model.layers.0.{module}.weight"
        tensors[stem] = ("U8", packed.shape, packed.tobytes())
        tensors[stem + "_scale"] = ("BF16", (1,), bf16(np.array([scale])))
    norms = ("input_layernorm", "post_attention_layernorm", "self_attn.attn_sub_norm")
    for norm in norms:
        tensors[f"model.layers.0.{norm}.weight"] = ("F32", (64,), f32(64))
    tensors["model.layers.0.mlp.ffn_sub_norm.weight"] = ("F32", (96,), f32(96))
    tensors["model.norm.weight"] = ("F32", (64,), f32(64))
    return tensors


def write_folder(
    folder: Path, tensors: dict[str, tuple], config: dict, **side_files: object
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    for name, value in side_files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
