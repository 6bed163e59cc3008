"""Well-formed files that make no model: each is one typed error that names its field."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import edgesparse
from edgesparse.errors import EdgesparseError, ModelFormatError, UnsupportedArchitecture
from tests.models import tiny
from tests.models.rewrite import Tensors, rewrite

T = gguf.GGMLQuantizationType
BITNET, FLOATS, BLOCKS = (f"{n}.gguf" for n in ("bitnet-tq2_0", "llama-floats", "llama-blocks"))
MIXTRAL, QWEN = "mixtral-tq2_0.gguf", "qwen2moe-blocks.gguf"


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.pop(name) and None


def put(name: str, values: np.ndarray, kind: T = T.F32) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: (values, kind)})


def poison(name: str, at: int, value: float, dtype: str) -> Callable[[Tensors], None]:
    """Overwrite the number at byte `at` of a tensor."""

    def edit(tensors: Tensors) -> None:
        data, kind = tensors[name]
        raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1).copy()
        number = np.array([value], dtype).view(np.uint8)
        raw[at : at + len(number)] = number
        tensors[name] = (raw.view(data.dtype).reshape(data.shape), kind)

    return edit


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 64}
META: list[tuple[str, dict[str, Any], str, str]] = [
    (FLOATS, {"general.architecture": "mamba"}, "unsupported", "general.architecture"),
    (FLOATS, {"llama.block_count": 3}, "missing", "blk.2."),
    (FLOATS, {"llama.block_count": 0}, "range", "block_count"),
    (FLOATS, {"llama.block_count": None}, "missing", "block_count"),
    (FLOATS, {"llama.embedding_length": 61}, "shape", ""),
    (FLOATS, {"llama.embedding_length": 2**31}, "range", "embedding_length"),
    (FLOATS, {"llama.feed_forward_length": 96}, "shape", "ffn_"),
    (FLOATS, {"llama.attention.head_count": 0}, "range", "head_count"),
    (FLOATS, {"llama.attention.head_count_kv": 2}, "range", "head_count_kv"),
    (FLOATS, {"llama.attention.key_length": 22}, "range", "value_length"),
    (FLOATS, {"llama.rope.dimension_count": 15}, "range", "dimension_count"),
    (FLOATS, {"llama.rope.dimension_count": 22}, "range", "dimension_count"),
    (FLOATS, {"llama.attention.layer_norm_rms_epsilon": float("nan")}, "", "epsilon"),
    (FLOATS, {"llama.attention.layer_norm_rms_epsilon": None}, "missing", "epsilon"),
    (FLOATS, {"llama.rope.freq_base": 0.0}, "range", "freq_base"),
    (FLOATS, {"llama.rope.freq_base": float("inf")}, "", "freq_base"),
    (BLOCKS, {"llama.rope.scaling.factor": 0.0}, "range", "factor"),
    (BLOCKS, {"llama.rope.scaling.type": "spiral"}, "range", "scaling"),
    (BLOCKS, {"llama.rope.scaling.type": "llama3"}, "missing", "original_context_length"),
    (BLOCKS, {**YARN, "llama.rope.scaling.original_context_length": 0}, "range", "original"),
    (BLOCKS, {**YARN, "llama.rope.freq_base": 1.0}, "range", "freq_base"),
    (MIXTRAL, {"llama.expert_count": None}, "missing", "expert_count"),
    (MIXTRAL, {"llama.expert_count": 0}, "range", "expert_count"),
    (MIXTRAL, {"llama.expert_count": 5}, "shape", "ffn_gate_inp"),
    (MIXTRAL, {"llama.expert_count": 3}, "shape", "ffn_gate_inp"),
    (MIXTRAL, {"llama.expert_count": 1025}, "range", "expert_count"),
    (MIXTRAL, {"llama.expert_used_count": None}, "missing", "expert_used_count"),
    (MIXTRAL, {"llama.expert_used_count": 5}, "range", "expert_used_count"),
    (MIXTRAL, {"llama.expert_used_count": 0}, "range", "expert_used_count"),
    (MIXTRAL, {"llama.expert_gating_func": 2}, "unsupported", "expert_gating_func"),
    (MIXTRAL, {"llama.expert_group_count": 4}, "unsupported", "expert_group_count"),
    (MIXTRAL, {"llama.expert_weights_scale": 2.5}, "unsupported", "expert_weights_scale"),
    (MIXTRAL, {"llama.expert_weights_norm": 1}, "type", "expert_weights_norm"),
    (MIXTRAL, {"llama.feed_forward_length": 128}, "shape", "ffn_gate.0"),
    (QWEN, {"qwen2moe.expert_feed_forward_length": 96}, "shape", "ffn_gate.0"),
    (QWEN, {"qwen2moe.expert_shared_feed_forward_length": 64}, "shape", "shexp"),
]
TENSORS: list[tuple[str, Callable[[Tensors], None], str, str]] = [
    (BITNET, drop("blk.1.attn_sub_norm.weight"), "missing", "attn_sub_norm"),
    (BITNET, drop("blk.0.attn_q.weight"), "missing", "attn_q"),
    (BITNET, drop("token_embd.weight"), "missing", "token_embd"),
    (FLOATS, drop("output_norm.weight"), "missing", "output_norm"),
    (FLOATS, put("output_norm.weight", zeros(61)), "shape", "output_norm"),
    (FLOATS, put("blk.0.ffn_up.weight", zeros(100, 61)), "shape", "ffn_up"),
    (FLOATS, put("blk.0.ffn_up.weight", zeros(60, 100)), "shape", "ffn_up"),
    (FLOATS, put("blk.0.ffn_up.weight", zeros(6000)), "shape", "ffn_up"),
    (FLOATS, put("output.weight", zeros(299, 60)), "shape", "output"),
    (BLOCKS, put("blk.0.attn_q.bias", zeros(127)), "shape", "attn_q.bias"),
    (FLOATS, put("rope_freqs.weight", zeros(8)), "shape", "rope_freqs"),
    (FLOATS, put("rope_freqs.weight", np.ones(9, np.float32)), "shape", "rope_freqs"),
    (BITNET, poison("blk.0.attn_q.weight", 64, float("nan"), "<f2"), "value", "attn_q"),
    (BITNET, poison("blk.0.attn_q.weight", 64, float("inf"), "<f2"), "value", "attn_q"),
    (BLOCKS, poison("token_embd.weight", 0, float("nan"), "<f2"), "value", "token_embd"),
    (FLOATS, poison("output_norm.weight", 4, float("nan"), "<f4"), "value", "output_norm"),
    (MIXTRAL, drop("blk.0.ffn_up_exps.weight"), "missing", "ffn_up.0"),
    (MIXTRAL, drop("blk.0.ffn_gate_inp.weight"), "missing", "ffn_gate"),
    (MIXTRAL, put("blk.0.ffn_up_exps.weight", zeros(4, 256)), "shape", "ffn_up_exps"),
    (MIXTRAL, put("blk.0.ffn_up_exps.weight", zeros(3, 256, 256)), "missing", "ffn_up.3"),
    (MIXTRAL, put("blk.0.ffn_up_exps.weight", zeros(4, 128, 256)), "shape", "ffn_up.0"),
    (MIXTRAL, put("blk.0.ffn_up_exps.weight", zeros(1025, 1, 1)), "shape", "ffn_up_exps"),
    (MIXTRAL, put("blk.0.ffn_up.3.weight", zeros(256, 256)), "duplicate", "ffn_up.3"),
    (MIXTRAL, put("blk.0.ffn_gate_inp.weight", zeros(4, 128)), "shape", "ffn_gate_inp"),
    (QWEN, drop("blk.0.ffn_gate_shexp.weight"), "missing", "ffn_gate_shexp"),
    (QWEN, put("blk.0.ffn_gate_inp_shexp.weight", zeros(2, 64)), "shape", "inp_shexp"),
]


def refuse(path: Path, kind: str, where: str) -> ModelFormatError:
    with pytest.raises(EdgesparseError) as caught:
        edgesparse.load(path, threads=2)
    error = caught.value
    assert error.exit_code == 3
    assert isinstance(error, ModelFormatError), repr(error)
    assert where in error.field, str(error)
    assert not kind or error.kind == kind, str(error)
    return error


@pytest.mark.parametrize(("name", "changes", "kind", "where"), META)
def test_metadata(
    name: str, changes: dict[str, Any], kind: str, where: str, tmp_path: Path
) -> None:
    refuse(rewrite(tiny.path(name), tmp_path / "m.gguf", metadata=changes), kind, where)


@pytest.mark.parametrize(("name", "edit", "kind", "where"), TENSORS)
def test_tensors(
    name: str, edit: Callable[[Tensors], None], kind: str, where: str, tmp_path: Path
) -> None:
    refuse(rewrite(tiny.path(name), tmp_path / "m.gguf", tensors=edit), kind, where)


def test_rewriting_alone_changes_nothing(tmp_path: Path) -> None:
    """So that the refusals above are due to the change."""
    for name in (BITNET, FLOATS, BLOCKS, MIXTRAL, QWEN):
        path = rewrite(tiny.path(name), tmp_path / "m.gguf")
        with edgesparse.load(path, threads=1) as a, edgesparse.load(tiny.path(name)) as b:
            np.testing.assert_array_equal(a.logits(tiny.PROMPT), b.logits(tiny.PROMPT))


def test_yarn_is_read(tmp_path: Path) -> None:
    path = rewrite(tiny.path(BLOCKS), tmp_path / "m.gguf", metadata=YARN)
    with edgesparse.load(path, threads=1) as model:
        assert model.config.rope_scaling.magnitude > 1
        assert np.isfinite(model.logits(tiny.PROMPT)).all()


def test_scales_of_zero_are_blocks_of_zeros(tmp_path: Path) -> None:
    """Files store scale 0 for empty blocks: that is read, not refused."""

    def edit(tensors: Tensors) -> None:
        data, kind = tensors["blk.0.attn_q.weight"]
        data[:, 64:66] = 0
        tensors["blk.0.attn_q.weight"] = (data, kind)

    path = rewrite(tiny.path(BITNET), tmp_path / "m.gguf", tensors=edit)
    with edgesparse.load(path) as model:
        assert np.isfinite(model.logits(tiny.PROMPT)).all()
        assert not edgesparse.formats.dequantize(
            model.parameters.weights["blk.0.attn_q.weight"]
        ).any()


def folder_with(tmp_path: Path, name: str, **changes: object) -> Path:
    folder = tmp_path / "folder"
    shutil.copytree(tiny.path(name), folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FOLDERS: list[tuple[str, dict[str, object], str]] = [
    ("llama-bf16", {"model_type": "gpt_neox"}, "model_type"),
    ("llama-bf16", {"hidden_size": 49}, ""),
    ("llama-bf16", {"num_hidden_layers": 3}, "blk.2."),
    ("llama-bf16", {"rms_norm_eps": ...}, "rms_norm_eps"),
    ("mixtral-bf16", {"num_local_experts": 7}, "ffn_gate_inp"),
    ("mixtral-bf16", {"num_local_experts": ...}, "num_local_experts"),
    ("mixtral-bf16", {"num_experts_per_tok": 7}, "num_experts_per_tok"),
    ("qwen2moe-bf16", {"moe_intermediate_size": 48}, "ffn_gate.0"),
    ("qwen2moe-bf16", {"moe_intermediate_size": ...}, "moe_intermediate_size"),
    ("qwen2moe-bf16", {"shared_expert_intermediate_size": 0}, "shared_expert"),
    ("qwen3moe-bf16", {"num_experts": 1_000_000}, "num_experts"),
    ("qwen3moe-bf16", {"num_experts_per_tok": "all"}, "num_experts_per_tok"),
    ("bitnet-packed", {"num_key_value_heads": 4}, "k_proj"),
    ("bitnet-packed", {"intermediate_size": 255}, ""),
    ("bitnet-packed", {"quantization_config": {"quant_method": "awq"}}, "quant"),
]


@pytest.mark.parametrize(("name", "changes", "where"), FOLDERS)
def test_folders(name: str, changes: dict[str, object], where: str, tmp_path: Path) -> None:
    refuse(folder_with(tmp_path, name, **changes), "", where)


def test_the_command_line_leaves_with_3(tmp_path: Path) -> None:
    """In a process of its own: one message, exit code 3, no traceback."""
    bad = [
        rewrite(tiny.path(FLOATS), tmp_path / "a.gguf", metadata={"general.architecture": "x"}),
        rewrite(tiny.path(BITNET), tmp_path / "b.gguf", tensors=drop("blk.0.attn_q.weight")),
        rewrite(tiny.path(FLOATS), tmp_path / "c.gguf", metadata={"llama.block_count": 9}),
        folder_with(tmp_path, "bitnet-packed", num_hidden_layers=3),
        tmp_path / "none.gguf",
    ]
    (tmp_path / "short.gguf").write_bytes(tiny.path(FLOATS).read_bytes()[:5000])
    bad.append(tmp_path / "short.gguf")
    for path in bad:
        done = subprocess.run(
            [sys.executable, "-m", "edgesparse", "run", str(path), "-p", "Hi", "-n", "1"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 3, (path, done.stderr)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert path.name in done.stderr
    assert len(bad) == 6


def test_an_unknown_family_is_its_own_error(tmp_path: Path) -> None:
    path = rewrite(
        tiny.path(FLOATS), tmp_path / "m.gguf", metadata={"general.architecture": "mamba"}
    )
    with pytest.raises(UnsupportedArchitecture, match="It runs bitnet"):
        edgesparse.load(path)
