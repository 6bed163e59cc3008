"""``edgesparse run``: one prompt, one answer."""

from __future__ import annotations

import argparse
import sys

from edgesparse.cli import loading, options

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    prompt = parser.add_argument_group("prompt")
    source = prompt.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt; '-' reads stdin")
    source.add_argument("-f", "--file", metavar="FILE", help="the prompt from a file")
    prompt.add_argument("-sys", "--system", "--system-prompt", metavar="TEXT", help="system prompt")
    prompt.add_argument(
        "--raw", action="store_true", help="continue the text itself, without the chat template"
    )
    prompt.add_argument(
        "--parse-special", action="store_true", help="with --raw: read control tokens in the text"
    )
    prompt.add_argument(
        "--raw-output", action="store_true", help="do not filter control characters on a terminal"
    )
    parser.add_argument("--json", action="store_true", help="the whole result as one JSON object")
    options.add_generation(parser)
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Answer the prompt; return the exit code."""
    from edgesparse.errors import UsageError

    if args.parse_special and not args.raw:
        raise UsageError("--parse-special needs --raw.")
    if args.raw and args.system is not None:
        raise UsageError("--system is part of the chat template, which --raw leaves out.")
    text = _prompt(args)
    if text is None:
        return _chat(args)
    if not text.strip() and not args.raw:
        raise UsageError("the prompt is empty.", advice="Give one with -p, -f or on stdin.")

    from edgesparse.cli.answering import StartAnswer, print_answer, speed_details
    from edgesparse.cli.terminal import Terminal

    changes = options.generation_changes(args)
    terminal = Terminal(color=not args.no_color, raw=args.raw_output)
    model = loading.load_model(args, terminal)
    loading.note_recommended(args, model, changes, terminal)
    start: StartAnswer
    if args.raw:
        from edgesparse.generate import prompt_tokens, stream

        ids = prompt_tokens(model.tokenizer, text, parse_special=args.parse_special)
        changes = model.info.recommended.under(changes)
        start = lambda cancel, progress: stream(  # noqa: E731 - reads as the twin of the one below
            model.engine, model.tokenizer, ids, cancel=cancel, on_prefill=progress, **changes
        )
    else:
        session = model.chat(system=args.system)
        start = lambda cancel, progress: session.stream(  # noqa: E731
            text, cancel=cancel, on_prefill=progress, **changes
        )
    result = print_answer(terminal, start, silent=args.json)
    if args.json:
        import json

        terminal.write(json.dumps(result.to_dict(), ensure_ascii=terminal.out_is_tty))
    if args.json or not result.text.endswith("\n"):
        terminal.write("\n")
    if result.finish_reason == "repetition" and not args.quiet:
        settings = model.info.recommended.under(changes)
        penalised = settings.get("repeat_penalty", 1.0) > 1.0
        advice = "" if penalised else "; --repeat-penalty 1.1 makes that rarer"
        terminal.note(f"(stopped: the text repeats itself{advice})")
    if args.verbose:
        terminal.note(speed_details(result.stats, model.info.quality))
    return 130 if result.finish_reason == "cancelled" else 0


def _prompt(args: argparse.Namespace) -> str | None:
    if args.file is not None:
        return options.read_prompt_file(args.file)
    if args.prompt == "-" or (args.prompt is None and not sys.stdin.isatty()):
        return options.read_prompt_file("-")
    prompt: str | None = args.prompt
    return prompt


def _chat(args: argparse.Namespace) -> int:
    """Without a prompt on a terminal there is somebody to talk to."""
    from edgesparse.cli import chat

    missing = {"single_turn": False, "system_prompt_file": None, "load": None}
    return chat.run(argparse.Namespace(**{**vars(args), **missing}))
