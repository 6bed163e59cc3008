"""Logits → one token: `options` says how (and imports no numpy), `sampler` does it.

`recommended` reads what a model's files ask for. The order is fixed: penalties → top-k → top-p →
min-p → temperature → a seeded draw.
"""

from __future__ import annotations

from edgesparse.sampling.options import SamplingOptions

__all__ = ["SamplingOptions"]
