"""Hugging Face parameter names become GGUF tensor names, the only names the engine knows."""

from __future__ import annotations

import re

__all__ = ["gguf_name", "is_buffer", "is_projection", "module_of"]

_LAYER = re.compile(
    r"^(?:model\.)?layers\.(?P<layer>\d{1,4})\.(?P<module>[A-Za-z_.]{1,64})"
    r"\.(?P<parameter>weight|bias|weight_scale)$",
    re.ASCII,
)
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    # BitNet's sub-norms, in the names of Microsoft and of 1bitLLM
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "self_attn.inner_attn_ln": "attn_sub_norm",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
    "mlp.ffn_layernorm": "ffn_sub_norm",
    # a norm in front of each projection (`use_rms_norm`)
    **{f"{hf}.norm": f"{gguf}_norm_in" for hf, gguf in _PROJECTIONS.items()},
    **{f"{hf}.rms_norm": f"{gguf}_norm_in" for hf, gguf in _PROJECTIONS.items()},
}
# In gemma3 the same Hugging Face name means another norm.
_GEMMA3_NORMS = {
    **_NORMS,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name: str, architecture: str) -> str | None:
    """Translate one parameter name; None when the engine knows no such tensor.

    Parameters
    ----------
    name : str
        For example ``model.layers.0.self_attn.q_proj.weight``.
    architecture : str
        GGUF architecture; ``gemma3`` names its norms differently.

    Returns
    -------
    str or None
        For example ``blk.0.attn_q.weight``; ``weight_scale`` companions become ``….weight_scale``.
    """
    top = _TOP.get(name)
    if top is not None:
        return top
    match = _LAYER.match(name)
    if match is None:
        return None
    module, parameter = match["module"], match["parameter"]
    norms = _GEMMA3_NORMS if architecture == "gemma3" else _NORMS
    stem = _PROJECTIONS.get(module)
    if stem is None:
        stem = norms.get(module)
        if parameter == "weight_scale":
            stem = None
    return None if stem is None else f"blk.{int(match['layer'])}.{stem}.{parameter}"


def module_of(name: str) -> str:
    """Give the module path of a parameter name, ``model.layers.0.mlp.up_proj``."""
    return name.rpartition(".")[0]


def is_projection(canonical: str) -> bool:
    """Say whether a canonical name is the weight of one of the seven layer projections."""
    parts = canonical.split(".")
    return len(parts) == 4 and parts[3] == "weight" and parts[2] in _PROJECTIONS.values()


def is_buffer(name: str) -> bool:
    """Say whether a tensor holds what the configuration already says (rotary frequencies)."""
    return name.endswith("rotary_emb.inv_freq")
