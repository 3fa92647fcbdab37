"""Prepares a large benchmark, or photographs to train on, by Apache Beam before they are used.

    pip install "sret_jax[beam]"
    sret prepare NAME ROOT CACHE [--beam_options="--runner=FlinkRunner --flink_master=host:8081"]

`sret eval --benchmark=NAME --root=ROOT --config.data.cache_dir=CACHE` then finds everything prepared, and so does
`sret train` with `--config.data.root=ROOT` ("sfm120k" and "landmark_training"): the sets are the same as without Beam,
in the same order. A list of more than 50,000 photographs is prepared in blocks of that many, and a run that was killed
goes on with the first one that is not whole. Without `--beam_options` the workers are processes of this machine, one
per core; on Flink, Spark or Dataflow, ROOT and CACHE have to lie where every worker sees them under the same path.

"proxford" and "prparis" search the photographs of "roxford5k" and "rparis6k", which is what to prepare for them. Their
labels, and the masks of "paintings", are read where they are, from ROOT.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sret_jax.config.paths import expanded
from sret_jax.errors import UserError

PREPARED = "gldv2 ilias landmark_training paintings revisitop1m roxford5k rparis6k sfm120k".split()


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "sret prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=PREPARED)
    parser.add_argument("root", type=expanded)
    parser.add_argument("cache", type=expanded)
    parser.add_argument("--beam_options", default="", help="of the pipeline, in one string; empty: this machine")
    options = parser.parse_args(words)
    root, cache = Path(options.root), Path(options.cache)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give that of the benchmark's files")
    from sret_jax.data.beam import with_beam  # and what it prepares by, which takes seconds

    preparers()[options.name](root, cache, builder=with_beam(shlex.split(options.beam_options)))
    print(f"{options.name} is prepared in {cache}")


def preparers() -> dict[str, Callable[..., Any]]:
    """What prepares each of `PREPARED`."""
    from sret_jax.datasets.lookups import LOOKUPS, prepare_landmark_training, prepare_million
    from sret_jax.datasets.revisited import prepare_revisited
    from sret_jax.datasets.sfm120k import prepare_sfm_splits

    return {
        **LOOKUPS,
        "roxford5k": partial(prepare_revisited, "roxford5k"),
        "rparis6k": partial(prepare_revisited, "rparis6k"),
        "revisitop1m": prepare_million,
        "landmark_training": prepare_landmark_training,
        "sfm120k": prepare_sfm_splits,
    }
