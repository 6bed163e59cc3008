"""What ``quantization_config`` means for BitNet; schemes that nobody reads are refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.strict_json import JsonObject
from edgesparse.errors import UnsupportedTensorType

__all__ = ["BitNetRecipe", "bitnet_recipe", "refuse_by_names"]

_SUFFIXES = {
    ".weight_packed": "compressed-tensors",
    ".bitmask": "compressed-tensors sparse-bitmask",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".absmax": "bitsandbytes",
}


class BitNetRecipe(NamedTuple):
    """How the projections of a BitNet checkpoint are stored.

    Attributes
    ----------
    masters : bool
        Floats to be ternarised at load, rather than packed bytes.
    inverse_scale : bool
        ``weight_scale`` is 1 / mean|W| (BitLinear) rather than mean|W| (AutoBitLinear). The two
        conventions are opposite and only ``linear_class`` tells them apart.
    excluded : tuple of str
        Modules that stay in float.
    """

    masters: bool
    inverse_scale: bool
    excluded: tuple[str, ...] = ()

    def is_excluded(self, module: str) -> bool:
        """Say whether a module path, or its last parts, is listed as not converted."""
        return any(module == name or module.endswith("." + name) for name in self.excluded)


def bitnet_recipe(config: JsonObject) -> BitNetRecipe | None:
    """Decide how projections are stored; None for plain floats.

    Raises
    ------
    UnsupportedTensorType
        Another quantisation method.
    ModelFormatError
        A key of the wrong type.
    """
    quantization = config.child("quantization_config")
    if quantization is None and config.child("compression_config") is not None:
        raise _refusal(config, "compressed-tensors")
    method = quantization.text("quant_method") if quantization is not None else ""
    if quantization is None or not method:
        if config.text("model_type") == "bitnet" or _names_bitnet(config):
            return BitNetRecipe(masters=True, inverse_scale=False)
        return None
    if method != "bitnet":
        raise _refusal(config, method)
    linear_class = quantization.text("linear_class", "bitlinear")
    mode = quantization.text("quantization_mode", "offline")
    if linear_class not in ("bitlinear", "autobitlinear"):
        raise quantization.error("unsupported", "linear_class", shown(linear_class))
    if mode not in ("offline", "online"):
        raise quantization.error("unsupported", "quantization_mode", shown(mode))
    return BitNetRecipe(
        masters=mode == "online",
        inverse_scale=linear_class == "bitlinear",
        excluded=tuple(quantization.texts("modules_to_not_convert")),
    )


def refuse_by_names(names: Iterable[str], config: JsonObject) -> None:
    """Recognise other packings by their tensor names, whatever the configuration says.

    Raises
    ------
    UnsupportedTensorType
        Some tensor belongs to another quantisation scheme.
    """
    for name in names:
        for suffix, method in _SUFFIXES.items():
            if name.endswith(suffix):
                raise _refusal(config, method, name)


def _names_bitnet(config: JsonObject) -> bool:
    return any("bitnet" in name.lower() for name in config.texts("architectures"))


def _refusal(config: JsonObject, method: str, field: str = "") -> UnsupportedTensorType:
    return UnsupportedTensorType(
        "unsupported",
        shown(field) or "config.json quantization_config",
        f"{shown(method)} checkpoints are not read",
        path=shown(config.path, 400),
        advice="Use the unquantised safetensors or a GGUF file of the same model.",
    )
