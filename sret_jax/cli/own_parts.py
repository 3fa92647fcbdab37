"""`--parts=FILE[,FILE]`, which every command takes: files, or modules of packages, that register parts of one's own."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sret_jax.errors import UserError

FLAG, TRACED = "--parts", "--traceback"


def take_parts(words: Sequence[str]) -> list[str]:
    """The command line without these flags, when what they name is imported: nothing else ever is.

    Raises `UserError` for a file that is not there, or that fails, with its line.
    """
    rest, named = [], []
    waiting = iter(words)
    for word in waiting:
        flag, equals, value = word.partition("=")
        if flag.replace("--", "-") == FLAG.replace("--", "-"):
            named += (value if equals else next(waiting, "")).split(",")
        else:
            rest.append(word)
    for one in named:
        import_parts(one)
    return rest


def import_parts(named: str) -> ModuleType:
    """Runs a file, or imports a module by its dotted name."""
    path = Path(named).expanduser()
    if not named or (path.suffix == ".py" and not path.is_file()):
        raise UserError(f"{FLAG}={named}: no such file; give one that registers parts, or a module that is installed")
    try:
        if path.suffix != ".py":
            return importlib.import_module(named)
        spec = importlib.util.spec_from_file_location(f"own_parts_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except UserError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute()]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        where = f"{path.name}:{lines[-1]}" if lines else named
        raise UserError(f"{FLAG}: {where}: {type(error).__name__}: {error}") from error


def said(error: UserError, words: Sequence[str]) -> str:
    """What a command prints of an error: one line, and with `--traceback` where it comes from before it."""
    line = "error: " + " ".join(str(error).split())
    if TRACED not in words:
        return line
    return "".join(traceback.format_exception(error)) + line
