"""Text ↔ token ids, and conversations → token ids.

Map: `load` chooses · `metadata` typed reads of untrusted values · `vocabulary` roles of tokens ·
`bpe` + `pretokenizers` + `bytelevel`, `spm` + `spm_file`, `json` the kinds · `tokenizer` the one
interface ·
`stream` ids to text as they come · `split` special literals in text · `chat` what a user writes
stays text · `template` + `sandbox` + `rewrite` + `fuel` chat templates as untrusted programs ·
`default` built-in templates.
"""

from __future__ import annotations

from edgesparse.tokenizer.load import load_tokenizer
from edgesparse.tokenizer.metadata import TokenizerSource
from edgesparse.tokenizer.stream import StreamDecoder
from edgesparse.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerSource", "load_tokenizer"]
