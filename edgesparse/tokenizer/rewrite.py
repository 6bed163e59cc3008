"""Put the meter into a template's syntax tree, and refuse what no chat template needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn, cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from edgesparse.errors import TemplateError
from edgesparse.tokenizer.fuel import Limits

__all__ = ["rewrite"]

_REFUSED = (
    nodes.Block,
    nodes.Extends,
    nodes.FromImport,
    nodes.Import,
    nodes.Include,
    nodes.ScopedEvalContextModifier,
)


def rewrite(
    tree: nodes.Template, limits: Limits, *, filters: Collection[str], tests: Collection[str]
) -> nodes.Template:
    """Check and instrument a parsed template, in place.

    Parameters
    ----------
    tree : jinja2.nodes.Template
        As parsed.
    limits : Limits
        Bounds of its size and depth.
    filters, tests : collection of str
        Names that may be used.

    Raises
    ------
    TemplateError
        On a tree too large or deep, a statement that loads other templates, an attribute that
        begins with an underscore, or an unknown filter or test.
    """
    _check_size(tree, limits)
    _Instrument(filters, tests).visit(tree)
    return tree


def _check_size(tree: nodes.Template, limits: Limits) -> None:
    count, level = 0, [tree]
    depth = 0
    while level:
        count += len(level)
        depth += 1
        if count > limits.nodes or depth > limits.nesting:
            raise TemplateError(
                f"the chat template is too large or too deeply nested (at most {limits.nodes} "
                f"nodes, {limits.nesting} levels)."
            )
        level = [child for node in level for child in node.iter_child_nodes()]  # type: ignore[misc]


class _Instrument(NodeTransformer):
    def __init__(self, filters: Collection[str], tests: Collection[str]) -> None:
        self._filters = filters
        self._tests = tests

    def generic_visit(self, node: nodes.Node, *args: object, **kwargs: object) -> nodes.Node:
        if isinstance(node, _REFUSED):
            _refuse(node, f"the statement {type(node).__name__.lower()}")
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.For:
        cost = _cost(node.body)
        self.generic_visit(node)
        node.iter = _guard("guard_iterate", cast(nodes.Expr, node.iter))
        node.body.insert(0, _spend(cost, node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        cost = _cost(node.body)
        self.generic_visit(node)
        node.body.insert(0, _spend(cost, node.lineno))
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        cost = _cost(node.body)
        self.generic_visit(node)
        node.body.insert(0, _spend(cost, node.lineno))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _guard("guard_concat", *node.nodes)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _weighed(node.key)
        return node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Getattr:
        if node.attr.startswith("_"):
            _refuse(node, f"the attribute {node.attr[:64]!r}")
        self.generic_visit(node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):  # compiled to plain Python, past the environment
            node.node = _guard("guard_slice", node.node)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        if node.name not in self._filters:
            _refuse(node, f"the filter {node.name[:64]!r}")
        self.generic_visit(node)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        if node.name not in self._tests:
            _refuse(node, f"the test {node.name[:64]!r}")
        self.generic_visit(node)
        return node


def _cost(body: list[nodes.Node]) -> int:
    """Bound the steps of one pass through `body`, its literal text included."""
    count = chars = 0
    stack = list(body)
    while stack:
        node = stack.pop()
        count += 1
        if isinstance(node, nodes.TemplateData):
            chars += len(node.data)
        stack.extend(node.iter_child_nodes())
    return 1 + count // 8 + chars // 32


def _guard(name: str, *args: nodes.Expr) -> nodes.Call:
    target = nodes.EnvironmentAttribute(name)
    call = nodes.Call(target, list(args), [], None, None)
    for node in (target, call):
        node.lineno = args[0].lineno
    return call


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _guard("guard_weigh", node)


def _spend(cost: int, lineno: int) -> nodes.ExprStmt:
    amount = nodes.Const(cost)
    amount.lineno = lineno
    statement = nodes.ExprStmt(_guard("guard_spend", amount))
    statement.lineno = lineno
    return statement


def _refuse(node: nodes.Node, what: str) -> NoReturn:
    raise TemplateError(f"chat template, line {node.lineno}: {what} is not allowed.")
