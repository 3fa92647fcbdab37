"""`sret COMMAND ...`: everything that is done from a command line."""

import contextlib
import sys

import sret_jax
from sret_jax.cli.ending import ending_by_signals
from sret_jax.cli.own_parts import TRACED, said, take_parts
from sret_jax.errors import UserError, choices
from sret_jax.storage.refusals import plainly

COMMANDS = {
    "index": "keep an index of a folder of photographs, and bring it up to date",
    "merge": "make one of an index that was described in parts",
    "search": "find the photographs of it that show a thing in a photograph",
    "serve": "point at things and find them, in the browser",
    "remove": "take photographs out of it",
    "status": "say what is in it",
    "verify": "check that what is stored of it is what was written",
    "train": "train the network of a config",
    "eval": "measure a network on benchmarks, search with queries, re-rank, localize",
    "adapt": "train a linear layer on the descriptors of your photographs",
    "export": "export a network to pass on: as a folder, StableHLO, ONNX",
    "export-descriptors": "export descriptors as .npy or Parquet, in 32, 16 or 8 bits",
    "convert": "convert a checkpoint from elsewhere",
    "download": "fetch the files of a benchmark",
    "prepare": "prepare a large benchmark by Apache Beam",
}
FLAGGED = ("train", "eval", "adapt")  # with a config and absl's flags
LONG = ("index", "merge")  # of the others, those that take hours, and go on when they are given again


def main() -> None:
    """The entry point of `sret`. Bad use and bad input end with one line on stderr and exit code 2."""
    command, words = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("--help", "-h", "help"):
        print(usage())
    elif command == "--version":
        print(sret_jax.__version__)
    else:
        try:
            with plainly():
                _flagged(command, words) if command in FLAGGED else _plain(command, words)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:  # whoever read the output has seen enough
            sys.stderr.close()
            sys.exit(1)
        except UserError as error:
            print(said(error, words), file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            print("error: " + " ".join(_of_system(error).split()), file=sys.stderr)
            sys.exit(2)


def _of_system(error: OSError) -> str:
    """A folder that may not be written, a full disk: what it is about, and what the system says."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _flagged(command: str, words: list[str]) -> None:
    from sret_jax.cli.command import run

    run(command, words)


def _plain(command: str, words: list[str]) -> None:
    if command not in COMMANDS:
        raise UserError(f"no command {choices(command, list(COMMANDS))}")
    from importlib import import_module

    rest = [word for word in take_parts(words) if word != TRACED]
    with ending_by_signals() if command in LONG else contextlib.nullcontext():
        import_module(f"sret_jax.cli.{command.replace('-', '_')}").main(rest)


def usage() -> str:
    widest = max(map(len, COMMANDS))
    lines = [f"  {name:{widest}} {what}" for name, what in COMMANDS.items()]
    more = "`sret COMMAND --help` says more. Every command takes --parts=FILE, with parts of your own, and --traceback."
    return "\n".join(["usage: sret COMMAND ...", "", *lines, "", more])


if __name__ == "__main__":
    main()
