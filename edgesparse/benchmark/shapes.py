"""Sizes of published ternary models, with where the numbers come from."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SHAPES", "Shape"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer with tied embeddings.

    Attributes
    ----------
    source : str
        Where the numbers stand.
    activation : str
        ``relu2`` or ``silu``; SiLU has no dead gates.
    sub_norms : bool
        BitNet's norms in front of ``attn_output`` and ``ffn_down``.
    """

    source: str
    width: int
    feed_forward: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    theta: float
    activation: str = "relu2"
    sub_norms: bool = True
    eps: float = 1e-5

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return the seven projections of a layer as (rows, columns)."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "attn_q": (q, self.width),
            "attn_k": (kv, self.width),
            "attn_v": (kv, self.width),
            "attn_output": (self.width, q),
            "ffn_gate": (self.feed_forward, self.width),
            "ffn_up": (self.feed_forward, self.width),
            "ffn_down": (self.width, self.feed_forward),
        }

    def norms(self) -> dict[str, int]:
        """Return the norms of a layer with their lengths."""
        norms = {"attn_norm": self.width, "ffn_norm": self.width}
        if self.sub_norms:
            norms["attn_sub_norm"] = self.n_heads * self.head_dim
            norms["ffn_sub_norm"] = self.feed_forward
        return norms


SHAPES = {
    "2b4t": Shape(
        "microsoft/bitnet-b1.58-2B-4T, config.json",
        *(2560, 6912, 30, 20, 5, 128, 128_256, 4096, 500_000.0),
    ),
    "700m": Shape(
        "1bitLLM/bitnet_b1_58-large, config.json; vocabulary 32002 there",
        *(1536, 4096, 24, 16, 16, 96, 32_002, 2048, 10_000.0, "silu"),
    ),
    # Listings of its I2_S file show 168 ternary matrices, 49 norms and a head of its own (same size
    # as the tied one here): 24 layers without sub-norms. Its configuration was not at hand: widths
    # are those of its maker's other ternary 1B model, the vocabulary is unconfirmed.
    "falcon-e-1b": Shape(
        "tiiuae/Falcon3-1B-Instruct-1.58bit, config.json, with Falcon-E-1B's 24 layers",
        *(2048, 8192, 24, 8, 4, 256, 32_768, 8192, 1_000_042.0, "silu", False, 1e-6),
    ),
    "smolbit": Shape(
        "the bundled SmolBit-190M, its file",
        *(768, 1536, 30, 12, 4, 64, 49_152, 2048, 100_000.0),
    ),
}
