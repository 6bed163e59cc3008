"""A head that repeats the embedding is dropped; one that differs anywhere is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import edgesparse
from edgesparse.checkpoint import open_checkpoint
from edgesparse.loading import tensor_names

TINY = Path(__file__).parents[2] / "models" / "tiny" / "llama-bf16"


def folder_with_head(tmp_path: Path, *, change: bool) -> Path:
    """Copy the tiny Llama with float32 tensors and an explicit head."""
    target = tmp_path / "model"
    shutil.copytree(TINY, target)
    with open_checkpoint(target) as checkpoint:
        hf_names = _hf_names(checkpoint.tensors)
        tensors = {}
        for name, info in checkpoint.tensors.items():
            raw = checkpoint.read(name).view(np.uint16).astype(np.uint32) << np.uint32(16)
            tensors[hf_names[name]] = raw.view(np.float32).reshape(info.shape)
    head = tensors["model.embed_tokens.weight"].copy()
    if change:
        head[-1, -1] += np.float32(1)
    tensors["lm_head.weight"] = head
    for old in target.glob("*.safetensors*"):
        old.unlink()
    save_file(tensors, target / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (target / "config.json").write_text(json.dumps(config))
    return target


def _hf_names(names: dict[str, object]) -> dict[str, str]:
    stems = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    found = {}
    for name in names:
        *prefix, stem, kind = name.split(".")
        layer = f"model.layers.{prefix[1]}." if prefix else ""
        found[name] = f"{layer}{stems[stem]}.{kind}"
    return found


def test_repeated_head(tmp_path: Path) -> None:
    logits = []
    for change in (False, True):
        path = folder_with_head(tmp_path / str(change), change=change)
        with open_checkpoint(path) as checkpoint:
            assert "output.weight" in checkpoint.tensors
            assert ("output.weight" in tensor_names(checkpoint)) is change
        with edgesparse.load(path, threads=1, head="exact") as model:
            assert ("output.weight" in model.parameters.weights) is change
            logits.append(model.logits([5, 6, 7]))
    # Only the row that was changed gives other logits: the head dropped was the embedding.
    np.testing.assert_array_equal(logits[0][:, :-1], logits[1][:, :-1])
    assert (logits[0][:, -1] != logits[1][:, -1]).all()
