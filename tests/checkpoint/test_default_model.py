"""The bundled model: its published facts, read with our own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgesparse.checkpoint import TensorType, dequantize, open_checkpoint, ternary_codes

MODEL = Path(__file__).parents[2] / "models" / "smolbit-190m" / "smolbit-190m-b1.58-tq1_0.gguf"


def test_hyperparameters_and_tensor_table() -> None:
    with open_checkpoint(MODEL) as c:
        a = c.get_str("general.architecture")
        assert a == "bitnet-b1.58"
        assert c.get_int(f"{a}.block_count") == 30
        assert c.get_int(f"{a}.embedding_length") == 768
        assert c.get_str(f"{a}.hidden_activation") == "relu2"
        assert len(c.get_array("tokenizer.ggml.tokens", kind="str")) == 49_152
        assert c.metadata["edgesparse.rope_style"] == "neox"
        kinds = [info.type for info in c.tensors.values()]
        assert kinds.count(TensorType.TQ1_0) == 7 * 30
        assert kinds.count(TensorType.F32) == 4 * 30 + 1
        assert kinds.count(TensorType.Q8_0) == 1
        assert c.warnings == []


def test_ternary_weights_have_one_scale_and_42_percent_zeros() -> None:
    n_weights = n_zeros = 0
    with open_checkpoint(MODEL) as c:
        for info in c.tensors.values():
            if info.type is not TensorType.TQ1_0:
                continue
            found = ternary_codes(info.type, c.read(info.name), info.shape)
            assert found is not None
            codes, scale = found
            assert codes.shape == info.shape
            assert scale.shape == ()
            assert scale > 0
            n_weights += codes.size
            n_zeros += codes.size - np.count_nonzero(codes)
    assert n_weights == 153_354_240
    assert abs(n_zeros / n_weights - 0.418) < 0.001


def test_the_embedding_holds_six_bit_values() -> None:
    with open_checkpoint(MODEL) as c:
        info = c.tensors["token_embd.weight"]
        raw = c.read_range(info.name, 0, 100 * info.row_bytes)
        values = dequantize(info.type, raw, (100, info.n_cols))
        assert np.isfinite(values).all()
        assert 0.001 < np.abs(values).mean() < 1.0
