"""Hugging Face configs of ReLU-fied models (ReluLLaMA, ProSparse) are run as what they are."""

from pathlib import Path

import pytest

from edgesparse.architectures import build_plan
from edgesparse.checkpoint import open_checkpoint
from edgesparse.config import read_config
from edgesparse.errors import ModelFormatError
from edgesparse.plan.op import GluKind, Linear
from tests.checkpoint import writers as w

TENSORS = {"model.embed_tokens.weight": ("F32", (10, 64), w.f32(10, 64))}


def kind_of(tmp_path: Path, **changes: object) -> GluKind:
    folder = w.write_folder(tmp_path / "m", TENSORS, w.llama_config(**changes))
    with open_checkpoint(folder) as checkpoint:
        config = read_config(checkpoint)
        plan = build_plan(config, set(), n_ctx=8, max_tokens=4)
    up = next(op for op in plan.ops if isinstance(op, Linear) and op.name == "blk.0.gate_up")
    assert (up.outputs[1].live == "gate") == config.glu.makes_zeros
    return config.glu


def test_activations(tmp_path: Path) -> None:
    assert kind_of(tmp_path, hidden_act="relu") is GluKind.RELU
    assert kind_of(tmp_path, hidden_act="silu") is GluKind.SILU
    assert kind_of(tmp_path, hidden_act="relu2") is GluKind.RELU2


@pytest.mark.parametrize("name", ["fatrelu", "shiftrelu", "gelu"])
def test_others_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFormatError, match=name):
        kind_of(tmp_path, hidden_act=name, hidden_act_param=0.01)
