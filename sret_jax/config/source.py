"""What a function or class computes, as far as the file that defines it says: a digest that comments do not change."""

import ast
import hashlib


class Unreadable(Exception):
    """There is no such definition in the text."""


def definition_line(text: str, name: str) -> int:
    """The line of `def` or `class`. Raises `Unreadable` where the text does not define the name at its top."""
    return _definitions(text, name)[name][0].lineno


def source_digest(text: str, name: str) -> str:
    """sha256 of a definition and of all that it names in the same text, directly or not.

    Comments, docstrings and line breaks do not count, nor does what the text defines and this does not use. What is
    imported counts by its name, not by what it does.

    Raises `Unreadable` where the text is no Python, or does not define the name at its top.
    """
    defined = _definitions(text, name)
    wanted, found = [name], dict[str, list[ast.stmt]]()
    while wanted:
        one = wanted.pop()
        if one in found or one not in defined:
            continue
        found[one] = defined[one]
        wanted += [node.id for part in found[one] for node in ast.walk(part) if isinstance(node, ast.Name)]
    lines = [ast.unparse(_without_docstrings(part)) for one in sorted(found) for part in found[one]]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _definitions(text: str, name: str) -> dict[str, list[ast.stmt]]:
    """By each name that the text binds at its top, the statements that bind it."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise Unreadable(f"no Python: {error.msg}") from None
    bound: dict[str, list[ast.stmt]] = {}
    for part in tree.body:
        for one in _bound_by(part):
            bound.setdefault(one, []).append(part)
    kinds = ast.FunctionDef | ast.ClassDef
    if not any(isinstance(part, kinds) for part in bound.get(name, [])):
        raise Unreadable(f"it defines no {name!r} at its top")
    last = [part for part in bound[name] if isinstance(part, kinds)][-1]
    return bound | {name: [last]}


def _bound_by(part: ast.stmt) -> list[str]:
    if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [part.name]
    if isinstance(part, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in part.names]
    return [node.id for node in ast.walk(part) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _without_docstrings(part: ast.stmt) -> ast.stmt:
    for node in ast.walk(part):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return part
