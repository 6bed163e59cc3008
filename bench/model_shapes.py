"""Shapes of published ternary models, with where the numbers come from, and their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from bench.gguf_stream import Value

__all__ = ["SHAPES", "Shape", "metadata", "vocabulary"]

N_CONTROL = 256
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"


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


def vocabulary(n: int) -> tuple[list[str], list[str], np.ndarray]:
    """Return `n` tokens of a byte-level BPE, its merges and the token types.

    256 bytes, then words of two, three and four letters, each one letter longer than the token it
    is merged from, then 256 control tokens with Llama 3's names.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = dict(zip(printable, map(chr, printable), strict=True))
    alphabet |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [alphabet[byte] for byte in range(256)]
    words = ("".join(w) for length in (2, 3, 4) for w in product(_LETTERS, repeat=length))
    words_needed = n - len(tokens) - N_CONTROL
    if not 0 <= words_needed <= 26**2 + 26**3 + 26**4:
        raise ValueError(f"a vocabulary of {n} tokens cannot be made")
    merged = list(islice(words, words_needed))
    merges = [f"{word[:-1]} {word[-1]}" for word in merged]
    named = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 9: "<|eot_id|>"}
    control = [named.get(i, f"<|reserved_special_token_{i}|>") for i in range(N_CONTROL)]
    types = np.ones(n, np.int32)
    types[n - N_CONTROL :] = 3
    return [*tokens, *merged, *control], merges, types


def metadata(shape: Shape, architecture: str, name: str, file_type: int) -> Mapping[str, Value]:
    """Return everything that engines want to know besides the tensors."""
    tokens, merges, types = vocabulary(shape.n_vocab)
    a = architecture
    return {
        "general.architecture": a,
        "general.name": name,
        "general.file_type": file_type,
        "general.quantization_version": 2,
        f"{a}.vocab_size": shape.n_vocab,
        f"{a}.context_length": shape.n_ctx,
        f"{a}.embedding_length": shape.width,
        f"{a}.block_count": shape.n_layers,
        f"{a}.feed_forward_length": shape.feed_forward,
        f"{a}.hidden_activation": shape.activation,
        f"{a}.rope.dimension_count": shape.head_dim,
        f"{a}.rope.freq_base": shape.theta,
        f"{a}.attention.head_count": shape.n_heads,
        f"{a}.attention.head_count_kv": shape.n_kv_heads,
        f"{a}.attention.key_length": shape.head_dim,
        f"{a}.attention.value_length": shape.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": shape.eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": shape.n_vocab - N_CONTROL,
        "tokenizer.ggml.eos_token_id": shape.n_vocab - N_CONTROL + 1,
        "tokenizer.ggml.padding_token_id": shape.n_vocab - N_CONTROL + 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }
