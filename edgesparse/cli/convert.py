"""``edgesparse convert``: a pre-packed file, which loads without repacking."""

from __future__ import annotations

import argparse
import os

from edgesparse.cli import loading, options

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument("output", metavar="OUT", help="the file to write, for example model.esp")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    options.add_engine(parser, thresholds=False, predict=False)


def run(args: argparse.Namespace) -> int:
    """Write the file; return the exit code."""
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.cli.terminal import Terminal
    from edgesparse.default_model import default_model_path
    from edgesparse.errors import UsageError
    from edgesparse.esp import write_esp

    path, output = loading.model_path(args) or default_model_path(), args.output
    if os.path.exists(output):
        if os.path.isdir(output) or os.path.samefile(path, output):
            raise UsageError(f"{output}: is the model or a folder.", advice="Choose another.")
        if not args.force:
            raise UsageError(f"{output}: is there already.", advice="--force replaces it.")
    with (
        loading.load_model(args) as model,
        open_checkpoint(path, i2s_layout=args.i2s_layout) as checkpoint,
    ):
        n_bytes = write_esp(model, checkpoint, output)
        text = f"{output}: {n_bytes / 1e6:.1f} MB, {model.info.formats}; {model.info.quality}\n"
    Terminal(color=not args.no_color).write(text)
    return 0
