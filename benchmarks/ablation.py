"""The methods of the field and ours: every row the same photographs, loss, whitening, steps, size and backbone.

    python benchmarks/ablation.py --root=A,B --splits=A.json,B.json --folder "NAME=ROOT;SPLITS.json;SPLIT" ...
        [--revisited "NAME=FOLDER;GND;DISTRACTORS,..."] [--seeds=3] [--rows="GeM;smoothing"] [--times]

A and B are folders <instance>/<photo>, as `train.py --config.data.root` takes them: rows are trained on their split
"train", and the step that is best on "val" is kept, by the same rule for all. `--folder` names a collection that is
searched leave-one-out, `--revisited` one that official queries search, with distractors. A row is a file of `configs/`
and the fields in which it differs; only the model may differ, which is checked. Where the backbone's last stage trains
as well, all such rows have the same fewer steps. Every row, the untrained ones too, has the whitening that its config
computes in closed form when training is done. Rows that train nothing are measured once: no seed changes them. `--set
field=value` changes the config of all.

Descriptors are made of stored maps, in 16 bits, as heads train on them. Runs are kept in `--workdir` and go on where
they were stopped; the table, a plot and every run as a CSV go to `--out`. Visual words are of the first seed. Times are
taken at the end, all rows in turn, and kept as well; `--times` takes them again, for which the machine should have
nothing else to do.
"""

import argparse
import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ablation_table import Record, columns, flat, paired_tests
from comparison import counted, markdown, plot, write_csv
from distinct_words import CODEBOOK_PHOTOS, words_of_photographs
from row_times import PHOTOS, times_of_rows
from timing import machine

from sret_jax.config import Config, SearchConfig, differences, from_dict, to_dict
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.evaluation.run import evaluate
from sret_jax.models.descriptor import build_network, descriptor_length
from sret_jax.reranking.answers import Answers
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import write_json
from sret_jax.storage.workdir import Workdir
from sret_jax.training.loop import learned_start, prepare_photos, split_for_validation, train
from sret_jax.training.shown import shown
from sret_jax.training.validation import refilled


@dataclasses.dataclass(frozen=True)
class Row:
    """A config, and the fields in which the row differs from it."""

    config: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: bool = True
    last_stage: bool = False  # the backbone's last stage trains as well
    asmk: bool = False  # its local features are compared by ASMK


S, R = "model.smoothing", "model.refinement"
TRAINED = ", last stage trained"
# Of all rows whose last stage trains: their steps take ten times as long, so they are fewer, and their batches smaller.
# Smoothing starts as the identity there: as the average it blurs what that stage is to learn.
LAST_STAGE = {
    "train.train_from": "c5",
    "train.steps": 100,
    "data.instances_per_batch": 16,
    "model.smoothing.start": "identity",
}
ROWS = {
    "untrained GeM": Row("gem", trained=False),
    "GeM": Row("gem"),
    "R-MAC": Row("rmac"),
    "SuperGlobal pooling": Row("superglobal", {"extract.scales": (1.0,), "extract.scale_pooling": "mean"}),
    "smoothing": Row("spatial_context", {f"{R}.enabled": False}),
    "refinement": Row("spatial_context", {f"{S}.enabled": False}),
    "both": Row("spatial_context"),
    "refinement, free form": Row("spatial_context", {f"{S}.enabled": False, f"{R}.form": "free"}),
    "control: 3 x 3 average": Row(
        "spatial_context", {f"{R}.enabled": False, f"{S}.bandwidth": False, f"{S}.confidence": False}
    ),
    "control: 1 x 1 layer": Row("spatial_context", {f"{R}.enabled": False, f"{S}.control": "layer"}),
    "control: weight per position": Row("spatial_context", {f"{R}.enabled": False, f"{S}.control": "weight"}),
    "control: shuffled neighbours": Row("spatial_context", {f"{R}.enabled": False, f"{S}.control": "shuffled"}),
    "control: shuffled positions": Row("spatial_context", {f"{S}.enabled": False, f"{R}.control": "shuffled"}),
    f"GeM{TRAINED}": Row("gem", last_stage=True),
    f"smoothing{TRAINED}": Row("spatial_context", {f"{R}.enabled": False}, last_stage=True),
    f"refinement{TRAINED}": Row("spatial_context", {f"{S}.enabled": False}, last_stage=True),
    f"both{TRAINED}": Row("spatial_context", last_stage=True),
    f"SOLAR: SOA{TRAINED}": Row("solar", last_stage=True),
    f"HOW pooling{TRAINED}": Row("how", last_stage=True),
    f"HOW + ASMK{TRAINED}": Row("how", last_stage=True, asmk=True),
}
MAY_DIFFER = ("model.", "train.whitening_refit")  # HOW has no whitening layer but a reduction
CONFIGS = Path(__file__).parent.parent / "configs"


def set_field(config: Config, path: str, value: Any) -> None:
    """Sets a dotted field; text becomes what the field holds now."""
    *parents, name = path.split(".")
    node: Any = config
    for parent in parents:
        node = getattr(node, parent)
    now = getattr(node, name)
    if isinstance(value, str) and not isinstance(now, str):
        value = value == "True" if isinstance(now, bool) else type(now)(value)
    setattr(node, name, value)


def row_config(row: Row, args: argparse.Namespace, seed: int) -> Config:
    """The config of a row, refused where it differs from GeM's in more than the model."""
    common, config = (runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]() for name in ("gem", row.config))
    for path, value in row.fields.items():
        set_field(config, path, value)
    for path, value in LAST_STAGE.items() if row.last_stage else ():
        set_field(common, path, value)
        set_field(config, path, value)
    for field, expected, own in differences(to_dict(common), to_dict(config)):
        if not field.startswith(MAY_DIFFER):
            raise UserError(f"configs/{row.config}.py: {field} is {own}, of gem.py {expected}: no fair comparison")
    config.seed = seed
    # Every row starts from the same backbone; what comes with the package, as its config has it, has been trained.
    config.model.weights, config.model.whitening_init = "auto", "pca"
    config.data.root, config.data.splits, config.data.cache_dir = args.root, args.splits, str(args.workdir / "data")
    config.eval.benchmarks = ()
    for assignment in args.set:
        path, _, text = assignment.partition("=")
        set_field(config, path, text)
    if row.asmk:
        config.search = SearchConfig(method="asmk", words=args.words, codebook_photos=CODEBOOK_PHOTOS)
    return config


def row_folder(workdir: Path, name: str, seed: int) -> Path:
    """Where what a row measures is kept: `measured.json`, and what it is made of."""
    plain = "".join(c if c.isalnum() else "_" for c in name)
    return workdir / f"{plain}-{seed}"


def run_folder(workdir: Path, name: str, seed: int) -> Path:
    """The run that a row measures; rows of one config and the same fields share it."""
    row = ROWS[name]
    changed = "-last_stage" * row.last_stage + "".join(
        f"-{path.removeprefix('model.')}={value}" for path, value in row.fields.items()
    ).replace(" ", "")
    return workdir / "runs" / f"{row.config}{changed}-{seed}"


def values_of(config: Config) -> Record:
    """Every value that a row is measured under; where the prepared photographs are kept is none of them."""
    values: Record = json.loads(json.dumps(to_dict(config)))
    values["data"]["cache_dir"] = ""
    return values


def measured_before(path: Path, config: Config) -> Record | None:
    """What a file says was measured; None where there is none.

    Raises `UserError` that names the first field in which it was measured under another value than the config has.
    """
    if not path.exists():
        return None
    record: Record = json.loads(path.read_text())
    if "config" not in record:
        raise UserError(f"{path}: does not say under which values it was measured; move it away to measure anew")
    before = to_dict(from_dict(record["config"]))  # fields that are new since have their default
    for field, old, new in differences(before, values_of(config)):
        raise UserError(
            f"{path}: was measured with config.{field}={old!r}, now it is {new!r}; put the field back, choose another "
            "--workdir, or move the file away to measure anew"
        )
    return record


def run(name: str, args: argparse.Namespace, collections: dict[str, Benchmark], seed: int) -> Record:
    """What one row measures with one seed on every collection; what is on disk is not measured again."""
    row, folder = ROWS[name], row_folder(args.workdir, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path, config = folder / "measured.json", row_config(row, args, seed)
    new: Record = {"row": name, "seed": seed, "collections": {}, "config": values_of(config)}
    record = measured_before(path, config) or new
    missing = {key: benchmark for key, benchmark in collections.items() if key not in record["collections"]}
    if not missing:
        return record
    if row.trained:
        workdir = run_folder(args.workdir, name, seed)
        train(config, workdir)
        retriever = load(workdir, config)
    else:
        retriever = untrained(config, args)
    record["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(retriever.variables["params"]))
    record["bytes"] = 4 * descriptor_length(config.model)
    for key, benchmark in missing.items():
        measure = by_asmk if row.asmk else by_descriptors
        record["collections"][key] = measure(retriever, benchmark, folder, record)
    if seed == 0 and not row.asmk:
        record["words"] = words_of_photographs(retriever, args.words, *words_sets(collections, config, args))
    write_json(path, record)
    return record


def untrained(config: Config, args: argparse.Namespace) -> Retriever:
    """The network before training, with its whitening in closed form."""
    retriever = load(config)
    photos, _ = split_for_validation(config, args.workdir, prepare_photos(config, args.workdir))
    network = build_network(config.model, train_from=config.train.train_from)
    seen = shown(config, network, retriever.variables, photos, args.workdir / "data")
    start = refilled(config, learned_start(config, retriever.variables, seen), seen)
    return dataclasses.replace(retriever, variables=start)


def by_descriptors(retriever: Retriever, benchmark: Benchmark, *_: Any) -> Record:
    """Metrics of a collection, searched exactly by descriptors of stored maps."""
    config = retriever.config
    network = build_network(config.model, train_from=config.train.train_from)
    cache = Path(config.data.cache_dir)

    def describe(photos: Any) -> np.ndarray:
        return shown(config, network, retriever.variables, photos, cache).describe(network, retriever.variables)

    x = describe(benchmark.database)
    q = x if benchmark.queries is None else describe(benchmark.queries)
    scorer = benchmark.scorer()
    similarity = q[scorer.queries] @ x.T
    if benchmark.queries is None:
        similarity[np.arange(len(similarity)), scorer.queries] = -np.inf
    ids = np.argsort(-similarity, axis=1, kind="stable")[:, : scorer.depth]
    scorer.add(Answers(scorer.queries, ids, np.take_along_axis(similarity, ids, 1)))
    return scores(scorer.result())


def by_asmk(retriever: Retriever, benchmark: Benchmark, folder: Path, record: Record) -> Record:
    """Metrics of a collection, searched by ASMK on local features of the photographs at several scales."""
    workdir = Workdir(folder / benchmark.database.fingerprint[:12])  # a folder for every collection
    results = evaluate(retriever, benchmark, workdir.evaluation(benchmark.name), workdir=workdir)
    index = InvertedFile.load(workdir.inverted_file(benchmark.database_name))
    record["bytes"] = index.nbytes / len(index)
    return {"mAP": results.metrics.get("mAP", 0.0)} | {
        kind: results.metrics[kind]["mAP"] for kind in ("easy", "medium", "hard") if kind in results.metrics
    }


def scores(found: Any) -> Record:
    """mAP, or easy, medium and hard, and the AP of every query that has something to find, percent."""
    kinds = {kind: found.metrics[kind]["mAP"] for kind in ("easy", "medium", "hard") if kind in found.metrics}
    ap = 100 * found.ap
    return {"mAP": found.metrics["mAP"], "per_query": ap[~np.isnan(ap)].tolist()} | kinds


def words_sets(collections: dict[str, Benchmark], config: Config, args: argparse.Namespace) -> tuple[Any, Any]:
    """Photographs that visual words are learned on, and those of the first collection, on which they are counted."""
    learned_on, _ = split_for_validation(config, args.workdir, prepare_photos(config, args.workdir))
    return learned_on, next(iter(collections.values())).photos


def open_collections(args: argparse.Namespace) -> dict[str, Benchmark]:
    """The collections that the flags name, in their order."""
    cache, found = args.workdir / "data", {}
    for text in args.folder:
        name, _, where = text.partition("=")
        root, splits, split = where.split(";")
        config = Config()
        config.data.root, config.data.splits, config.eval.split = root, splits, split
        found[name] = open_benchmark("folder", config=config, cache=cache)
    for text in args.revisited:
        name, _, where = text.partition("=")
        root, gnd, distractors = where.split(";")
        found[name] = open_benchmark("revisited", root, gnd=gnd, distractors=distractors.split(","), cache=cache)
    return found


def row_times(names: list[str], args: argparse.Namespace, photos: Any) -> Record:
    """`{"about": how and where taken, "rows": of times_of_rows}`; as kept, where they are of these rows."""
    path = args.workdir / "times.json"
    if path.exists() and not args.times:
        kept = json.loads(path.read_text())
        if set(names) <= set(kept["rows"]):
            return kept
    how = f"{args.rounds} rounds of all rows in turn, medians: {PHOTOS} photographs of one shape, one step of training"
    about = f"{how}. {machine()}."
    configs = {name: row_config(ROWS[name], args, 0) for name in names}
    trained = {name for name in names if ROWS[name].trained}
    rows = times_of_rows(configs, trained, photos, args.rounds)
    times = {"about": about, "rows": rows}
    write_json(path, times)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folders of photographs to train on, separated by commas")
    parser.add_argument("--splits", required=True, help="their JSON files")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--revisited", action="append", default=[], metavar="NAME=ROOT;GND;DISTRACTORS")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--once", default="", metavar="ROWS", help="rows that have the first seed alone, to save time")
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by semicolons")
    parser.add_argument(
        "--baseline",
        default="GeM",
        metavar="ROW",
        help=f'that every row is compared with, by query; so named, or with "{TRAINED}" where that is so',
    )
    parser.add_argument("--words", type=int, default=1024, help="visual words")
    parser.add_argument("--times", action="store_true", help="take the times again")
    parser.add_argument("--rounds", type=int, default=8, help="of times")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    names, once = args.rows.split(";"), set(filter(None, args.once.split(";")))
    for name in [*names, args.baseline, *once]:
        if name not in ROWS:
            parser.error(f"no row {name!r}; choose from {'; '.join(ROWS)}")
    if not args.folder and not args.revisited:
        parser.error("give at least one collection to search: --folder or --revisited")
    collections = open_collections(args)
    rows: dict[str, list[Record]] = {name: [] for name in names}
    once |= {name for name in names if not ROWS[name].trained or ROWS[name].asmk}
    for seed in range(args.seeds):
        for name in names if seed == 0 else [name for name in names if name not in once]:
            record = run(name, args, collections, seed)
            rows[name].append(record)
            found = ", ".join(f"{key} {own['mAP']:.2f}" for key, own in record["collections"].items())
            print(f"seed {seed}, {name}: mAP {found}", flush=True)
    report(rows, names, args, collections)


def report(
    rows: dict[str, list[Record]], names: list[str], args: argparse.Namespace, collections: dict[str, Benchmark]
) -> None:
    """Prints the table with its paired tests, and writes them, every run and a plot to `--out`."""
    times = row_times(names, args, next(iter(collections.values())).photos)
    of_row = {name: times["rows"].get(name, {}) for name in names}
    text = markdown({name: columns(records, of_row[name]) for name, records in rows.items()})
    last = f"{args.baseline}{TRAINED}"
    for baseline, group in (
        (args.baseline, {name: own for name, own in rows.items() if not ROWS[name].last_stage}),
        (last, {name: own for name, own in rows.items() if ROWS[name].last_stage}),
    ):
        if baseline in group and len(group) > 1:
            text += f"\n\nEach row minus {baseline}, paired bootstrap over queries, mAP (95 % interval):\n\n"
            text += paired_tests(group, baseline)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = f"{counted(args.seeds, 'seed')}, mean ± standard deviation; where no deviation stands there is one seed."
    about = " ".join([seeds, f"{machine()}. Times: {times['about']}", *args.set])
    (args.out / "ablation.md").write_text(f"{about}\n\n{text}\n")
    write_csv(args.out / "ablation.csv", [flat(record, of_row[name]) for name in names for record in rows[name]])
    first = next(iter(collections))
    points = {
        name: (of_row[name]["milliseconds"], [r["collections"][first]["mAP"] for r in rows[name]])
        for name in names
        if "milliseconds" in of_row[name]
    }
    ours = {name for name in names if name.startswith(("smoothing", "refinement", "both"))}
    plot(args.out / "ablation.png", points, ours, "time to describe a photograph, ms")


if __name__ == "__main__":
    main()
