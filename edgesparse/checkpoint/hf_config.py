"""``config.json`` and its companions become GGUF-style metadata keys."""

from __future__ import annotations

import math

from edgesparse.checkpoint.experts import MAX_EXPERTS
from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.strict_json import JsonObject
from edgesparse.errors import ModelFormatError, UnsupportedArchitecture

__all__ = ["metadata_from_config", "tokenizer_metadata"]

Metadata = dict[str, MetadataValue]

_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "sparsellama": "llama",  # ProSparse
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
}
_MAX_WIDTH = 1 << 20
_MAX_LAYERS = 1_024
_MAX_HEADS = 1_024
_MAX_CONTEXT = 1 << 24
_MAX_VOCABULARY = 1 << 24
_MAX_TEMPLATE = 256 << 10
_MAX_STOP_IDS = 64


def metadata_from_config(config: JsonObject, name: str) -> Metadata:
    """Translate the hyperparameters.

    Parameters
    ----------
    config : JsonObject
        ``config.json``.
    name : str
        Model name to record.

    Returns
    -------
    dict
        ``general.*``, ``<architecture>.*`` and ``edgesparse.*`` keys.

    Raises
    ------
    UnsupportedArchitecture
        Unknown ``model_type``.
    ModelFormatError
        A key that is missing, of the wrong type or out of range.
    """
    a = _architecture(config)
    width = config.integer("hidden_size", 1, _MAX_WIDTH)
    heads = config.integer("num_attention_heads", 1, _MAX_HEADS)
    kv_heads = config.integer("num_key_value_heads", 1, _MAX_HEADS, heads)
    if heads % kv_heads:
        detail = f"{kv_heads} does not divide {heads} heads"
        raise config.error("range", "num_key_value_heads", detail)
    head_dim = config.integer("head_dim", 1, 1_024, max(1, width // heads))
    if head_dim % 2:
        raise config.error("range", "head_dim", f"expected an even number, found {head_dim}")
    metadata: Metadata = {
        "general.architecture": a,
        "general.name": name,
        f"{a}.embedding_length": width,
        f"{a}.feed_forward_length": config.integer("intermediate_size", 1, _MAX_WIDTH),
        f"{a}.block_count": config.integer("num_hidden_layers", 1, _MAX_LAYERS),
        f"{a}.attention.head_count": heads,
        f"{a}.attention.head_count_kv": kv_heads,
        f"{a}.attention.key_length": head_dim,
        f"{a}.attention.value_length": head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-12, 0.1),
        f"{a}.vocab_size": config.integer("vocab_size", 1, _MAX_VOCABULARY),
        f"{a}.context_length": config.integer("max_position_embeddings", 1, _MAX_CONTEXT, 2_048),
        f"{a}.rope.dimension_count": head_dim,
        "edgesparse.rope_style": "neox",
        "edgesparse.tied_embeddings": config.flag("tie_word_embeddings", a == "gemma3"),
    }
    _activation(config, a, metadata)
    _rope(config, a, metadata)
    _window(config, a, metadata)
    _experts(config, a, metadata)
    if a == "gemma3":
        metadata["edgesparse.norm_offset"] = 1.0  # HF multiplies by 1 + w
        scalar = config.number("query_pre_attn_scalar", 1.0, 1e6, 256.0)
        metadata[f"{a}.attention.scale"] = scalar**-0.5
        if config.flag("use_bidirectional_attention", False):
            detail = "an encoder: every token sees all others"
            raise config.error("unsupported", "use_bidirectional_attention", detail)
    if config.values.get("final_logit_softcapping") is not None:
        cap = config.number("final_logit_softcapping", 1e-3, 1e6)
        metadata[f"{a}.final_logit_softcapping"] = cap
    return metadata


def _architecture(config: JsonObject) -> str:
    model_type = config.text("model_type")
    if model_type == "bitnet":
        squared = config.text("hidden_act") in ("relu2", "relu_squared")
        return "bitnet-b1.58" if squared else "bitnet"
    found = _ARCHITECTURES.get(model_type)
    if found is None:
        raise UnsupportedArchitecture(
            "unsupported",
            "config.json model_type",
            f"{shown(model_type)} is not a known model family",
            path=shown(config.path, 400),
            advice=f"Known: bitnet, {', '.join(_ARCHITECTURES)}. A GGUF file may work.",
        )
    return found


def _activation(config: JsonObject, a: str, metadata: Metadata) -> None:
    name = config.text("hidden_activation") or config.text("hidden_act")
    if name:
        metadata[f"{a}.hidden_activation"] = {"relu_squared": "relu2"}.get(name, name)
    if name in ("fatrelu", "shiftrelu"):
        metadata[f"{a}.hidden_activation_param"] = config.number("hidden_act_param", 0.0, 1e3)
    elif config.values.get("hidden_act_param") is not None:
        metadata[f"{a}.hidden_activation_param"] = config.number("hidden_act_param", -1e3, 1e3)


def _rope(config: JsonObject, a: str, metadata: Metadata) -> None:
    """Read both spellings; the nested ``rope_parameters`` of transformers 5 wins."""
    theta = config.number("rope_theta", 1e-3, 1e12, 10_000.0)
    local = config.number("rope_local_base_freq", 1e-3, 1e12, 10_000.0)
    scaling = config.child("rope_scaling")
    parameters = config.child("rope_parameters")
    if parameters is not None:
        per_layer = parameters.child("full_attention")
        sliding = parameters.child("sliding_attention")
        if sliding is not None:
            local = sliding.number("rope_theta", 1e-3, 1e12, local)
        scaling = per_layer or parameters
        theta = scaling.number("rope_theta", 1e-3, 1e12, theta)
    metadata[f"{a}.rope.freq_base"] = theta
    if a == "gemma3":
        metadata[f"{a}.rope.freq_base_swa"] = local
    if scaling is not None:
        _scaling(scaling, a, metadata)


def _scaling(scaling: JsonObject, a: str, metadata: Metadata) -> None:
    kind = scaling.text("rope_type") or scaling.text("type") or "default"
    if kind == "default":
        return
    prefix = f"{a}.rope.scaling."
    if kind not in ("linear", "llama3", "yarn"):
        raise scaling.error("unsupported", "rope_type", f"{shown(kind)} scaling is not supported")
    factor = scaling.number("factor", 1.0, 1e4)
    metadata[prefix + "type"] = kind
    metadata[prefix + "factor"] = factor
    if kind == "linear":
        return
    original = scaling.integer(
        "original_max_position_embeddings", 1, _MAX_CONTEXT, _as_int(metadata, a)
    )
    metadata[prefix + "original_context_length"] = original
    if kind == "llama3":
        low = scaling.number("low_freq_factor", 1e-3, 1e4)
        high = scaling.number("high_freq_factor", 1e-3, 1e4)
        if high <= low:
            raise scaling.error("range", "high_freq_factor", f"expected more than {low}")
        metadata[prefix + "low_freq_factor"] = low
        metadata[prefix + "high_freq_factor"] = high
        return
    metadata[prefix + "yarn_beta_fast"] = scaling.number("beta_fast", 1e-3, 1e4, 32.0)
    metadata[prefix + "yarn_beta_slow"] = scaling.number("beta_slow", 1e-3, 1e4, 1.0)
    if scaling.values.get("attention_factor") is not None:
        # config.json gives the whole multiplier, GGUF the part in front of 1 + 0.1 ln(factor).
        whole = scaling.number("attention_factor", 1e-3, 1e3)
        metadata[prefix + "attn_factor"] = whole / (1.0 + 0.1 * math.log(factor))


def _as_int(metadata: Metadata, a: str) -> int:
    value = metadata[f"{a}.context_length"]
    return value if isinstance(value, int) else 0


def _experts(config: JsonObject, a: str, metadata: Metadata) -> None:
    """Read the sizes of a mixture of experts; which layers have one, their tensors say."""
    model_type = config.text("model_type")
    if model_type not in ("mixtral", "qwen2_moe", "qwen3_moe"):
        return
    count = "num_local_experts" if config.values.get("num_experts") is None else "num_experts"
    n_experts = config.integer(count, 1, MAX_EXPERTS)
    metadata[f"{a}.expert_count"] = n_experts
    metadata[f"{a}.expert_used_count"] = config.integer("num_experts_per_tok", 1, n_experts)
    if model_type == "mixtral":
        metadata[f"{a}.expert_feed_forward_length"] = metadata[f"{a}.feed_forward_length"]
        return
    size = config.integer("moe_intermediate_size", 1, _MAX_WIDTH)
    metadata[f"{a}.expert_feed_forward_length"] = size
    metadata[f"{a}.expert_weights_norm"] = config.flag("norm_topk_prob", False)
    if model_type == "qwen2_moe":
        shared = config.integer("shared_expert_intermediate_size", 1, _MAX_WIDTH)
        metadata[f"{a}.expert_shared_feed_forward_length"] = shared


def _window(config: JsonObject, a: str, metadata: Metadata) -> None:
    if a.startswith("qwen") and not config.flag("use_sliding_window", False):
        return
    window = config.integer("sliding_window", 0, _MAX_CONTEXT, 0)
    if not window:
        return
    if a.startswith("qwen"):
        n_layers = config.integer("num_hidden_layers", 1, _MAX_LAYERS)
        if config.integer("max_window_layers", 0, _MAX_LAYERS, n_layers) >= n_layers:
            return
        detail = "windows in the upper layers only are not supported"
        raise config.error("unsupported", "max_window_layers", detail)
    metadata[f"{a}.attention.sliding_window"] = window
    if a == "gemma3":
        metadata[f"{a}.attention.sliding_window_pattern"] = _window_period(config)


def _window_period(config: JsonObject) -> int:
    """Give the period p of Gemma 3: layer i is global when p divides i + 1."""
    key = "sliding_window_pattern"
    key = key if config.values.get(key) is not None else f"_{key}"
    period = config.integer(key, 1, 1_024, 6)
    kinds = config.texts("layer_types")
    expected = ["sliding_attention", "full_attention"]
    n_layers = config.integer("num_hidden_layers", 1, _MAX_LAYERS)
    rule = [expected[(layer + 1) % period == 0] for layer in range(n_layers)]
    if kinds and list(kinds) != rule:
        raise config.error("unsupported", "layer_types", f"not one global layer in every {period}")
    return period


def tokenizer_metadata(
    config: JsonObject,
    generation: JsonObject | None,
    tokenizer: JsonObject | None,
    template_file: bytes | None,
) -> Metadata:
    """Translate special ids and the chat template.

    Parameters
    ----------
    config, generation, tokenizer : JsonObject or None
        ``config.json``, ``generation_config.json``, ``tokenizer_config.json``.
    template_file : bytes or None
        ``chat_template.jinja``; wins over the one in ``tokenizer_config.json``.

    Returns
    -------
    dict
        ``tokenizer.ggml.bos_token_id``, ``.eos_token_id``, ``.eos_token_ids`` (all stop ids),
        ``.padding_token_id``, ``.add_bos_token``, ``.add_eos_token`` and
        ``tokenizer.chat_template``, each when known.
    """
    metadata: Metadata = {}
    stops: list[int] = []
    for source in (generation, config):
        if source is not None:
            stops += [stop for stop in _ids(source, "eos_token_id") if stop not in stops]
    if len(stops) > _MAX_STOP_IDS:
        raise config.error("limit", "eos_token_id", f"{len(stops)} ids, at most {_MAX_STOP_IDS}")
    if stops:
        metadata["tokenizer.ggml.eos_token_id"] = stops[0]
        metadata["tokenizer.ggml.eos_token_ids"] = stops
    for key, gguf in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        ids = _ids(config, key)
        if ids:
            metadata[f"tokenizer.ggml.{gguf}_token_id"] = ids[0]
    if tokenizer is not None:
        for key in ("add_bos_token", "add_eos_token"):
            if tokenizer.values.get(key) is not None:
                metadata[f"tokenizer.ggml.{key}"] = tokenizer.flag(key, False)
    template = _template(config, tokenizer, template_file)
    if template:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _ids(source: JsonObject, key: str) -> list[int]:
    value = source.values.get(key)
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    if not all(type(item) is int for item in ids):
        raise source.error("type", key, "expected an id or a list of ids")
    if not all(-1 <= item < _MAX_VOCABULARY for item in ids):
        raise source.error("range", key, "an id is outside any vocabulary")
    return [item for item in ids if item >= 0]  # -1 means: none


def _template(config: JsonObject, tokenizer: JsonObject | None, file: bytes | None) -> str:
    if file is not None:
        try:
            return file.decode("utf-8")
        except UnicodeDecodeError:
            raise ModelFormatError(
                "value", "chat_template.jinja", "not UTF-8", path=shown(config.path, 400)
            ) from None
    if tokenizer is None:
        return ""
    value = tokenizer.values.get("chat_template")
    if isinstance(value, list):  # several named templates
        named = {
            item.get("name"): item.get("template")
            for item in value
            if isinstance(item, dict) and isinstance(item.get("name"), str)
        }
        value = named.get("default")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise tokenizer.error("type", "chat_template", "expected a string")
    if len(value) > _MAX_TEMPLATE:
        raise tokenizer.error("limit", "chat_template", f"more than {_MAX_TEMPLATE} characters")
    return value
