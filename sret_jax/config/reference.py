"""What there is to set, for people: every field with its default, what it may hold and what it means.

Made of the rules beside the fields, and of the comments there: at the end of a field's line, or above it.
"""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from sret_jax.config.base import Config
from sret_jax.config.rules import Rule, rules_of, shown


class Field(NamedTuple):
    """One field: its dotted path, its rule, its default, and what its comment says of it."""

    path: str
    rule: Rule
    default: object
    about: str


def fields(cls: type = Config, path: str = "config.") -> Iterator[Field]:
    """Of a class that is `ruled`, its sections' too, in their order."""
    default, rules, comments = cls(), rules_of(cls), comments_of(cls)
    for field in dataclasses.fields(cls):
        value = getattr(default, field.name)
        if field.name in rules:
            yield Field(path + field.name, rules[field.name], value, comments.get(field.name, ""))
        else:
            yield from fields(type(value), f"{path}{field.name}.")


def help_text() -> str:
    """What `--help` says of the fields of a config."""
    lines = ["The config, field by field: --config.FIELD=VALUE.", ""]
    for field in fields():
        lines.append(f"  --{field.path}={shown(field.default)}")
        said = f"{field.rule.says()}; {field.about}" if field.about else field.rule.says()
        lines += textwrap.wrap(said, width=110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def markdown() -> str:
    """The page of the documentation: a table for every section."""
    lines = [
        "# Fields",
        "",
        "Every field of a config, and what it may hold. All else is refused by its name.",
        "",
    ]
    section = None
    for field in fields():
        before, _, name = field.path.rpartition(".")
        if before != section:
            section = before
            lines += ["", f"## `{section}`", "", "| field | default | may be | meaning |", "|---|---|---|---|"]
        row = (f"`{name}`", f"`{shown(field.default)}`", field.rule.says(), field.about)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |")
    return "\n".join(lines) + "\n"


@cache
def comments_of(cls: type) -> dict[str, str]:
    """By the name of a field, the comment at the end of its line, or the lines above it; {} without the source."""
    try:
        text = textwrap.dedent(inspect.getsource(cls))
    except OSError:
        return {}
    comments: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if token.line.strip().startswith("#"):
                alone.add(token.start[0])
    (definition,) = ast.parse(text).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            said = [comments[line] for line in own if line in comments]
            line = node.lineno - 1
            while line in alone:
                said.insert(0, comments[line])
                line -= 1
            found[node.target.id] = " ".join(said)
    return found
