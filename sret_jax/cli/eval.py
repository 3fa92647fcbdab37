"""Measures a network: `sret eval --workdir=DIR --benchmark=NAME[,NAME] [--root=PATH] [--out=DIR] ...`.

`--workdir` is what `sret train` wrote, or one step of its checkpoints. Without it, `--config=NAME`, or a file, measures
the network of its weights: a pretrained backbone with GeM and without the whitening layer, which only training can
fill; or a whole checkpoint from elsewhere, with its layer where `model.whitening_init="weights"`, and the whitening
learned after its training where `whitening.kind="weights"`. Benchmarks:

    synthetic             objects drawn by code
    folder                leave-one-out on `<instance>/<photo>` of --root, or of several folders, --root=A,B; or all of
                          it searched by --queries
    roxford5k, rparis6k   --root holds jpg/ and gnd_<benchmark>.pkl, itself or in a folder of the benchmark's name, as
                          those below
    proxford, prparis     the same photographs, with the pixels of the object beside them or in --root
    revisited             the same for any folder of photographs, with its ground truth in --gnd
    gldv2, ilias          --root holds the files of their authors: csv and index/, test/; or ilias_core/
    paintings             --root holds ground_truth.json and its photographs; paintings look for those that show them

Of several benchmarks --root holds a folder each, of the benchmark's name; all of their files are looked for before the
first is measured, and one table of all comes last. NAME+1m is NAME with the million distractors of <root>/revisitop1m.
--config.search.method=asmk searches by the local features of the network's own head and ASMK instead of descriptors.
--distractors=DIR,... adds photographs that only get in the way: any folder, or the million of Revisiting Oxford and
Paris with its revisitop1m.txt and jpg/. --rerank=NAME[:NUMBER],... puts the first answers in a new order, with

    sv                    spatial verification of the first NUMBER, by config.local.source: SIFT or the network's own
    aqe, alpha_qe, dba    query expansion, weighted by similarity, and of the photographs searched
    superglobal           SuperGlobal's refinement of the first NUMBER
    diffusion             on the graph of the nearest NUMBER of every photograph
    hypergraph            propagation through photographs that verify each other

one after the other, and shows the numbers before and after. --localize=METHOD,... says where in each photograph the
object is, on benchmarks with masks (paintings, synthetic, proxford and prparis with the labels of their authors, folder
with --masks=DIR of <instance>/<photo>.png):

    discovery                 what is like the query region, by the network's maps: config.localize.source
    regions, dense            the best window, and dense matching of the same maps
    sv, sv+discovery          the transform of spatial verification, and discovery where it finds none
    query_lost                what LOST grows from the patch that is most like the query region
    seed_lost                 the same from LOST's own seed in the query photograph: no region needs to be given
    lost, lost_inwards        the photograph's own object by LOST as published, and turned inside out where it covers
                              most of the border, whatever the query is
    everything                all of the photograph

With --benchmark=folder --queries=DIR it shows instead of measuring, and says where the object is not found.
--regions=FILE.json says what of these queries is searched for, and marked:
{"<photo>": [left, top, right, bottom] or a click [x, y] or "<mask>.png" beside the file}, pixels. A mask
is white where the object is, or opaque, or of one colour on black; a picture that could mean something else is refused.

--anchors shows published numbers beside these,
--protocol=compat:NAME deviates as some of them do. --rankings=FILE scores a ranking that something else made, without a
network: the `ranks.npy` of revisitop (or .npz) or a submission of gldv2, which need no photographs; of ilias, paintings
and folder a CSV `id,images` in the form of gldv2's, with names of their photographs; of all the rankings.csv that an
evaluation wrote. --marks=FILE scores what it marked, on
benchmarks with masks (COCO's results .json, a folder of <query>_<photo>.png, or the .npy of PROxford), and with
--rankings=FILE both at once.

--shard=NUMBER/OF describes that part of the benchmark's photographs and ends; when all parts are described, wherever
that was, the same command without it takes them over, and describes what they lack. --shard=auto asks Slurm or Open
MPI which part this process is. With --coordinator=HOST:PORT --num_processes=N --process_id=I, or --coordinator=auto on
a cluster that JAX knows, each of N processes describes a part, and process 0 measures then.

`--parts=FILE` brings networks, benchmarks, re-rankers and methods of your own under the names that FILE registers:
docs/your-own-parts.md. With `--traceback` an error says where in them it comes from.

Prints the table and writes results.json, rankings.csv, queries.csv, report.html, strip.png and skipped.json to
`<workdir>/eval/<benchmark>` (untrained: `runs/untrained-<config>/eval/<benchmark>`), or to `--out`. With another
protocol, re-ranking or distractors, by flag or by config, the folder has their names too. What a workdir
that cannot be written to has stored is used, and `--out` gets what it lacks as well.
"""

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from sret_jax.cli import command
from sret_jax.collection.shard import Shard
from sret_jax.config import PROTOCOLS, Config
from sret_jax.config.names import METHODS, RERANKERS
from sret_jax.config.own_parts import own_names
from sret_jax.config.paths import expanded, expanded_list
from sret_jax.errors import UserError, choices
from sret_jax.evaluation.request import REVISITED, Request, check_benchmark, known_benchmarks, variant
from sret_jax.storage.workdir import Workdir, is_checkpoint

if TYPE_CHECKING:
    from sret_jax.retriever import Retriever
    from sret_jax.storage.row_store import Part

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder that training wrote, or one step of its checkpoints.")
BENCHMARK = flags.DEFINE_list(
    "benchmark",
    None,
    f"Comma-separated: {', '.join(known_benchmarks())}, each with +1m or not. Default: the config's own.",
)
ROOT = flags.DEFINE_string(
    "root", "", 'The benchmark\'s photographs, or a folder with one of each benchmark; of "folder": <instance>/<photo>.'
)
QUERIES = flags.DEFINE_string("queries", "", 'Benchmark "folder": photographs that search --root, or one photograph.')
GND = flags.DEFINE_string("gnd", "", f"{', '.join(REVISITED)}: the ground truth, gnd_*.pkl or the same as JSON.")
DISTRACTORS = flags.DEFINE_list("distractors", [], "Folders of photographs, at any depth, that are searched as well.")
PROTOCOL = flags.DEFINE_string("protocol", "", f"One of {', '.join(PROTOCOLS)}.")
RERANK = flags.DEFINE_list(
    "rerank", None, f"Comma-separated NAME or NAME:NUMBER of {', '.join((*RERANKERS, *own_names('reranker')))}."
)
LOCALIZE = flags.DEFINE_list("localize", None, f"Comma-separated: {', '.join((*METHODS, *own_names('localizer')))}.")
ANCHORS = flags.DEFINE_boolean("anchors", False, "Show published numbers beside these, with their source.")
RANKINGS = flags.DEFINE_string("rankings", "", "Score this file of rankings (.npy, .npz, .csv) instead of a network.")
MASKS = flags.DEFINE_string("masks", "", 'Benchmark "folder": where objects are, <instance>/<photo>.png.')
REGIONS = flags.DEFINE_string("regions", "", "With --queries: what of them is searched for, a JSON file.")
MARKS = flags.DEFINE_string("marks", "", "Score where this file marks objects instead of a network.")
SHARD = flags.DEFINE_string("shard", "", "Describe this part of the photographs only, NUMBER/OF or auto.")
COORDINATOR = flags.DEFINE_string("coordinator", None, 'Address of process 0, HOST:PORT; "auto" on a cluster.')
PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
OUT = flags.DEFINE_string("out", None, "Where the results go; with several benchmarks, one folder each below it.")


def check() -> None:
    """Raises `UserError` for a mistake that can be found before anything is imported to measure."""
    request = requested()
    benchmarks: Sequence[str] = BENCHMARK.value or []
    rerankers, methods = (*RERANKERS, *own_names("reranker")), (*METHODS, *own_names("localizer"))
    for name in (text.partition(":")[0] for text in RERANK.value or []):
        if name not in rerankers:
            raise UserError(f"--rerank: no re-ranker {choices(name, rerankers)}, each with :NUMBER or not")
    for name in LOCALIZE.value or []:
        if name not in methods:
            raise UserError(f"--localize: no method {choices(name, methods)}")
    for benchmark in benchmarks:
        check_benchmark(benchmark, request)
    if QUERIES.value and not any(name.startswith("folder") for name in benchmarks or ["folder"]):
        raise UserError("--queries goes with --benchmark=folder")
    if ROOT.value and list(benchmarks) == ["synthetic"]:
        raise UserError("--root does not go with --benchmark=synthetic, whose objects are drawn")
    if REGIONS.value and not QUERIES.value:
        raise UserError("--regions says what of the photographs of --queries=DIR is searched for: give these too")
    command.check_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    if SHARD.value and COORDINATOR.value:
        raise UserError("--shard and --coordinator: give one; with the second each process describes a part of its own")
    if (SHARD.value or COORDINATOR.value) and (MARKS.value or RANKINGS.value):
        raise UserError(
            "--shard and --coordinator share out what a network describes; --rankings and --marks need none"
        )
    for flag in (MARKS, RANKINGS):
        if flag.value and len(benchmarks) != 1:
            raise UserError(f"--{flag.name}=FILE is scored on one benchmark: give --benchmark=NAME")


def main() -> None:
    from sret_jax.reranking.chain import parse_rerankers
    from sret_jax.storage.row_store import Part

    logging.getLogger("sret_jax").setLevel(logging.INFO)
    request = requested()
    parse_rerankers(RERANK.value or [])
    out = expanded(OUT.value)
    if MARKS.value or RANKINGS.value:
        _score_foreign(request, out)
    elif SHARD.value:
        shard = Shard.parse(SHARD.value)
        _measure(request, out, Part(shard.number, shard.of))
    elif not COORDINATOR.value:
        _measure(request, out)
    else:
        import jax

        from sret_jax.training.peers import together

        kept = expanded(WORKDIR.value) or out or "runs"
        with together(COORDINATOR.value, PROCESSES.value, PROCESS.value, kept):
            _measure(request, out, Part(jax.process_index(), jax.process_count()), with_peers=True)


def _measure(request: Request, out: str, part: "Part | None" = None, with_peers: bool = False) -> None:
    """Measures the network on the benchmarks; of a part its photographs are described only.

    With peers each describes its part, and the first one measures then; the others wait until it has.
    """
    from sret_jax.evaluation.benchmark import open_benchmarks
    from sret_jax.evaluation.report.table import print_results, print_summary
    from sret_jax.evaluation.run import describe_part, evaluate
    from sret_jax.training.peers import wait_for_peers

    retriever, place = chosen_retriever(CONFIG.value, WORKDIR.value, out)
    config = retriever.config
    benchmarks = list(dict.fromkeys(BENCHMARK.value or config.eval.benchmarks))
    opened = open_benchmarks(benchmarks, config, request, config.data.cache_dir or place.data)
    if part:
        for name in benchmarks:
            count = describe_part(retriever, opened[name], place, part)
            print(f"{name}: part {part.number}/{part.of} of its photographs is described, {count} of them", flush=True)
    if with_peers:
        wait_for_peers("described")
    measured = []
    for name in benchmarks if part is None or (with_peers and part.number == 0) else ():
        own = place.evaluation(variant(name, config, request))
        if out:
            own = Path(out) / name if len(benchmarks) > 1 else Path(out)
        regions = expanded(REGIONS.value)
        results = evaluate(retriever, opened.pop(name), own, workdir=place, regions=regions, anchors=ANCHORS.value)
        print_results(results, own)
        measured.append(results)
    if len(measured) > 1:
        print_summary(measured)
    if with_peers:
        wait_for_peers("measured")


def requested() -> Request:
    """What the flags say of the benchmark beside its name."""
    queries, gnd, masks = (expanded(flag.value) for flag in (QUERIES, GND, MASKS))
    distractors = tuple(map(expanded, DISTRACTORS.value))
    return Request(expanded_list(ROOT.value), queries, gnd, distractors, PROTOCOL.value, masks)


def chosen_retriever(config: Config | None, workdir: str | None, out: str | None) -> "tuple[Retriever, Workdir]":
    """The retriever that the flags name, with their re-rankers and methods, and where it keeps what it extracts."""
    from sret_jax.models.weights.shipped import DEFAULT
    from sret_jax.retriever import load, without_unfilled_layers

    if workdir:
        folder = Path(expanded(workdir))
        retriever, place = load(folder, config), Workdir(folder)
        if is_checkpoint(folder):
            place = Workdir(folder.parents[1], f"-step-{folder.name}")
        if not os.access(place.root, os.W_OK):
            place = _instead_of(place, out)
    elif config is not None:
        retriever = load(without_unfilled_layers(config))
        place = Workdir(Path(out or f"runs/untrained-{command.config_name()}"))
    else:
        retriever, place = load(), Workdir(Path(out or f"runs/{DEFAULT}"))
    config = retriever.config
    if RERANK.value is not None:
        config = replace(config, rerank=replace(config.rerank, stages=tuple(RERANK.value)))
    if LOCALIZE.value is not None:
        config = replace(config, localize=replace(config.localize, methods=tuple(LOCALIZE.value)))
    return replace(retriever, config=config), place


def _instead_of(place: Workdir, out: str | None) -> Workdir:
    """Where what is extracted of a run that others share, to read only, is kept, where the run does not have it."""
    if not out:
        mounted = os.statvfs(place.root).f_flag & os.ST_RDONLY
        cause = os.strerror(errno.EROFS if mounted else errno.EACCES)
        raise UserError(f"{place.root}: {cause}; give --out=DIR for the results and what is extracted")
    return Workdir(Path(out), place.tag, place.root)


def _score_foreign(request: Request, out: str) -> None:
    """Scores what something else has ranked or marked."""
    from sret_jax.evaluation.external import scoring

    (benchmark,) = BENCHMARK.value or []
    marks, rankings = expanded(MARKS.value), expanded(RANKINGS.value)
    kind, file = ("marks", Path(marks)) if marks else ("rankings", Path(rankings))
    folder = Path(out or f"runs/{kind}-{file.stem}") / benchmark
    if marks:
        scoring.score_marks(benchmark, file, folder, request, Workdir(folder.parent).data, rankings)
    else:
        scoring.score_rankings(benchmark, file, folder, request, ANCHORS.value)
