"""What the commands share: flags, configs by name, one-line errors with an exit code."""

import argparse
import contextlib
import dataclasses
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

import sret_jax
from sret_jax.cli.ending import ending_by_signals, is_of_several, leave
from sret_jax.cli.own_parts import TRACED, said, take_parts
from sret_jax.config import Config
from sret_jax.config.paths import with_expanded_paths
from sret_jax.config.reference import help_text
from sret_jax.config.rules import check, read_text, rule_at, shown
from sret_jax.errors import UserError, choices
from sret_jax.storage.refusals import refusal_behind


def run(name: str, words: Sequence[str] | None = None) -> None:
    """Parses the flags of `sret_jax.cli.<name>`, and calls its `check` and, with JAX imported, its `main`.

    Bad use and bad input end with one line on stderr and exit code 2.

    Args:
      words: of the command line behind the command; by default those of this process.
    """
    words = sys.argv[1:] if words is None else list(words)
    typed = tuple(words)
    with _one_line(typed):
        words = [word for word in take_parts(words) if word != TRACED]
        module = importlib.import_module(f"sret_jax.cli.{name}")
        if set(words) & {"--help", "-h", "--helpfull", "--helpshort", "-help"}:
            print(module.__doc__, flags.FLAGS.module_help(module.__name__), help_text(), sep="\n")
            return

    def act(_: list[str]) -> None:
        with _one_line(typed):
            module.check()
        with ending_by_signals(), _one_line(typed):
            _prepare_jax()
            try:
                module.main()
            except UserError:
                raise
            except Exception as error:
                if refused := refusal_behind(error):
                    raise refused from error
                if not is_of_several():
                    raise
                leave(1, traceback.format_exc())

    # Where ml_collections looks for the fields of a config. The first word becomes the name of the process: of a name
    # with a blank, Slurm (proctrack/linuxproc) would misread /proc/PID/stat, and its signals would reach nobody.
    sys.argv = [f"sret-{name}", *words]
    app.run(act, flags_parser=partial(_parse, typed=typed))


def _prepare_jax() -> None:
    """Imports it, after everything that can be wrong with a command line: it takes seconds."""
    import jax

    from sret_jax.storage.compilation_cache import keep_compiled_programs

    jax.config.update("jax_threefry_partitionable", True)
    keep_compiled_programs()


def _parse(words: list[str], typed: Sequence[str]) -> list[str]:
    with _one_line(typed):
        words = with_config(words)
        try:
            rest = flags.FLAGS(words)
        except UserError:
            raise
        except Exception as error:
            found = _said_of_flags(error, words)
            if found is None:
                raise
            raise UserError(found) from error
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        config: Any = flags.FLAGS["config"]  # of ml_collections, which knows its file
        if config.value is not None and not isinstance(config.value, Config):
            failed = getattr(config.value, "__dict__", {}).get("_error")  # of a file that could not be read
            found = _said_of_flags(failed, words) if failed else None
            raise UserError(found or f"--config={config.config_filename}: its get_config() gives no Config")
        if config.value is not None:
            # Of a run whose parts are not there, `load` says which: their names are taken here.
            check(config.value, "config.")
            config.value = with_expanded_paths(config.value)
        if len(rest) > 1:
            raise UserError(f"unknown argument {rest[1]!r}; fields are set as --config.field=value")
    return rest


def _said_of_flags(error: Exception, words: Sequence[str]) -> str | None:
    """One line about what reading the flags has raised: a config file may raise anything, and where is said. None for
    what is no mistake of the command line's."""
    file = next((word.split("=", 1)[1].partition(":")[0] for word in words if word.startswith("--config=")), "")
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).name == Path(file).name:
        return f"--config={file}, line {error.lineno}: {error.msg}"
    one: BaseException | None = error
    while one is not None:  # some are wrapped on the way here
        frames = traceback.extract_tb(one.__traceback__)
        if lines := [frame.lineno for frame in frames if _same_file(frame.filename, file)]:
            return f"--config={file}, line {lines[-1]}: {type(one).__name__}: {one}"
        one = one.__cause__ or one.__context__
    if isinstance(error, AttributeError) and error.name == "get_config":
        return f"--config={file}: it has no function get_config()"
    if isinstance(error, flags.Error | AttributeError | KeyError | OSError | TypeError | ValueError):
        # An unknown field comes as a KeyError or an AttributeError.
        return f"{error.args[-1] if error.args else error}; see --help"
    return None


def _same_file(one: str, other: str) -> bool:
    return bool(other) and os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def with_config(words: list[str]) -> list[str]:
    """The command line with the file of a config that is given by name, or with the config of the run in `--workdir`
    where fields are changed and no config is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "workdir"):
        parser.add_argument(f"--{name}", f"-{name}", nargs="?")  # one without its value is for absl to refuse
    words = [words[0], *_with_values(words[1:])]
    given, rest = parser.parse_known_args(words[1:])
    fields = [word for word in rest if _FIELD.match(word)]
    for field in fields:
        _check_field(field)
    if given.config:
        place = [] if given.workdir is None else [f"--workdir={given.workdir}"]
        return [words[0], f"--config={config_file(given.config)}", *place, *rest]
    if not fields or given.config is not None:
        return words
    if given.workdir is None:
        raise UserError(f"{fields[0]}: changes a field of which config? Give --config=NAME, or --workdir=DIR of a run")
    workdir = Path(given.workdir).expanduser()
    from sret_jax.config import run_config

    return [words[0], f"--config={run_config.__file__}:{workdir}", *words[1:]]


_FIELD = re.compile(r"--?(no)?(config\.[^=]+)(?:=(.*))?$", re.DOTALL)


def _with_values(words: list[str]) -> list[str]:
    """The same words, where "--config.a", "1" is "--config.a=1"; truth values need none."""
    joined, waiting = [], iter(words)
    for word in waiting:
        found = _FIELD.match(word)
        rule = rule_at(found[2].removeprefix("config."), Config) if found and found[3] is None else None
        if rule is not None and not (rule.kind is bool and rule.count is None):
            word = f"{word}={next(waiting, '')}"
        joined.append(word)
    return joined


def _check_field(word: str) -> None:
    """Raises `UserError` for "--config.a.b=value" that no config has, with the nearest names, or that a field may not
    hold."""
    found = _FIELD.match(word)
    assert found is not None
    no, path, text = found.groups()
    _check_path(path)
    rule = rule_at(path.removeprefix("config."), Config)
    if rule is None:
        return  # arguments of parts of one's own, whose types they know
    if no and rule.kind is not bool:
        raise UserError(f"--no{path}: {path} must be {rule.says()}; set it with --{path}=VALUE")
    if text is not None:
        value = read_text(text, rule)
        if fault := f"must be {rule.says()}" if value is None else rule.fault(value):
            raise UserError(f"{path}={shown(text if value is None else value)}: {fault}")


def _check_path(path: str) -> None:
    node: object = Config()
    for part in path.split(".")[1:]:
        if isinstance(node, dict):
            return  # arguments of parts of one's own, which the config names
        known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
        if part not in known:
            where = f"--{path}: no field"
            raise UserError(f"{where} {choices(part, known)}" if known else f"{where} {part!r}: it is below a value")
        node = getattr(node, part)
    if dataclasses.is_dataclass(node):
        names = ", ".join(field.name for field in dataclasses.fields(node))
        raise UserError(f"--{path}: has fields of its own; set one, --{path}.FIELD=VALUE: {names}")


def config_folder() -> Path:
    """Where the configs are that come with the package: inside of it when installed, beside it in a checkout."""
    package = Path(sret_jax.__file__).parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def config_file(given: str) -> str:
    """`FILE[:ARGUMENT]` of a config that is given by its file, or by its name: `gem` is configs/gem.py."""
    name, colon, argument = given.partition(":")
    path = Path(name).expanduser()
    if path.is_file():
        return f"{path}{colon}{argument}"
    if path.suffix == ".py" or len(path.parts) > 1:
        beside = config_folder() / path.name  # configs/gem.py, from any folder
        if path.parts[:-1] == ("configs",) and beside.is_file():
            return f"{beside}{colon}{argument}"
        raise UserError(f"--config={name}: no such file; give one, or a name: {', '.join(config_names())}")
    if name not in config_names():
        raise UserError(f"--config: no config {choices(name, config_names())}, or give a file")
    return f"{config_folder() / name}.py{colon}{argument}"


def config_names() -> list[str]:
    return sorted(path.stem for path in config_folder().glob("*.py") if not path.stem.startswith("_"))


def config_name() -> str:
    """`gem` of configs/gem.py, `published-solar` of configs/published.py:solar."""
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return "-".join([Path(path).stem, *([variant] if variant else [])])


@contextlib.contextmanager
def _one_line(typed: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        leave(2, said(error, typed))


def check_processes(address: str | None, count: int | None, number: int | None) -> None:
    """Raises `UserError` for processes that cannot be, and for numbers of them that nothing would read."""
    if address in (None, "auto"):
        if (count, number) != (None, None):
            raise UserError("--num_processes and --process_id go with --coordinator=HOST:PORT: give its address")
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 1 << 16):
        raise UserError(f"--coordinator={address}: give HOST:PORT of process 0, or auto on a cluster")
    if count is None or number is None or not 0 <= number < count:
        raise UserError(
            f"--num_processes={count} --process_id={number}: give the number of processes, and which of them this is, "
            "from 0"
        )
