"""Choose and build the tokenizer that a checkpoint describes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer.default import choose_template
from edgesparse.tokenizer.metadata import Metadata, TokenizerSource
from edgesparse.tokenizer.pretokenizers import PRE_RULES
from edgesparse.tokenizer.tokenizer import Backend, Kind, Tokenizer
from edgesparse.tokenizer.vocabulary import (
    SpecialIds,
    Vocabulary,
    build_vocabulary,
    special_ids,
)

__all__ = ["load_tokenizer"]

MAX_TEMPLATE_CHARS = 256 * 1024


def load_tokenizer(
    checkpoint: TokenizerSource, *, overrides: Mapping[str, object] | None = None
) -> Tokenizer:
    """Build the tokenizer of a checkpoint.

    Parameters
    ----------
    checkpoint : TokenizerSource
        A GGUF file's metadata, or a folder with ``tokenizer.json``.
    overrides : Mapping[str, object], optional
        Metadata that wins over the file's, e.g. ``{"tokenizer.ggml.pre": "llama-bpe"}``.

    Raises
    ------
    TokenizerError
        If the description is missing, inconsistent or of a kind that is not supported.
    """
    meta = Metadata(checkpoint, overrides)
    model = meta.string("tokenizer.ggml.model")
    if model == "gpt2":
        return _load_bpe(meta)
    if model == "llama":
        return _load_spm(meta)
    if model is not None:
        raise TokenizerError(
            f'tokenizer.ggml.model is "{model[:64]}", which is not supported.',
            advice="Supported are gpt2 (byte-level BPE) and llama (SentencePiece).",
        )
    if checkpoint.tokenizer_json is not None:
        return _load_json(meta, checkpoint.tokenizer_json)
    if checkpoint.tokenizer_model is not None:
        return _load_spm_file(meta, checkpoint.tokenizer_model)
    raise TokenizerError(
        f"{checkpoint.path}: no tokenizer found (neither tokenizer.ggml.* nor "
        "tokenizer.json nor tokenizer.model).",
        advice="Use a model file that carries its tokenizer.",
    )


def _load_bpe(meta: Metadata) -> Tokenizer:
    from edgesparse.tokenizer.bpe import BpeBackend, choose_pre

    tokens = meta.tokens()
    vocabulary = build_vocabulary(tokens, meta.token_types(len(tokens)), meta.warnings)
    pre = choose_pre(meta, vocabulary)
    backend = BpeBackend(vocabulary, meta.merges(), PRE_RULES[pre])
    return _assemble(meta, backend, backend.vocabulary, "bpe", pre, PRE_RULES[pre].add_bos)


def _load_spm(meta: Metadata) -> Tokenizer:
    from edgesparse.tokenizer.spm import SpmBackend, infer_types

    tokens = meta.tokens()
    types = meta.token_types(len(tokens))
    if types is None:
        meta.warnings.append("tokenizer.ggml.token_type is missing; types are taken from names")
        types = infer_types(tokens)
    scores = meta.scores(len(tokens))
    if scores is None:
        meta.warnings.append("tokenizer.ggml.scores is missing; earlier tokens merge first")
        scores = -np.arange(len(tokens), dtype=np.float32)
    vocabulary = build_vocabulary(tokens, types, meta.warnings)
    space_prefix = meta.flag("tokenizer.ggml.add_space_prefix")
    backend = SpmBackend(
        vocabulary,
        scores,
        types,
        space_prefix=True if space_prefix is None else space_prefix,
        remove_extra_whitespaces=bool(meta.flag("tokenizer.ggml.remove_extra_whitespaces")),
    )
    return _assemble(meta, backend, vocabulary, "spm", "", add_bos=True)


def _load_spm_file(meta: Metadata, data: bytes) -> Tokenizer:
    from edgesparse.tokenizer.spm import SpmBackend
    from edgesparse.tokenizer.spm_file import read_spm_file

    file = read_spm_file(data)
    vocabulary = build_vocabulary(file.tokens, file.types, meta.warnings)
    backend = SpmBackend(
        vocabulary,
        file.scores,
        file.types,
        space_prefix=file.space_prefix,
        remove_extra_whitespaces=file.remove_extra_whitespaces,
    )
    special = special_ids(meta, vocabulary)
    bos = vocabulary.control.get("<s>") if special.bos is None else special.bos
    eos = vocabulary.control.get("</s>") if special.eos is None else special.eos
    ends = special.end_of_generation | ({eos} if eos is not None else set())
    special = SpecialIds(bos, eos, ends)
    return _assemble(meta, backend, vocabulary, "spm", "", add_bos=True, special=special)


def _load_json(meta: Metadata, data: bytes) -> Tokenizer:
    from edgesparse.tokenizer.json import JsonBackend

    backend = JsonBackend(data, meta.warnings)
    special = special_ids(meta, backend.vocabulary)
    if special.bos is None and len(backend.prefix) == 1:
        special = SpecialIds(backend.prefix[0], special.eos, special.end_of_generation)
    return _assemble(
        meta,
        backend,
        backend.vocabulary,
        "json",
        "",
        add_bos=bool(backend.prefix) and backend.prefix[0] == special.bos,
        special=special,
    )


def _assemble(
    meta: Metadata,
    backend: Backend,
    vocabulary: Vocabulary,
    kind: Kind,
    pre: str,
    add_bos: bool,
    *,
    special: SpecialIds | None = None,
) -> Tokenizer:
    own = meta.string("tokenizer.chat_template")
    if own is not None and len(own) > MAX_TEMPLATE_CHARS:
        meta.warnings.append(
            f"the chat template has {len(own)} characters, more than {MAX_TEMPLATE_CHARS}; ignored"
        )
        own = None
    own, fallback = choose_template(
        own,
        architecture=meta.string("general.architecture") or "",
        n_vocab=len(vocabulary),
        control=vocabulary.control,
        warnings=meta.warnings,
    )
    wants_bos = meta.flag("tokenizer.ggml.add_bos_token")
    return Tokenizer(
        backend,
        vocabulary,
        special_ids(meta, vocabulary) if special is None else special,
        kind=kind,
        pre=pre,
        add_bos=add_bos if wants_bos is None else wants_bos,
        add_eos=bool(meta.flag("tokenizer.ggml.add_eos_token")),
        chat_template=own,
        fallback=fallback,
        warnings=meta.warnings,
    )
