"""One engine in a process of its own, which decodes when told to.

Run: python bench/worker.py edgesparse|llama.cpp MODEL THREADS [--plain]
Every line on stdin is ``tg N`` or ``pp N``; the answer is one line: tokens per second of decoding N
tokens one by one from an empty context, or of reading them as one prompt. ``READY`` comes first.
An idle worker waits on its stdin and takes no processor time, so several of them can take turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

Run = Callable[[str, int], None]
N_CTX = 1024


def edgesparse_runner(model_path: str | None, n_threads: int) -> Run:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import edgesparse

    engine = edgesparse.load(model_path, threads=n_threads, n_ctx=N_CTX).engine
    cache = engine.new_cache()

    def run(kind: str, n_tokens: int) -> None:
        if kind == "pp":
            engine.forward(cache, range(100, 100 + n_tokens), 0, chunk=engine.max_tokens)
            return
        for position in range(n_tokens):
            engine.forward(cache, [100 + position], position)

    return run


def llama_cpp_runner(model_path: str, n_threads: int, plain: bool) -> Run:
    import llama_cpp

    if plain:  # weights as the file has them: the AMX copies crash in some virtual machines
        defaults = llama_cpp.llama_cpp.llama_model_default_params

        def changed() -> object:
            parameters = defaults()
            parameters.use_extra_bufts = False
            return parameters

        llama_cpp.llama_cpp.llama_model_default_params = changed
    model = llama_cpp.Llama(
        model_path, n_ctx=N_CTX, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
    )

    def run(kind: str, n_tokens: int) -> None:
        model.reset()
        if kind == "pp":
            model.eval(list(range(100, 100 + n_tokens)))
            return
        for position in range(n_tokens):
            model.eval([100 + position])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("edgesparse", "llama.cpp"))
    parser.add_argument("model", help="a file; empty: the default model")
    parser.add_argument("threads", type=int)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    if options.engine == "edgesparse":
        run = edgesparse_runner(options.model or None, options.threads)
    else:
        run = llama_cpp_runner(options.model, options.threads, options.plain)
    run("tg", 8)
    print("READY", flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        n_tokens = int(number)
        begin = time.perf_counter()
        run(kind, n_tokens)
        print(n_tokens / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
