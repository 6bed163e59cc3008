"""Hugging Face folders: names, hyperparameters, shards, the three kinds of BitNet checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgesparse.checkpoint import (
    TensorType,
    dequantize_rows,
    open_checkpoint,
    ternarize,
    ternary_chunks,
)
from edgesparse.checkpoint.names import gguf_name
from edgesparse.errors import ModelFormatError, ModelNotFound
from tests.checkpoint import writers as w

NORM = {"model.norm.weight": ("F32", (64,), w.f32(64))}


def keys(tmp_path: Path, **changes: object) -> dict:
    folder = w.write_folder(tmp_path / "m", NORM, w.llama_config(**changes))
    with open_checkpoint(folder) as c:
        return dict(c.metadata)


def unpacked(record: tuple) -> np.ndarray:
    packed = np.frombuffer(record[2], dtype=np.uint8).reshape(record[1])
    return np.concatenate([packed >> shift & 3 for shift in (0, 2, 4, 6)]).astype(np.int8) - 1


@pytest.mark.parametrize(
    ("linear_class", "expected"), [("autobitlinear", 0.25), ("bitlinear", 4.0), (None, 4.0)]
)
def test_packed_bitnet_and_its_two_scale_conventions(
    tmp_path: Path, linear_class: str | None, expected: float
) -> None:
    tensors = w.packed_model(scale=0.25)
    folder = w.write_folder(tmp_path / "m", tensors, w.bitnet_config(linear_class))
    n_matrices = 0
    with open_checkpoint(folder) as c:
        assert c.kind == "safetensors"
        assert c.get_str("general.architecture") == "bitnet-b1.58"
        assert c.get_str("bitnet-b1.58.hidden_activation") == "relu2"
        for module, (stem, rows, cols) in w.PROJECTIONS.items():
            info = c.tensors[f"blk.0.{stem}.weight"]
            assert (info.type, info.shape, info.scale) == (
                TensorType.HF_T2,
                (rows, cols),
                expected,
            )
            codes = unpacked(tensors[f"model.layers.0.{module}.weight"])
            chunks = [chunk for chunk in ternary_chunks(c, info.name, 6_000) if chunk]
            assert len(chunks) > 1
            np.testing.assert_array_equal(np.concatenate([chunk[2] for chunk in chunks]), codes)
            assert all(chunk[3] == np.float32(expected) for chunk in chunks)
            part = dequantize_rows(c, info.name, 5, 27)
            np.testing.assert_array_equal(part, codes[5:27] * np.float32(expected))
            n_matrices += 1
        assert c.tensors["blk.0.ffn_sub_norm.weight"].shape == (96,)
        assert c.warnings == []
    assert n_matrices == 7


def masters(seed: int = 0) -> dict[str, tuple]:
    rng = np.random.default_rng(seed)
    tensors = dict(NORM)
    for module, (_, rows, cols) in w.PROJECTIONS.items():
        values = w.bf16(rng.normal(size=(rows, cols)))
        tensors[f"model.layers.0.{module}.weight"] = ("BF16", (rows, cols), values)
    return tensors


def test_online_masters_are_ternarised_chunk_by_chunk(tmp_path: Path) -> None:
    config = w.bitnet_config()
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": ["o_proj"],
    }
    with open_checkpoint(w.write_folder(tmp_path / "m", masters(), config)) as c:
        assert not c.tensors["blk.0.attn_output.weight"].ternarize
        assert not c.tensors["output_norm.weight"].ternarize
        name = "blk.0.ffn_down.weight"
        assert c.tensors[name].ternarize
        codes, scale = ternarize(dequantize_rows(c, name, 0, 64))
        chunks = [chunk for chunk in ternary_chunks(c, name, 8_000) if chunk]
        assert len(chunks) > 2
        np.testing.assert_array_equal(np.concatenate([chunk[2] for chunk in chunks]), codes)
        assert all(chunk[3] == scale for chunk in chunks)


def test_master_files_without_a_recipe_are_bitnet_by_family(tmp_path: Path) -> None:
    config = w.llama_config(model_type="bitnet", architectures=["BitnetForCausalLM"])
    with open_checkpoint(w.write_folder(tmp_path / "m", masters(), config)) as c:
        assert c.get_str("general.architecture") == "bitnet"
        assert c.get_str("bitnet.hidden_activation") == "silu"
        assert sum(info.ternarize for info in c.tensors.values()) == 7
    plain = w.write_folder(tmp_path / "p", masters(), w.llama_config())
    with open_checkpoint(plain) as c:
        assert not any(info.ternarize for info in c.tensors.values())


def test_hyperparameters(tmp_path: Path) -> None:
    found = keys(tmp_path, rope_theta=5e5, max_position_embeddings=4096)
    expected = {
        "general.architecture": "llama",
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.block_count": 1,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": 10,
        "llama.context_length": 4096,
        "llama.rope.freq_base": 5e5,
        "llama.hidden_activation": "silu",
        "edgesparse.rope_style": "neox",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eos_token_ids": [2, 3],
    }
    assert {key: found.get(key) for key in expected} == expected


def test_rope_scaling(tmp_path: Path) -> None:
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    found = keys(tmp_path, rope_scaling=llama3)
    assert found["llama.rope.scaling.type"] == "llama3"
    assert found["llama.rope.scaling.original_context_length"] == 8192
    nested = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 7e4, "attention_factor": 1.5}
    found = keys(tmp_path, rope_parameters=nested, rope_theta=1e4)
    assert found["llama.rope.freq_base"] == 7e4
    attn = found["llama.rope.scaling.attn_factor"]
    assert attn * (1 + 0.1 * np.log(4.0)) == pytest.approx(1.5)


def test_gemma3_has_its_own_names_and_offset(tmp_path: Path) -> None:
    found = keys(
        tmp_path,
        model_type="gemma3_text",
        hidden_act=...,
        hidden_activation="gelu_pytorch_tanh",
        sliding_window=512,
        final_logit_softcapping=30.0,
        hidden_act_param=0.01,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    )
    assert found["gemma3.rope.freq_base"] == 1e6
    assert found["gemma3.rope.freq_base_swa"] == 2e4
    assert found["gemma3.attention.sliding_window"] == 512
    assert found["gemma3.final_logit_softcapping"] == 30.0
    assert found["gemma3.hidden_activation_param"] == 0.01
    assert found["edgesparse.norm_offset"] == 1.0
    layer = "model.layers.3.post_attention_layernorm.weight"
    assert gguf_name(layer, "gemma3") == "blk.3.post_attention_norm.weight"
    assert gguf_name(layer, "llama") == "blk.3.ffn_norm.weight"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
        ("model.layers.0.self_attn.inner_attn_ln.weight", "blk.0.attn_sub_norm.weight"),
        ("model.layers.0.mlp.ffn_layernorm.weight", "blk.0.ffn_sub_norm.weight"),
        ("model.layers.0.mlp.down_proj.norm.weight", "blk.0.ffn_down_norm_in.weight"),
        ("model.layers.0.self_attn.k_proj.rms_norm.weight", "blk.0.attn_k_norm_in.weight"),
        ("model.layers.0.mlp.up_proj.weight_scale", "blk.0.ffn_up.weight_scale"),
        ("model.layers.0.input_layernorm.weight_scale", None),
        ("model.layers.x.mlp.up_proj.weight", None),
        ("model.layers.0.mlp.experts.10.up_proj.weight", "blk.0.ffn_up.10.weight"),
        ("model.layers.0.block_sparse_moe.experts.3.w2.weight", "blk.0.ffn_down.3.weight"),
        ("model.layers.0.block_sparse_moe.gate.weight", "blk.0.ffn_gate_inp.weight"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "blk.0.ffn_up_shexp.weight"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "blk.0.ffn_gate_inp_shexp.weight"),
        ("model.layers.0.mlp.gate.weight_scale", None),
        ("model.layers.0.mlp.experts.x.up_proj.weight", None),
        ("model.layers.0.mlp.experts.0.q_proj.weight", None),
        ("visual.blocks.0.weight", None),
    ],
)
def test_names(name: str, expected: str | None) -> None:
    assert gguf_name(name, "llama") == expected


def test_tokenizer_side_files(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    folder = w.write_folder(
        tmp_path / "m",
        NORM,
        w.llama_config(),
        generation_config={"eos_token_id": 7},
        tokenizer_config={"chat_template": named, "add_bos_token": False},
        tokenizer={"model": {}},
    )
    with open_checkpoint(folder) as c:
        assert c.get_str("tokenizer.chat_template") == "yes"
        assert c.get_bool("tokenizer.ggml.add_bos_token") is False
        assert c.metadata["tokenizer.ggml.eos_token_ids"] == [7, 2, 3]
        assert c.tokenizer_json == b'{"model": {}}'
    (folder / "chat_template.jinja").write_text("file")
    with open_checkpoint(folder) as c:
        assert c.get_str("tokenizer.chat_template") == "file"


def sharded(tmp_path: Path) -> Path:
    folder = w.write_folder(tmp_path / "m", NORM, w.llama_config())
    (folder / "model.safetensors").unlink()
    parts = {
        "model-00001-of-00002.safetensors": NORM,
        "model-00002-of-00002.safetensors": {"lm_head.weight": ("F16", (10, 64), bytes(1280))},
    }
    weight_map = {}
    for shard, tensors in parts.items():
        (folder / shard).write_bytes(w.safetensors(tensors))
        weight_map |= dict.fromkeys(tensors, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1536}, "weight_map": weight_map}))
    return folder


def test_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    with open_checkpoint(folder) as c:
        assert set(c.tensors) == {"output_norm.weight", "output.weight"}
        assert c.read("output_norm.weight").tobytes() == w.f32(64)
    (folder / "model.safetensors.index.json").unlink()
    with open_checkpoint(folder) as c:
        assert len(c.tensors) == 2
    (folder / "other.safetensors").write_bytes(w.safetensors(NORM))
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(folder)
    assert caught.value.kind == "duplicate"


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFound):
        open_checkpoint(folder)


def test_one_file_beside_its_config(tmp_path: Path) -> None:
    folder = w.write_folder(tmp_path / "m", NORM, w.llama_config())
    with open_checkpoint(folder / "model.safetensors") as c:
        assert set(c.tensors) == {"output_norm.weight"}


def test_unknown_tensors_are_reported_and_not_loaded(tmp_path: Path) -> None:
    extra = {
        "visual.x": ("F32", (1,), bytes(4)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (1,), bytes(4)),
    }
    folder = w.write_folder(tmp_path / "m", NORM | extra, w.llama_config())
    with open_checkpoint(folder) as c:
        assert set(c.tensors) == {"output_norm.weight"}
        assert len(c.warnings) == 1
        assert "visual.x" in c.warnings[0]


def test_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    folder = w.write_folder(tmp_path / "m", NORM, w.llama_config())
    values = np.arange(640, dtype=np.float16).reshape(10, 64)
    stored = {"lm_head.weight": values, "model.norm.weight": np.ones(64, dtype=np.float32)}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with open_checkpoint(folder) as c:
        np.testing.assert_array_equal(dequantize_rows(c, "output.weight", 3, 7), values[3:7])
