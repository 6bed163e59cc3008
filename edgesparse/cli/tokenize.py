"""``edgesparse tokenize``: text to ids and pieces, or ids to text."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.tokenizer import Tokenizer

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the text (default: stdin)")
    source.add_argument("-f", "--file", metavar="FILE", help="the text from a file")
    source.add_argument("--ids", metavar="LIST", help="give the text of these ids instead")
    parser.add_argument(
        "--add-special", action="store_true", help="add BOS and EOS where the model wants them"
    )
    parser.add_argument(
        "--parse-special", action="store_true", help="read literals of control tokens as tokens"
    )
    parser.add_argument("--chat", action="store_true", help="put the text into the chat template")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Print tokens, one per line with its id and piece, or text; return the exit code."""
    import json

    from edgesparse.cli.terminal import Terminal

    ids = _parse_ids(args.ids) if args.ids is not None else None
    text = ""
    if ids is None:
        text = args.prompt if args.prompt is not None else ""
        if args.prompt is None:
            text = options.read_prompt_file(args.file if args.file is not None else "-")
    tokenizer = _load(args)
    terminal = Terminal(color=not args.no_color)
    if ids is not None:
        text = tokenizer.decode(ids, skip_special=False)
        data: dict[str, object] = {"ids": ids, "text": text}
        terminal.write(json.dumps(data) if args.output == "json" else text)
        terminal.write("\n")
        return 0
    if args.chat:
        ids = tokenizer.encode_chat([{"role": "user", "content": text}])
    else:
        ids = tokenizer.encode(text, add_special=args.add_special, parse_special=args.parse_special)
    pieces = [tokenizer.piece(token) for token in ids]
    if args.output == "json":
        shown = [piece.decode("utf-8", "backslashreplace") for piece in pieces]
        terminal.write(json.dumps({"ids": ids, "pieces": shown, "count": len(ids)}) + "\n")
        return 0
    for token, piece in zip(ids, pieces, strict=True):
        terminal.write(f"{token:>7}  {_quoted(piece)}\n")
    return 0


def _load(args: argparse.Namespace) -> Tokenizer:
    """Load the tokenizer alone, without weights."""
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.default_model import default_model_path
    from edgesparse.tokenizer import load_tokenizer

    with open_checkpoint(loading.model_path(args) or default_model_path()) as checkpoint:
        tokenizer = load_tokenizer(checkpoint)
        loading.print_warnings([*checkpoint.warnings, *tokenizer.warnings], args)
        return tokenizer


def _quoted(piece: bytes) -> str:
    """Show a piece so that spaces, line ends and half characters can be seen."""
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:
        return repr(piece)


def _parse_ids(text: str) -> list[int]:
    from edgesparse.errors import UsageError

    words = [word for word in re.split(r"[\s,\[\]]+", text) if word]
    if not all(re.fullmatch(r"[0-9]{1,10}", word) for word in words):
        raise UsageError(f"--ids: expected numbers, found {text!r}.")
    return [int(word) for word in words]
