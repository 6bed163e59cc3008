"""Hugging Face parameter names become GGUF tensor names, the only names the engine knows."""

from __future__ import annotations

import re

__all__ = ["gguf_name", "is_buffer", "is_projection", "module_of"]

_LAYER = re.compile(
    r"^(?:model\.)?layers\.(?P<layer>\d{1,4})\.(?P<module>[A-Za-z_.]{1,64})"
    r"\.(?P<parameter>weight|bias|weight_scale)$",
    re.ASCII,
)
_EXPERT = re.compile(
    r"^(?:model\.)?layers\.(?P<layer>\d{1,4})\.(?:mlp|block_sparse_moe)\.experts"
    r"\.(?P<expert>\d{1,4})\.(?P<module>gate_proj|up_proj|down_proj|w1|w2|w3)"
    r"\.(?P<parameter>weight|weight_scale)$",
    re.ASCII,
)
_EXPERT_PROJECTIONS = {
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    # Mixtral's names
    "w1": "ffn_gate",
    "w3": "ffn_up",
    "w2": "ffn_down",
}
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
    # an expert that every token uses
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
# What chooses experts is never ternary.
_ROUTERS = {
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
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
        Expert 3 has ``blk.0.ffn_up.3.weight``.
    """
    top = _TOP.get(name)
    if top is not None:
        return top
    expert = _EXPERT.match(name)
    if expert is not None:
        matrix = f"{_EXPERT_PROJECTIONS[expert['module']]}.{int(expert['expert'])}"
        return f"blk.{int(expert['layer'])}.{matrix}.{expert['parameter']}"
    match = _LAYER.match(name)
    if match is None:
        return None
    module, parameter = match["module"], match["parameter"]
    norms = _GEMMA3_NORMS if architecture == "gemma3" else _NORMS
    stem = _PROJECTIONS.get(module)
    if stem is None:
        stem = norms.get(module, _ROUTERS.get(module))
        if parameter == "weight_scale":
            stem = None
    return None if stem is None else f"blk.{int(match['layer'])}.{stem}.{parameter}"


def module_of(name: str) -> str:
    """Give the module path of a parameter name, ``model.layers.0.mlp.up_proj``."""
    return name.rpartition(".")[0]


def is_projection(canonical: str) -> bool:
    """Say whether a canonical name is the weight of one of the seven projections of a layer.

    Those of experts count, what chooses experts does not.
    """
    parts = canonical.split(".")
    if len(parts) == 5 and parts[2] in _EXPERT_PROJECTIONS.values():
        del parts[3]
    return len(parts) == 4 and parts[3] == "weight" and parts[2] in _PROJECTIONS.values()


def is_buffer(name: str) -> bool:
    """Say whether a tensor holds what the configuration already says (rotary frequencies)."""
    return name.endswith("rotary_emb.inv_freq")
