"""One engine in a process of its own, which decodes when told to.

Run: python bench/worker.py edgesparse|llama.cpp MODEL THREADS [--plain]
Every line on stdin is a number of tokens; the answer is one line: tokens per second of decoding
them from an empty context, one by one. ``READY`` comes first. An idle worker waits on its stdin and
takes no processor time, so several of them can take turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path


def edgesparse_decoder(model_path: str | None, n_threads: int) -> Callable[[int], None]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import edgesparse

    engine = edgesparse.load(model_path, threads=n_threads, n_ctx=512).engine
    cache = engine.new_cache()

    def decode(n_tokens: int) -> None:
        for position in range(n_tokens):
            engine.forward(cache, [100 + position], position)

    return decode


def llama_cpp_decoder(model_path: str, n_threads: int, plain: bool) -> Callable[[int], None]:
    import llama_cpp

    if plain:  # weights as the file has them: the AMX copies crash in some virtual machines
        defaults = llama_cpp.llama_cpp.llama_model_default_params

        def changed() -> object:
            parameters = defaults()
            parameters.use_extra_bufts = False
            return parameters

        llama_cpp.llama_cpp.llama_model_default_params = changed
    model = llama_cpp.Llama(model_path, n_ctx=512, n_threads=n_threads, verbose=False)

    def decode(n_tokens: int) -> None:
        model.reset()
        for position in range(n_tokens):
            model.eval([100 + position])

    return decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("edgesparse", "llama.cpp"))
    parser.add_argument("model", help="a file; empty: the default model")
    parser.add_argument("threads", type=int)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    if options.engine == "edgesparse":
        decode = edgesparse_decoder(options.model or None, options.threads)
    else:
        decode = llama_cpp_decoder(options.model, options.threads, options.plain)
    decode(8)
    print("READY", flush=True)
    for line in sys.stdin:
        n_tokens = int(line)
        begin = time.perf_counter()
        decode(n_tokens)
        print(n_tokens / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
