"""``edgesparse plan``: the ops that a model runs, their bytes and the ceiling these set."""

from __future__ import annotations

import argparse

from edgesparse.cli import loading, options

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    options.add_engine(parser)
    parser.add_argument(
        "--position", type=int, default=0, metavar="N", help="cost decoding at this position"
    )
    parser.add_argument("--all", action="store_true", help="show every layer")
    parser.add_argument(
        "--no-measure", action="store_true", help="do not measure the read bandwidth"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    import json

    from edgesparse.benchmark import working_set_bandwidth
    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError
    from edgesparse.plan.cost import plan_costs
    from edgesparse.plan.printer import plan_rows, plan_summary, plan_table

    with loading.load_model(args) as model:
        plan, n_threads = model.engine.plan, model.engine.n_threads
        if not 0 <= args.position < plan.n_ctx:
            raise UsageError(f"--position must be in [0, {plan.n_ctx}), not {args.position}.")
        costs = plan_costs(plan, model.parameters, args.position)
        need = model.info.memory
        n_bytes = sum(cost.n_bytes for cost in costs)
        bandwidth = None if args.no_measure else working_set_bandwidth(n_threads, n_bytes)
        terminal = Terminal(color=not args.no_color)
        if args.output == "json":
            data = {
                "ops": plan_rows(costs, bandwidth),
                "summary": plan_summary(plan, costs, args.position, bandwidth)
                | {"head": model.info.head, "quality": model.info.quality}
                | ({"memory": need.to_dict()} if need else {}),
            }
            terminal.write(json.dumps(data) + "\n")
        else:
            table = plan_table(plan, costs, args.position, bandwidth, all_layers=args.all)
            terminal.write(table + "\n")
            texts = {"head": model.info.head, "quality": model.info.quality}
            if need:
                texts["memory"] = need.describe()
            for name, text in texts.items():
                terminal.write(f"{name:<28}{text}\n")
    return 0
