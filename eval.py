"""Measures a network: `python eval.py --workdir=DIR --benchmark=NAME[,NAME] [--root=PATH] [--out=DIR] ...`.

`--workdir` is what `train.py` wrote. Without it, `--config=configs/NAME.py` measures the network of its weights: a
pretrained backbone with GeM and without the whitening layer, which only training can fill; or a whole checkpoint from
elsewhere, with its layer where `model.whitening_init="weights"`, and with the whitening learned after its training
where `whitening.kind="weights"`. Benchmarks:

    synthetic             objects drawn by code
    folder                leave-one-out on `<instance>/<photo>` of --root, or all of it searched by --queries
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
Paris with its revisitop1m.txt and jpg/. --rerank=STAGE[:NUMBER],... puts the first answers in a new order, with

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
    lost, everything          the photograph's own object by LOST, and all of it, whatever is asked for

With --benchmark=folder --queries=DIR it shows instead of measuring, and --regions=FILE.json says what of these
queries is asked for: {"<photo>": [left, top, right, bottom] or a click [x, y] or "<mask>.png" beside the file}, pixels.

--anchors shows published numbers beside these,
--protocol=compat:NAME deviates as some of them do. --rankings=FILE scores a ranking that something else made, without a
network: the `ranks.npy` of revisitop or a submission of gldv2, which need no photographs; of ilias, paintings and
folder a CSV `id,images` in the form of gldv2's, with names of their photographs. --marks=FILE scores what it marked, on
benchmarks with masks (COCO's results .json, a folder of <query>_<photo>.png, or the .npy of PROxford), and with
--rankings=FILE both at once.

Prints the table and writes results.json, rankings.csv, queries.csv, report.html, strip.png and skipped.json to
`<workdir>/eval/<benchmark>` (untrained: `runs/untrained-<config>/eval/<benchmark>`), or to `--out`. With another
protocol, re-ranking or distractors, by flag or by config, the folder has their names too.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from sret_jax.cli import command
from sret_jax.config import PROTOCOLS, Config
from sret_jax.config.validation import validate
from sret_jax.errors import UserError
from sret_jax.evaluation import run as experiment
from sret_jax.evaluation.benchmark import open_benchmarks
from sret_jax.evaluation.external import scoring as submitted
from sret_jax.evaluation.report.table import print_summary
from sret_jax.evaluation.request import BENCHMARKS, REVISITED, Request, check_benchmark, variant
from sret_jax.evaluation.second_stage import check_methods
from sret_jax.localization.localizer import METHODS
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.weights.pretrained import stored_whitening
from sret_jax.reranking.chain import parse_stages
from sret_jax.reranking.rerankers import STAGES
from sret_jax.training.checkpoint import load_network

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder that train.py wrote.")
BENCHMARK = flags.DEFINE_list(
    "benchmark", None, f"Comma-separated: {', '.join(BENCHMARKS)}, each with +1m or not. Default: the config's own."
)
ROOT = flags.DEFINE_string(
    "root", "", 'The benchmark\'s photographs, or a folder with one of each benchmark; of "folder": <instance>/<photo>.'
)
QUERIES = flags.DEFINE_string("queries", "", 'Benchmark "folder": photographs that search --root.')
GND = flags.DEFINE_string("gnd", "", f"{', '.join(REVISITED)}: the ground truth, gnd_*.pkl or the same as JSON.")
DISTRACTORS = flags.DEFINE_list("distractors", [], "Folders of photographs, at any depth, that are searched as well.")
PROTOCOL = flags.DEFINE_string("protocol", "", f"One of {', '.join(PROTOCOLS)}.")
RERANK = flags.DEFINE_list("rerank", None, f"Comma-separated NAME or NAME:NUMBER of {', '.join(STAGES)}.")
LOCALIZE = flags.DEFINE_list("localize", None, f"Comma-separated: {', '.join(METHODS)}.")
ANCHORS = flags.DEFINE_boolean("anchors", False, "Show published numbers beside these, with their source.")
RANKINGS = flags.DEFINE_string("rankings", "", "Score this file of rankings instead of a network.")
MASKS = flags.DEFINE_string("masks", "", 'Benchmark "folder": where objects are, <instance>/<photo>.png.')
REGIONS = flags.DEFINE_string("regions", "", "With --queries and --localize: what of them is asked for, a JSON file.")
MARKS = flags.DEFINE_string("marks", "", "Score where this file marks objects instead of a network.")
OUT = flags.DEFINE_string("out", None, "Where the results go; with several benchmarks, one folder each below it.")


def load(config: Config | None, workdir: str | None) -> tuple[Any, Any, Config, Any, Path]:
    """`(network, variables, config, learned whitening or None, workdir)` that the flags ask for."""
    if workdir:
        loaded = load_network(workdir, config.model if config else None)
        variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
        learned = loaded.whitening and (loaded.whitening["mean"], loaded.whitening["projection"])
        config = config or loaded.config
        validate(config)
        return build_network(loaded.config.model), variables, config, learned, Path(workdir)
    if config is None:
        raise UserError("give --workdir=DIR that train.py wrote, or --config=FILE to measure the untrained network")
    validate(config)
    layer = config.model.whitening and config.model.whitening_init == "weights"
    model = replace(config.model, whitening=layer)
    network = build_network(model)
    variables = init_network(network, model, jax.random.key(config.seed))
    stored = stored_whitening(config) if config.whitening.kind == "weights" else None
    learned = stored and (stored["mean"], stored["projection"])
    return network, variables, config, learned, Path(OUT.value or f"runs/untrained-{config_name()}")


def config_name() -> str:
    """`gem` of configs/gem.py, `published-solar` of configs/published.py:solar."""
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return "-".join([Path(path).stem, *([variant] if variant else [])])


def request() -> Request:
    return Request(ROOT.value, QUERIES.value, GND.value, tuple(DISTRACTORS.value), PROTOCOL.value, MASKS.value)


def out_folder(workdir: Path, benchmark: str, config: Config, several: bool) -> Path:
    """Where the results of one benchmark go."""
    if OUT.value:
        return Path(OUT.value) / benchmark if several else Path(OUT.value)
    return workdir / "eval" / variant(benchmark, config, request())


def main() -> None:
    logging.getLogger("sret_jax").setLevel(logging.INFO)
    parse_stages(RERANK.value or [])  # so that a mistake costs no time
    check_methods(LOCALIZE.value or [])
    named = BENCHMARK.value or []
    for benchmark in named:
        check_benchmark(benchmark, request())
    if QUERIES.value and not any(name.startswith("folder") for name in named or ["folder"]):
        raise UserError("--queries goes with --benchmark=folder")
    if ROOT.value and named == ["synthetic"]:
        raise UserError("--root does not go with --benchmark=synthetic, whose objects are drawn")
    if REGIONS.value and not (QUERIES.value and LOCALIZE.value):
        raise UserError(
            "--regions says what of the photographs of --queries=DIR is asked for: give --localize=METHOD too"
        )
    for flag in (MARKS, RANKINGS):
        if flag.value and len(named) != 1:
            raise UserError(f"--{flag.name}=FILE is scored on one benchmark: give --benchmark=NAME")
    if MARKS.value:
        out = Path(OUT.value or f"runs/marks-{Path(MARKS.value).stem}") / named[0]
        submitted.score_marks(named[0], Path(MARKS.value), out, request(), out.parent / "data", RANKINGS.value)
        return
    if RANKINGS.value:
        out = Path(OUT.value or f"runs/rankings-{Path(RANKINGS.value).stem}") / named[0]
        submitted.score_rankings(named[0], Path(RANKINGS.value), out, request(), ANCHORS.value)
        return
    network, variables, config, learned, workdir = load(CONFIG.value, WORKDIR.value)
    if RERANK.value is not None:
        config = replace(config, rerank=replace(config.rerank, stages=tuple(RERANK.value)))
    if LOCALIZE.value is not None:
        config = replace(config, localize=replace(config.localize, methods=tuple(LOCALIZE.value)))
    if REGIONS.value and not config.localize.methods:
        raise UserError("--regions=FILE says what is to be marked: say how with --localize=METHOD")
    benchmarks = list(dict.fromkeys(named or config.eval.benchmarks))
    cache = config.data.cache_dir or workdir / "data"
    opened = open_benchmarks(benchmarks, config, request(), cache)
    measured = []
    for benchmark in benchmarks:
        results = experiment.evaluate_and_print(
            network,
            variables,
            config,
            benchmark,
            out_folder(workdir, benchmark, config, len(benchmarks) > 1),
            root=ROOT.value,
            queries=QUERIES.value,
            gnd=GND.value,
            distractors=tuple(DISTRACTORS.value),
            protocol=PROTOCOL.value,
            masks=MASKS.value,
            regions=REGIONS.value,
            anchors=ANCHORS.value,
            cache_dir=cache,
            whitening=learned,
            workdir=workdir,
            opened=opened.pop(benchmark),
        )
        measured.append(results)
    if len(measured) > 1:
        print_summary(measured)


if __name__ == "__main__":
    command.run(main)
