"""Vocabulary and metadata for models with the shapes of `edgesparse.benchmark.shapes`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, product

import numpy as np

from bench.gguf_stream import Value
from edgesparse.benchmark.shapes import SHAPES, Shape

__all__ = ["SHAPES", "Shape", "metadata", "vocabulary"]

N_CONTROL = 256
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"


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
