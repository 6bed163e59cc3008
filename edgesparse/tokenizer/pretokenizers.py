"""Pre-tokenizer rules by `tokenizer.ggml.pre`: how text is cut into words before BPE merging.

Patterns are the ones in the published `tokenizer.json` of each model family. They are data of
this package: a pattern that comes with a file is compared with this table and never executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers as pt

__all__ = ["KNOWN_PATTERNS", "PRE_RULES", "PreRule", "build_pre_tokenizer", "guess_pre"]

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_QWEN35 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+%s"
    r"|[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASED % ("", "", "")
_GPT4O = _CASED % (_CONTRACTION + "?", _CONTRACTION + "?", "{1,3}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreRule:
    """One rule.

    Attributes
    ----------
    steps : tuple[str, ...]
        Cuts in order: a pattern, or ``"@digits"`` (each digit alone), ``"@digit-runs"``,
        ``"@punctuation"`` (runs of punctuation), ``"@gpt2"`` (byte-level with its own pattern).
    ignore_merges : bool
        A word that is in the vocabulary is one token, whatever the merges say.
    add_bos : bool
        Whether text begins with BOS when the file does not say.
    nfc : bool
        Text is brought to Unicode normal form C first.
    """

    steps: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False


_LLAMA3_RULE = PreRule((_LLAMA3,), ignore_merges=True, add_bos=True)
_GPT2_RULE = PreRule(("@gpt2",))
_DIGITS_RULE = PreRule(("@digits", "@gpt2"))
_QWEN2_RULE = PreRule((_QWEN2,), nfc=True)

PRE_RULES: dict[str, PreRule] = {
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
        _LLAMA3_RULE,
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), PreRule((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2_RULE),
    "stablelm2": PreRule((_QWEN2,)),
    "qwen35": PreRule((_QWEN35,), nfc=True),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jina-en"), _GPT2_RULE),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS_RULE
    ),
    "falcon": PreRule(("@punctuation", "@gpt2", "@digit-runs", "[0-9][0-9][0-9]")),
    "tekken": PreRule((_TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), PreRule((_GPT4O,))),
    "deepseek-coder": PreRule(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, "@digits")),
    **dict.fromkeys(
        ("deepseek-v3", "deepseek-r1"), PreRule((r"\p{N}{1,3}", _DEEPSEEK_CJK, _DEEPSEEK_3))
    ),
}

KNOWN_PATTERNS: frozenset[str] = frozenset(
    {step for rule in PRE_RULES.values() for step in rule.steps if step[0] != "@"}
    | {
        _GPT2,
        _GPT2.removesuffix(r"|\s+"),
        r"\p{N}",
        r"\p{N}+",
        r"\d",
        r"\s+",
        " {2,}",
        r"\p{N}{1}",
        _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+" + _TAIL,
    }
)


def build_pre_tokenizer(rule: PreRule) -> pt.PreTokenizer:
    """Build the object that applies `rule` and maps bytes to the byte-level alphabet."""
    from tokenizers import Regex, pre_tokenizers

    parts: list[pt.PreTokenizer] = []
    mapped = False
    for step in rule.steps:
        if step == "@gpt2":
            parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
            mapped = True
        elif step == "@digits":
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif step == "@digit-runs":
            parts.append(pre_tokenizers.Digits(individual_digits=False))
        elif step == "@punctuation":
            parts.append(pre_tokenizers.Punctuation(behavior="contiguous"))
        else:
            parts.append(pre_tokenizers.Split(Regex(step), behavior="isolated"))
    if not mapped:
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


def guess_pre(n_vocab: int, has: frozenset[str]) -> str:
    """Guess the rule of a vocabulary whose file does not name one.

    Parameters
    ----------
    n_vocab : int
        Number of tokens.
    has : frozenset[str]
        Literals of its control tokens.
    """
    if n_vocab == 128_256 or "<|begin_of_text|>" in has:
        return "llama-bpe"
    if 151_000 <= n_vocab <= 152_100 and "<|im_start|>" in has:
        return "qwen2"
    if n_vocab == 49_152:
        return "smollm"
    if n_vocab == 131_072:
        return "tekken" if "[INST]" in has else "falcon3"
    if n_vocab in (65_024, 65_040):
        return "falcon"
    if n_vocab in (128_815, 129_280):
        return "deepseek-v3"
    return "gpt-2"
