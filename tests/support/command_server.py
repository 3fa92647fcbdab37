"""Runs commands in children of one process that has imported what they need: the imports are most of a short command.

Reads a line of JSON for each, `{"name", "words", "cwd", "environment", "out", "err"}`, and answers with exit statuses.
Nothing here may start JAX's backend or threads of its own: they do not survive a fork.
"""

import json
import os
import sys
import traceback

import jax
import ml_collections.config_flags  # noqa: F401

import sret_jax.evaluation.external.scoring
import sret_jax.evaluation.training_run  # noqa: F401
from sret_jax.cli import command

# As for the tests themselves: programs are tiny, and compiling them is what takes time.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def status_of(request: dict) -> int:
    """Of `sret NAME WORDS`, run by this process: the exit status that it would end with."""
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    for file, descriptor in ((request["out"], 1), (request["err"], 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    try:
        command.run(request["name"], request["words"])
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            status = status_of(request)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
