"""Hugging Face configs of ReLU-fied models (ReluLLaMA, ProSparse) are run as what they are."""

from pathlib import Path

import pytest

from edgesparse.architectures import build_plan
from edgesparse.checkpoint import open_checkpoint
from edgesparse.config import ModelConfig, read_config
from edgesparse.errors import ModelFormatError
from edgesparse.plan.op import GluKind, Linear, Output
from tests.checkpoint import writers as w

TENSORS = {"model.embed_tokens.weight": ("F32", (10, 64), w.f32(10, 64))}


def gate_of(tmp_path: Path, **changes: object) -> tuple[ModelConfig, Output]:
    folder = w.write_folder(tmp_path / "m", TENSORS, w.llama_config(**changes))
    with open_checkpoint(folder) as checkpoint:
        config = read_config(checkpoint)
        plan = build_plan(config, set(), n_ctx=8, max_tokens=4)
    up = next(op for op in plan.ops if isinstance(op, Linear) and op.name == "blk.0.gate_up")
    assert (up.outputs[1].live == "gate") == config.glu.makes_zeros
    return config, up.outputs[0]


def test_activations(tmp_path: Path) -> None:
    for name, kind in (("relu", GluKind.RELU), ("silu", GluKind.SILU), ("relu2", GluKind.RELU2)):
        assert gate_of(tmp_path, hidden_act=name)[0].glu is kind


def test_thresholds(tmp_path: Path) -> None:
    """As ProSparse's configs state them; the other activations leave the number alone."""
    for name, found in (("fatrelu", (0.0, 0.01)), ("shiftrelu", (0.01, 0.0)), ("relu", (0, 0))):
        config, gate = gate_of(tmp_path, hidden_act=name, hidden_act_param=0.01)
        assert config.glu is GluKind.RELU
        assert (config.gate_shift, config.gate_cutoff) == found == (gate.shift, gate.cutoff)


def test_prosparse_names_a_family_of_its_own(tmp_path: Path) -> None:
    """Its code on the hub is Llama's with another gate."""
    config, gate = gate_of(
        tmp_path, model_type="sparsellama", hidden_act="fatrelu", hidden_act_param=0.01
    )
    assert (config.architecture, config.glu, gate.cutoff) == ("llama", GluKind.RELU, 0.01)


def test_others_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="gelu"):
        gate_of(tmp_path, hidden_act="gelu", hidden_act_param=0.01)
