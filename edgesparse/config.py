"""`ModelConfig`: the numbers of a model, read from metadata and checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.experts import MAX_EXPERTS
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.plan.op import GluKind, RopeStyle

if TYPE_CHECKING:
    from edgesparse.checkpoint import Checkpoint

__all__ = ["ExpertConfig", "ModelConfig", "RopeScaling", "read_config"]

_MAX_WIDTH = 1 << 17
_MAX_LAYERS = 1 << 10
_MAX_CONTEXT = 1 << 22
_I32_MAX = (1 << 31) - 1
_GLU_KINDS = {
    "silu": GluKind.SILU,
    "relu2": GluKind.RELU2,
    "relu": GluKind.RELU,
    "fatrelu": GluKind.RELU,
    "shiftrelu": GluKind.RELU,
    "gelu_pytorch_tanh": GluKind.GELU,
}
_MAX_GATE_THRESHOLD = 1e3
_NAMES_OF_RELUS = ("prosparse", "turbosparse", "relu")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies differ from the plain ones.

    Attributes
    ----------
    kind : str
        ``none``, ``linear``, ``llama3`` or ``yarn``.
    factor : float
        Stretch of the context.
    original_ctx : int
        Context length of the original training (``llama3``, ``yarn``).
    low, high : float
        ``llama3``: low and high frequency factors; ``yarn``: slow and fast betas.
    magnitude : float
        Factor on cosines and sines (``yarn``), else 1.
    """

    kind: str = "none"
    factor: float = 1.0
    original_ctx: int = 0
    low: float = 1.0
    high: float = 1.0
    magnitude: float = 1.0

    def divisors(self, rope_dim: int, theta: float) -> npt.NDArray[np.float64] | None:
        """Return what to divide each of the rope_dim / 2 frequencies by; None: nothing."""
        pairs = np.arange(rope_dim // 2, dtype=np.float64)
        if self.kind == "linear":
            return np.full(rope_dim // 2, self.factor)
        if self.kind == "llama3":
            wavelength = 2 * math.pi * theta ** (2 * pairs / rope_dim)
            t = (self.original_ctx / wavelength - self.low) / (self.high - self.low)
            # t <= 0: long waves, fully stretched; t >= 1: short waves, left alone.
            t = np.clip(t, 0, 1)
            return np.asarray(1 / ((1 - t) / self.factor + t))
        if self.kind == "yarn":
            low = max(0, math.floor(self._yarn_corner(rope_dim, theta, self.high)))
            high = min(rope_dim - 1, math.ceil(self._yarn_corner(rope_dim, theta, self.low)))
            r = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
            return np.asarray(1 / (r + (1 - r) / self.factor))
        return None

    def _yarn_corner(self, rope_dim: int, theta: float, beta: float) -> float:
        """Return the pair that turns `beta` times within the original context."""
        turns = math.log(self.original_ctx / (2 * math.pi * beta))
        return rope_dim * turns / (2 * math.log(theta))


@dataclass(frozen=True)
class ExpertConfig:
    """Mixture of experts in the place of a feed-forward.

    Attributes
    ----------
    n_experts, n_used : int
        Experts of a layer, and how many of them a token uses.
    feed_forward, shared_feed_forward : int
        Neurons of one expert, and of the one that every token uses.
    normalize : bool
        Whether the weights of the chosen experts add up to 1.
    """

    n_experts: int
    n_used: int
    feed_forward: int
    shared_feed_forward: int
    normalize: bool


@dataclass(frozen=True)
class ModelConfig:
    """Shape and rules of a decoder-only transformer.

    Attributes
    ----------
    architecture, name : str
        Family and the file's own name for the model.
    n_layers, width, feed_forward, n_heads, n_kv_heads, head_dim, n_vocab : int
        Sizes.
    n_ctx : int
        Positions the model was made for.
    eps : float
        RMSNorm epsilon.
    glu : GluKind
        Gate of the feed-forward.
    gate_shift, gate_cutoff : float
        Subtracted from the gate (shifted ReLU), and below which it counts as 0 (FATReLU).
    rope_dim, rope_theta, rope_style, rope_scaling
        Rotary embedding.
    window : int
        Positions that a local layer attends to; 0: there are no local layers.
    window_period : int
        Every such layer is not local after all; 0: none is.
    rope_theta_local : float or None
        Base of the local layers' frequencies, which are not scaled; None: as for the others.
    attention_scale : float or None
        Factor on the dot products; None: one over the root of `head_dim`.
    experts : ExpertConfig or None
        Mixture of experts, in layers that have a router.
    """

    architecture: str
    name: str
    n_layers: int
    width: int
    feed_forward: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    eps: float
    glu: GluKind
    rope_dim: int
    rope_theta: float
    rope_style: RopeStyle
    rope_scaling: RopeScaling
    window: int = 0
    window_period: int = 0
    rope_theta_local: float | None = None
    attention_scale: float | None = None
    experts: ExpertConfig | None = None
    gate_shift: float = 0.0
    gate_cutoff: float = 0.0

    @property
    def activation(self) -> str:
        """What the feed-forward's gate goes through, for people."""
        if self.gate_cutoff:
            return f"fatrelu: gates below {self.gate_cutoff:g} count as 0"
        if self.gate_shift:
            return f"shiftrelu: a relu of the gate less {self.gate_shift:g}"
        return self.glu.name.lower()

    def is_local(self, layer: int) -> bool:
        """Tell whether a layer attends to a window only."""
        if self.window_period and (layer + 1) % self.window_period == 0:
            return False
        return self.window > 0


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """Read a checkpoint's metadata.

    Raises
    ------
    ModelFormatError
        A key is missing, of another type, out of range, or contradicts another.
    """
    a = checkpoint.get_str("general.architecture")
    width = checkpoint.get_int(f"{a}.embedding_length", lo=1, hi=_MAX_WIDTH)
    n_heads = checkpoint.get_int(f"{a}.attention.head_count", lo=1, hi=_MAX_WIDTH)
    n_kv_heads = checkpoint.get_int(f"{a}.attention.head_count_kv", n_heads, lo=1, hi=n_heads)
    if n_heads % n_kv_heads:
        raise _error(
            checkpoint,
            f"{a}.attention.head_count_kv",
            f"expected a divisor of the {n_heads} heads, found {n_kv_heads}",
        )
    head_dim = checkpoint.get_int(f"{a}.attention.key_length", width // n_heads, lo=2, hi=1024)
    value_dim = checkpoint.get_int(f"{a}.attention.value_length", head_dim, lo=2, hi=1024)
    if value_dim != head_dim or head_dim % 2:
        raise _error(
            checkpoint,
            f"{a}.attention.value_length",
            f"expected the even key length {head_dim}, found {value_dim}",
        )
    rope_dim = checkpoint.get_int(f"{a}.rope.dimension_count", head_dim, lo=2, hi=head_dim)
    if rope_dim % 2:
        raise _error(checkpoint, f"{a}.rope.dimension_count", f"expected even, found {rope_dim}")
    n_layers = checkpoint.get_int(f"{a}.block_count", lo=1, hi=_MAX_LAYERS)
    n_vocab = checkpoint.info("token_embd.weight").shape[0]
    if f"{a}.final_logit_softcapping" in checkpoint.metadata:
        raise ModelFormatError(
            "unsupported",
            f"{a}.final_logit_softcapping",
            "models with capped logits are not run",
            path=checkpoint.path,
        )
    style = checkpoint.get_str("edgesparse.rope_style", "neox")
    theta = checkpoint.get_float(f"{a}.rope.freq_base", 10_000.0, lo=1.001, hi=1e12)
    return ModelConfig(
        architecture=a,
        name=checkpoint.get_str("general.name", a),
        n_layers=n_layers,
        width=width,
        feed_forward=checkpoint.get_int(f"{a}.feed_forward_length", lo=1, hi=_MAX_WIDTH),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        n_vocab=n_vocab,
        n_ctx=checkpoint.get_int(f"{a}.context_length", 2048, lo=1, hi=_MAX_CONTEXT),
        eps=checkpoint.get_float(f"{a}.attention.layer_norm_rms_epsilon", lo=0.0, hi=0.1),
        glu=_glu_kind(checkpoint, a, n_layers, n_vocab),
        rope_dim=rope_dim,
        rope_theta=theta,
        rope_style=RopeStyle.NORM if style == "norm" else RopeStyle.NEOX,
        rope_scaling=_rope_scaling(checkpoint, a),
        window=checkpoint.get_int(f"{a}.attention.sliding_window", 0, lo=0, hi=_I32_MAX),
        window_period=_window_period(checkpoint, a),
        rope_theta_local=_local_theta(checkpoint, a),
        attention_scale=_attention_scale(checkpoint, a, width, n_heads, n_layers),
        experts=_experts(checkpoint, a),
        gate_shift=_gate_threshold(checkpoint, a, "shiftrelu"),
        gate_cutoff=_gate_threshold(checkpoint, a, "fatrelu"),
    )


def _experts(checkpoint: Checkpoint, a: str) -> ExpertConfig | None:
    """Read the sizes of a mixture of experts; None without one.

    Files of Mixtral do not say how wide an expert is: as wide as a feed-forward. In old files of
    Qwen2-MoE those that a token uses are so together. Qwen2-MoE alone leaves the weights of the
    chosen experts as they are.
    """
    has_router = any(name.endswith(".ffn_gate_inp.weight") for name in checkpoint.tensors)
    if not has_router:
        return None
    n_experts = checkpoint.get_int(f"{a}.expert_count", lo=1, hi=MAX_EXPERTS)
    gating = checkpoint.get_int(f"{a}.expert_gating_func", 0, lo=0, hi=1 << 16)
    groups = checkpoint.get_int(f"{a}.expert_group_count", 1, lo=0, hi=1 << 16)
    scale = checkpoint.get_float(f"{a}.expert_weights_scale", 1.0, lo=-1e6, hi=1e6)
    for key, is_known in (
        ("expert_gating_func", gating in (0, 1)),
        ("expert_group_count", groups in (0, 1)),
        ("expert_weights_scale", scale in (0.0, 1.0)),
    ):
        if not is_known:
            raise ModelFormatError(
                "unsupported",
                f"{a}.{key}",
                "experts are chosen in another way than by a plain softmax",
                path=checkpoint.path,
            )
    size = checkpoint.get_int(f"{a}.feed_forward_length", lo=1, hi=_MAX_WIDTH)
    shared = checkpoint.get_int(f"{a}.expert_shared_feed_forward_length", size, lo=1, hi=_MAX_WIDTH)
    n_used = checkpoint.get_int(f"{a}.expert_used_count", lo=1, hi=n_experts)
    default = size if a == "llama" else max(1, size // n_used)
    return ExpertConfig(
        n_experts,
        n_used,
        checkpoint.get_int(f"{a}.expert_feed_forward_length", default, lo=1, hi=_MAX_WIDTH),
        shared,
        checkpoint.get_bool(f"{a}.expert_weights_norm", a != "qwen2moe"),
    )


def _window_period(checkpoint: Checkpoint, a: str) -> int:
    default = 6 if a == "gemma3" else 0
    key = f"{a}.attention.sliding_window_pattern"
    return checkpoint.get_int(key, default, lo=0, hi=_MAX_LAYERS)


def _local_theta(checkpoint: Checkpoint, a: str) -> float | None:
    key = f"{a}.rope.freq_base_swa"
    if a != "gemma3" and key not in checkpoint.metadata:
        return None
    return checkpoint.get_float(key, 10_000.0, lo=1.001, hi=1e12)


def _attention_scale(
    checkpoint: Checkpoint, a: str, width: int, n_heads: int, n_layers: int
) -> float | None:
    key = f"{a}.attention.scale"
    if key in checkpoint.metadata:
        return checkpoint.get_float(key, lo=1e-6, hi=1e3)
    # Gemma 3 27B alone divides by width over heads; its GGUF files do not say so.
    return 1.0 / math.sqrt(width // n_heads) if (a, n_layers) == ("gemma3", 62) else None


def _glu_kind(checkpoint: Checkpoint, a: str, n_layers: int, n_vocab: int) -> GluKind:
    """Apply the rule for files that do not say: BitNet 2B-4T carries no activation key."""
    name = checkpoint.get_str(f"{a}.hidden_activation", "")
    if name:
        if name not in _GLU_KINDS:
            known = ", ".join(_GLU_KINDS)
            detail = f"expected one of {known}, found {name!r}"
            raise _error(checkpoint, f"{a}.hidden_activation", detail)
        return _GLU_KINDS[name]
    if a in ("bitnet-b1.58", "bitnet-25"):
        return GluKind.RELU2
    if a == "bitnet":
        small = n_layers in (24, 26) and not (n_vocab == 128_256 and n_layers == 30)
        return GluKind.SILU if small else GluKind.RELU2
    if a == "gemma3":
        return GluKind.GELU
    title = checkpoint.get_str("general.name", "")
    if any(word in title.lower() for word in _NAMES_OF_RELUS):
        checkpoint.warnings.append(
            "the file does not say its activation, so it runs with SiLU; its name "
            f"{shown(title)} speaks of a ReLU, without which such models answer nonsense: "
            "take the original folder, whose config.json says it, or a file of PowerInfer"
        )
    return GluKind.SILU


def _gate_threshold(checkpoint: Checkpoint, a: str, activation: str) -> float:
    """Read what an activation with a threshold has beside its name; others may have it in vain."""
    if checkpoint.get_str(f"{a}.hidden_activation", "") != activation:
        return 0.0
    key = f"{a}.hidden_activation_param"
    return checkpoint.get_float(key, lo=0.0, hi=_MAX_GATE_THRESHOLD)


def _rope_scaling(checkpoint: Checkpoint, a: str) -> RopeScaling:
    prefix = f"{a}.rope.scaling."
    kind = checkpoint.get_str(prefix + "type", "none")
    factor = checkpoint.get_float(prefix + "factor", 1.0, lo=1e-3, hi=1e6)
    if kind == "none":
        old = checkpoint.get_float(f"{a}.rope.scale_linear", 1.0, lo=1e-3, hi=1e6)
        return RopeScaling("linear", old) if old != 1.0 else RopeScaling()
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind not in ("llama3", "yarn"):
        raise _error(checkpoint, prefix + "type", f"scaling {kind[:64]!r} is not supported")
    original = checkpoint.get_int(prefix + "original_context_length", lo=1, hi=_MAX_CONTEXT)
    if kind == "llama3":
        low = checkpoint.get_float(prefix + "low_freq_factor", lo=1e-3, hi=1e4)
        high = checkpoint.get_float(prefix + "high_freq_factor", lo=low * 1.0001, hi=1e4)
        return RopeScaling("llama3", factor, original, low, high)
    slow = checkpoint.get_float(prefix + "yarn_beta_slow", 1.0, lo=1e-3, hi=1e4)
    fast = checkpoint.get_float(prefix + "yarn_beta_fast", 32.0, lo=1e-3, hi=1e4)
    attention = checkpoint.get_float(prefix + "attn_factor", 1.0, lo=1e-3, hi=1e3)
    magnitude = attention * (1.0 + 0.1 * math.log(factor))
    return RopeScaling("yarn", factor, original, slow, fast, magnitude)


def _error(checkpoint: Checkpoint, field: str, detail: str) -> ModelFormatError:
    return ModelFormatError("range", field, detail, path=checkpoint.path)
