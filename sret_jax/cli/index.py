"""Keeps an index of a folder of photographs.

    sret index PHOTOS [--name=NAME] [--retriever=RUN] [--local=sift] [--shard=NUMBER/OF]
                      [--engine=local|milvus|pgvector --server=ADDRESS] [--store=float32|float16|int8]
    sret index PHOTOS --ray=local|auto|HOST:PORT [--shards=N] [--actors=N] ...
    sret index [--collection=NAME]

PHOTOS is any folder; photographs may lie at any depth, also in tar archives, and stay where they are. It may also be a
pattern of archives, as "shards/{000..099}.tar", or the address of any of these, as s3://bucket/photos. The first time
all of them are described, later those that are new or changed, and what is gone is forgotten. Without PHOTOS every
collection is brought up to date, or the one that is named. A run that is interrupted goes on where it was. Where none
of the photographs is there any more, which may be a disk that is not mounted, nothing is forgotten without `--forget`.

`--retriever` is what `sret train` wrote, or another that `sret_jax.load` takes; by default the weights that come with
the package.

With `--local=sift`, or `head` for those of a network that has its own, local features of the photographs are kept
besides, by which `sret search --verify` verifies answers. `--local=none` leaves them out again.

With `--shard=3/100` the fourth of a hundred parts is described, as a collection of its own; `sret merge PHOTOS` makes
one of all. `--shard=auto` takes the part that Slurm (arrays and tasks) or Open MPI says.

With `--engine=pgvector --server=postgresql://USER@HOST/DATABASE`, or `--engine=milvus --server=http://HOST:19530`, the
descriptors are kept in a table there as well, which finds the candidates of every search; `--engine=local` goes back.
Passwords are read from ~/.pgpass, PGPASSWORD or MILVUS_TOKEN.

With `--store=int8` or `float16` a search holds a quarter or a half of the descriptors in memory, and reads those that
may be among the answers from the disk: the answers stay the same. The collection remembers it.

With `--ray=ADDRESS` all parts are described by the machines of a Ray cluster, each of which sees PHOTOS and WORKDIR,
and merged. `--ray=auto` is the cluster that this machine belongs to, `--ray=local` this machine alone.
"""

import argparse
import os
from collections.abc import Sequence

from sret_jax.cli.collections import add_name, collection_folders, in_each, parser
from sret_jax.config.names import KEPT_FEATURES, SERVERS, STORES
from sret_jax.config.paths import expanded
from sret_jax.data.remote import is_address
from sret_jax.errors import UserError


def main(words: Sequence[str]) -> None:
    arguments = parser("index", __doc__)
    add_name(arguments)
    kinds = ", ".join(KEPT_FEATURES)
    arguments.add_argument("photos", nargs="?", type=expanded, help="the folder of the photographs")
    arguments.add_argument("--name", default="", help="of the collection; by default the folder's")
    arguments.add_argument("--retriever", type=expanded, default=None, help="what describes the photographs")
    arguments.add_argument("--local", default=None, metavar="SOURCE", help="local features that are kept: " + kinds)
    arguments.add_argument("--shard", default="", metavar="NUMBER/OF", help="the part that is described here")
    arguments.add_argument("--engine", default=None, choices=("local", *SERVERS), help="where it is searched")
    arguments.add_argument("--server", default="", metavar="ADDRESS", help="of the engine, without a password")
    arguments.add_argument("--store", default=None, choices=STORES, help="what descriptors are held as in memory")
    arguments.add_argument(
        "--ray", default="", metavar="ADDRESS", help="describe all parts on a Ray cluster, or `local`"
    )
    arguments.add_argument("--shards", type=int, default=0, metavar="N", help="parts that the cluster's machines get")
    arguments.add_argument("--actors", type=int, default=0, metavar="N", help="processes of the cluster that describe")
    arguments.add_argument("--forget", action="store_true", help="also where no photograph is there any more")
    given = arguments.parse_args(words)
    if given.photos == "":
        raise UserError('index "": give the folder of the photographs, or nothing for all collections')
    of_folder = (
        given.name,
        given.retriever,
        given.shard,
        given.server,
        given.local is not None,
        given.engine is not None,
        given.store is not None,
    )
    if given.photos is None and any(of_folder):
        raise UserError(
            "--name, --retriever, --shard, --local, --engine, --server and --store are for a folder: give it first"
        )
    later = given.engine or given.store
    if not given.ray and (given.shards or given.actors):
        raise UserError("--shards and --actors are for --ray=ADDRESS: give it too")
    if given.ray and (not given.photos or given.shard or later or given.shards < 0 or given.actors < 0):
        raise UserError(
            "--ray describes all parts of a folder and merges them: give PHOTOS and --shards=N with it, no --shard, "
            "and --engine later, or --store"
        )
    if given.ray:
        index_parts(given)
        return
    from sret_jax.cli.updating import update  # JAX with it, which takes seconds
    from sret_jax.collection.collection import Collection

    if given.photos:
        name = given.name or given.collection
        opened = Collection.open(
            given.photos,
            workdir=given.workdir,
            name=name,
            retriever=given.retriever or None,
            local=given.local,
            shard=given.shard or None,
            engine=given.engine,
            server=given.server,
            store=given.store,
        )
        update(opened, given.forget)
        return
    in_each(collection_folders(given), lambda folder: update(Collection(folder), given.forget))


def index_parts(given: argparse.Namespace) -> None:
    """Describes all parts on a cluster, and merges them."""
    from sret_jax.collection.on_ray import Outcome, Work, index_on_ray

    def tell(outcome: Outcome, done: int, of: int) -> None:
        print(
            f"{done} of {of}: shard {outcome.shard}, {outcome.photos} photographs ({outcome.added} added)", flush=True
        )

    retriever = given.retriever or None
    if retriever and os.path.exists(retriever):
        retriever = os.path.abspath(retriever)  # actors work in another folder
    work = Work(
        root=given.photos if is_address(given.photos) else os.path.abspath(given.photos),
        workdir=os.path.abspath(given.workdir),
        name=given.name or given.collection,
        retriever=retriever,
        local=given.local,
        forget=given.forget,
    )
    merged = index_on_ray(work, given.ray, given.shards, given.actors, tell)
    print(f"{merged.name}: {merged.status().photos} photographs of {merged.root}")
