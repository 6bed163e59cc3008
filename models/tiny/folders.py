"""Tiny models as Hugging Face folders: safetensors, config.json, tokenizer.json."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from parts import N_VOCAB, Source, bitnet_parts, family_parts, moe_parts, shapes, vocabulary


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
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
GEMMA3_NAMES = HF_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def hf_name(name: str, modules: Mapping[str, str] = HF_NAMES) -> str:
    top = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    top["output_norm.weight"] = "model.norm.weight"
    if name in top:
        return top[name]
    _, layer, stem, parameter = name.split(".")
    return f"model.layers.{layer}.{modules[stem]}.{parameter}"


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


def make_family_folder(folder: Path, family: str, sizes: dict, seed: int) -> None:
    """Write the model of `make_family` with this seed in bfloat16, as Hugging Face would."""
    tensors = {}
    modules = GEMMA3_NAMES if family == "gemma3" else HF_NAMES
    for name, values in family_parts(family, seed, sizes).items():
        stored = values
        if family == "gemma3" and name.endswith("norm.weight"):
            stored = values - np.float32(1)  # multiplied by 1 + w
        tensors[hf_name(name, modules)] = ("BF16", stored.shape, bf16(stored))
    if family == "gemma3":
        config = hf_config("gemma3_text", sizes, hidden_activation="gelu_pytorch_tanh")
        config |= {"architectures": ["Gemma3ForCausalLM"], "rope_theta": 1e6}
        config |= {"rope_local_base_freq": 10_000.0, "query_pre_attn_scalar": 24}
        config |= {"sliding_window": sizes["window"], "sliding_window_pattern": sizes["period"]}
        config |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    else:
        config = hf_config(family, sizes, hidden_act="silu", rope_theta=1e6)
        config |= {"use_sliding_window": False, "sliding_window": 32}
        config |= {"architectures": [f"{family.capitalize()}ForCausalLM"]}
    config["tie_word_embeddings"] = "output.weight" not in family_parts(family, seed, sizes)
    write_folder(folder, config, tensors)


SHARED_NAMES = HF_NAMES | {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
MIXTRAL_NAMES = HF_NAMES | {"ffn_gate_inp": "block_sparse_moe.gate"}
MIXTRAL_EXPERT = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}
QWEN_EXPERT = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}


def make_moe_folder(folder: Path, family: str, sizes: dict, seed: int) -> None:
    """Write a mixture of experts in bfloat16, each expert's matrices on their own."""
    is_mixtral = family == "mixtral"
    names, expert = (MIXTRAL_NAMES, MIXTRAL_EXPERT) if is_mixtral else (SHARED_NAMES, QWEN_EXPERT)
    tensors = {}
    for name, values in moe_parts(family, seed, sizes).items():
        stem = name.split(".")[-2]
        if stem in expert:
            block = "block_sparse_moe" if is_mixtral else "mlp"
            stacked = f"model.layers.{name.split('.')[1]}.{block}.experts"
            for number, matrix in enumerate(values):
                key = f"{stacked}.{number}.{expert[stem]}.weight"
                tensors[key] = ("BF16", matrix.shape, bf16(matrix))
        else:
            matrix = values[None] if stem == "ffn_gate_inp_shexp" else values
            tensors[hf_name(name, names)] = ("BF16", matrix.shape, bf16(matrix))
    model_type = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}.get(family, family)
    config = hf_config(model_type, sizes, hidden_act="silu", rope_theta=1e6)
    config |= {"num_experts_per_tok": sizes["used"], "tie_word_embeddings": False}
    config |= {"num_local_experts" if is_mixtral else "num_experts": sizes["experts"]}
    if not is_mixtral:
        config |= {"moe_intermediate_size": sizes["expert_ff"], "decoder_sparse_step": 1}
        config |= {"norm_topk_prob": family == "qwen3moe", "mlp_only_layers": []}
    if "shared_ff" in sizes:
        config["shared_expert_intermediate_size"] = sizes["shared_ff"]
    write_folder(folder, config, tensors)
