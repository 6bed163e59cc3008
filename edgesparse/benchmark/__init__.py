"""Measuring: every speed beside what the machine allows.

``tokens.py`` llama-bench's rows of one model · ``profile.py`` where its time goes, op by op ·
``kernels.py`` single kernels in plans of one kind of op · ``shapes.py`` sizes of published models ·
``outputs.py`` rows as md, csv, json, jsonl and sql.
"""

from edgesparse.benchmark.tokens import Row, measure, working_set_bandwidth

__all__ = ["Row", "measure", "working_set_bandwidth"]
