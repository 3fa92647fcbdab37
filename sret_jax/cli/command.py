"""What `train.py` and `eval.py` share: flags, one-line errors with an exit code, and the cache of compiled programs."""

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging

from sret_jax.config import Config, run_config
from sret_jax.errors import UserError

COMPILED = "~/.cache/sret_jax/compiled"  # a second start finds its programs here; JAX_COMPILATION_CACHE_DIR overrides


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`. Bad use and bad input end with one line on stderr and exit code 2."""
    jax.config.update("jax_threefry_partitionable", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(COMPILED).expanduser()))

    def act(_: list[str]) -> None:
        with _one_line():
            try:
                main()
            except UserError:
                raise
            except Exception:
                if not jax.distributed.is_initialized():
                    raise
                leave(1, traceback.format_exc())

    app.run(act, flags_parser=_parse)


def _parse(words: list[str]) -> list[str]:
    with _one_line():
        try:
            rest = flags.FLAGS(with_config(words))
        except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            # An unknown field comes as a KeyError, a bad config file as whatever reading it raised.
            raise UserError(f"{error.args[-1] if error.args else error}; see --help") from error
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        config = flags.FLAGS["config"]
        if config.value is not None and not isinstance(config.value, Config):
            raise UserError(f"--config={config.config_filename}: no such file, or its get_config() gives no Config")
        if len(rest) > 1:
            raise UserError(f"unknown argument {rest[1]!r}; fields are set as --config.field=value")
    return rest


def with_config(words: list[str]) -> list[str]:
    """The command line, with the config of the run in `--workdir` where fields are changed and no file is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "workdir"):
        parser.add_argument(f"--{name}", f"-{name}", nargs="?")  # one without its value is for absl to refuse
    given, rest = parser.parse_known_args(words[1:])
    fields = [word for word in rest if word.startswith(("--config.", "-config."))]
    if not fields or given.config is not None:
        return words
    if given.workdir is None:
        raise UserError(f"{fields[0]}: changes a field of which config? Give --config=FILE, or --workdir=DIR of a run")
    return [words[0], f"--config={run_config.__file__}:{given.workdir}", *words[1:]]


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        leave(2, "error: " + " ".join(str(error).split()))


def leave(code: int, text: str) -> None:
    """Ends this process. One of several ends at once: on the usual way out it would wait minutes for the others."""
    print(text, file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)
