"""Answers like llama-bench, at the speed that its first argument names."""

from __future__ import annotations

import json
import sys

speed, arguments = float(sys.argv[1]), sys.argv[2:]
values = dict(zip(arguments[::2], arguments[1::2], strict=False))
if values.get("--fail"):
    print("out of luck", file=sys.stderr)
    sys.exit(3)
row = {"n_prompt": int(values["-p"]), "n_gen": int(values["-n"]), "avg_ts": speed}
print("a line of chatter")
print(json.dumps([row | {"n_threads": int(values["-t"]), "model": values.get("-m", "")}]))
