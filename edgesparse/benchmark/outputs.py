"""Rows of measurements as text: csv, json, jsonl and sql of all values, md of chosen columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["FORMATS", "Column", "format_rows", "markdown"]

FORMATS = ("md", "csv", "json", "jsonl", "sql")

Record = Mapping[str, Any]
Column = tuple[str, bool, Callable[[Record], str]]
"""Heading, whether it holds numbers, and how to get the cell from a record."""

_SQL_TYPES = {bool: "INTEGER", int: "INTEGER", float: "REAL", str: "TEXT", type(None): "REAL"}
"""What is not known here is a number."""


def format_rows(
    rows: Sequence[Record], output: str, *, table: str, columns: Sequence[Column], notes: str = ""
) -> str:
    """Write rows in one of `FORMATS`.

    Parameters
    ----------
    rows : sequence of mapping
        Flat records with the same keys; lists in them appear in JSON only.
    output : str
    table : str
        Name of the SQL table.
    columns : sequence of Column
        Of the Markdown table.
    notes : str
        Lines below the Markdown table.
    """
    if output == "json":
        return json.dumps(rows, indent=2) + "\n"
    if output == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if output == "csv":
        return _csv(rows)
    if output == "sql":
        return _sql(rows, table)
    return markdown(rows, columns) + (f"\n{notes}\n" if notes else "")


def markdown(rows: Sequence[Record], columns: Sequence[Column]) -> str:
    """Lay rows out as a Markdown table whose columns also line up in a terminal."""
    cells = [[heading for heading, _, _ in columns]]
    cells += [[cell(row) for _, _, cell in columns] for row in rows]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    right = [number for _, number, _ in columns]
    lines = [
        [
            text.rjust(w) if r else text.ljust(w)
            for text, w, r in zip(line, widths, right, strict=True)
        ]
        for line in cells
    ]
    rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])


def _plain_keys(rows: Sequence[Record]) -> list[str]:
    return [key for key, value in rows[0].items() if not isinstance(value, list)] if rows else []


def _csv(rows: Sequence[Record]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _plain_keys(rows), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _sql(rows: Sequence[Record], table: str) -> str:
    keys = _plain_keys(rows)
    if not keys:
        return ""
    fields = ",\n".join(f"  {key} {_SQL_TYPES[type(rows[0][key])]}" for key in keys)
    lines = [f"CREATE TABLE IF NOT EXISTS {table} (\n{fields}\n);\n"]
    for row in rows:
        values = ", ".join(_sql_value(row[key]) for key in keys)
        lines.append(f"INSERT INTO {table} ({', '.join(keys)}) VALUES ({values});\n")
    return "\n".join(lines)


def _sql_value(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)):
        return repr(int(value) if isinstance(value, bool) else value)
    return "'" + str(value).replace("'", "''") + "'"
