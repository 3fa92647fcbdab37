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
    """The names that a statement at the top gives a value, or changes the value of, in whichever branch."""
    if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [part.name]
    if isinstance(part, ast.Expr):  # a call such as `TABLE.update(...)`
        called = part.value.func if isinstance(part.value, ast.Call) else None
        return [name] if isinstance(called, ast.Attribute) and (name := _root(called)) else []
    found: list[str] = []
    for node in ast.walk(part):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found += [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found += [name] if (name := _root(node)) else []
    return list(dict.fromkeys(found))


def _root(node: ast.expr) -> str:
    """The name that attributes and items are of; "" where they are of something without one."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _without_docstrings(part: ast.stmt) -> ast.stmt:
    for node in ast.walk(part):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return part
