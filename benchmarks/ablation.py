"""The methods of the field and ours, every row the same data, steps, size and backbone, several seeds.

    python benchmarks/ablation.py --root=PHOTOS --splits=SPLITS.json [--seeds=3] [--rows="GeM;ours: smoothing"]
        [--gnd=GND --gnd-root=FOLDER] [--times]

PHOTOS is a folder <instance>/<photo>, SPLITS a JSON file {"train": [instance, ...], "test": [instance, ...]}. A row is
a file of `configs/`, trained on "train" and measured leave-one-out on "test"; with `--gnd` also by the revisited
protocol, with all of PHOTOS as distractors. Only the model, the loss and the part of the backbone that trains may
differ between rows, which is checked. Rows that train nothing are measured once: no seed changes them. `--validate`
never looks at "test" and is what choices are made on: it holds out a third of the training instances in turn.
`--set field=value` changes the config of all rows.

The table and a plot of mAP against time go to `--out`, each run to a CSV there. Runs are kept in `--workdir` and go on
where they were stopped. Visual words are of the first seed. Times are taken at the end, all rows in turn, and kept in
`--workdir` as well; `--times` takes them again, for which the machine should have nothing else to do.
"""

import argparse
import csv
import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ablation_table import Record, columns, flat, paired_tests
from comparison import markdown, plot, write_csv
from distinct_words import CODEBOOK_PHOTOS, words_of_photographs
from row_times import PHOTOS, times_of_rows
from timing import machine

from sret_jax.config import Config, SearchConfig, differences, to_dict
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.run import evaluate
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import write_json
from sret_jax.storage.workdir import Workdir
from sret_jax.training.loop import learned_start, prepare_photos, train


@dataclasses.dataclass(frozen=True)
class Row:
    """A config, and the fields in which the row differs from it."""

    config: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: bool = True
    asmk: bool = False  # its local features are compared by ASMK


SHARED_LOSS = {"train.loss": "multi_similarity", "train.margin": 0.5}
LAST_STAGE = {"train.train_from": "c5"}  # of the backbone, as in HOW's rows
ROWS = {
    "untrained GeM": Row("gem", {"model.whitening": False}, trained=False),
    "untrained GeM + whitening": Row("gem", trained=False),
    "GeM": Row("gem"),
    "R-MAC": Row("rmac"),
    "SOLAR: SOA": Row("solar", SHARED_LOSS),
    "SOLAR: SOA after c4": Row("solar", SHARED_LOSS | {"model.attention.stages": ("c4",)}),
    "SOLAR: SOA after last": Row("solar", SHARED_LOSS | {"model.attention.stages": ("last",)}),
    "SOLAR: SOS": Row("solar", {"model.attention.stages": ()}),
    "SOLAR: both": Row("solar"),
    "HOW pooling": Row("how"),
    "HOW + ASMK": Row("how", asmk=True),
    "DELG": Row("delg"),
    "SuperGlobal pooling": Row("superglobal", {"extract.scales": (1.0,), "extract.scale_pooling": "mean"}),
    "ours: smoothing": Row("spatial_context", {"model.refinement.enabled": False}),
    "ours: refinement": Row("spatial_context", {"model.smoothing.enabled": False}),
    "ours: both": Row("spatial_context"),
    "GeM, last stage trained": Row("gem", LAST_STAGE),
    "ours: both, last stage trained": Row("spatial_context", LAST_STAGE),
}
# The loss with its constants; HOW has nothing to train but the end of the backbone, DELG's exponent does not train.
MAY_DIFFER = ("model.", "train.loss", "train.margin", "train.scale", "train.train_from", "train.pool_lr")
FOLDS = 3
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


def row_config(row: Row, args: argparse.Namespace, splits: Path, seed: int) -> Config:
    """The config of a row, refused where it differs from GeM's in more than the model and the loss."""
    common, config = (runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]() for name in ("gem", row.config))
    for path, value in row.fields.items():
        set_field(config, path, value)
    for field, expected, own in differences(to_dict(common), to_dict(config)):
        if not field.startswith(MAY_DIFFER):
            raise UserError(f"configs/{row.config}.py: {field} is {own}, of gem.py {expected}: no fair comparison")
    config.seed = seed
    config.data.root, config.data.splits, config.data.cache_dir = args.root, str(splits), str(args.workdir / "data")
    for assignment in args.set:
        path, _, text = assignment.partition("=")
        set_field(config, path, text)
    if row.asmk:
        config.search = SearchConfig(method="asmk", words=args.words, codebook_photos=CODEBOOK_PHOTOS)
    return config


def row_folder(workdir: Path, name: str, splits: Path, seed: int) -> Path:
    """Where what a row measures is kept: `measured.json`, and what it is made of."""
    return workdir / f"{name.replace(' ', '_').replace(':', '')}-{splits.stem}-{seed}"


def run_folder(workdir: Path, name: str, splits: Path, seed: int) -> Path:
    """The run that a row measures; rows of one config and the same fields share it."""
    row = ROWS[name]
    changed = "".join(f"-{path}={value}" for path, value in row.fields.items()).replace(" ", "")
    return workdir / "runs" / f"{row.config}{changed}-{splits.stem}-{seed}"


def run(name: str, args: argparse.Namespace, splits: Path, seed: int) -> Record:
    """What one row measures with one seed; read from disk, unless the revisited protocol is asked for and not there."""
    row, folder = ROWS[name], row_folder(args.workdir, name, splits, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "measured.json"
    if path.exists():
        record: Record = json.loads(path.read_text())
        if "medium" in record or not args.gnd:
            return record
    config = row_config(row, args, splits, seed)
    record = {"row": name, "split": splits.stem, "seed": seed}
    if row.trained:
        workdir = run_folder(args.workdir, name, splits, seed)
        train(config, workdir)
        retriever = load(workdir, config)
    else:
        retriever = load(config)
        start = learned_start(config, retriever.variables, prepare_photos(config, args.workdir))
        retriever = dataclasses.replace(retriever, variables=start)
    record["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(retriever.variables["params"]))
    record |= measure(retriever, Workdir(folder), args, seed)
    write_json(path, record)
    return record


def measure(retriever: Retriever, workdir: Workdir, args: argparse.Namespace, seed: int) -> Record:
    """Retrieval, what it costs, and the burstiness of the local features: of the head, or of the map that is pooled."""
    config = retriever.config
    own = open_benchmark("folder", config=config, cache=config.data.cache_dir)
    out = workdir.evaluation(own.name)
    results = evaluate(retriever, own, out, workdir=workdir)
    with open(out / "queries.csv", newline="") as f:
        per_query = [float(line["AP"]) for line in csv.DictReader(f)]
    record = {
        "mAP": results.metrics["mAP"],
        "R@1": results.metrics["R@1"],
        "per_query": per_query,
        "bytes": 4 * results.dim,
    }
    if config.search.method == "asmk":
        index = InvertedFile.load(workdir.inverted_file(own.database_name))
        record["bytes"] = index.nbytes / len(index)
    if args.gnd:
        where = {"gnd": args.gnd, "distractors": [args.root], "config": config, "cache": config.data.cache_dir}
        revisited = open_benchmark("revisited", args.gnd_root, **where)
        results = evaluate(retriever, revisited, workdir.evaluation(revisited.name), workdir=workdir)
        record |= {kind: results.metrics[kind]["mAP"] for kind in ("easy", "medium", "hard")}
    if seed:
        return record
    return record | {"words": words_of_photographs(retriever, args.words)}


def row_times(names: list[str], args: argparse.Namespace) -> Record:
    """`{"about": how and where taken, "rows": of times_of_rows}`; as kept, where they are of these rows."""
    path = args.workdir / "times.json"
    if path.exists() and not args.times:
        kept = json.loads(path.read_text())
        if list(kept["rows"]) == names:
            return kept
    how = f"{args.rounds} rounds of all rows in turn, medians: {PHOTOS} photographs of one shape, one step of training"
    about = f"{how}. {machine()}."
    configs = {name: row_config(ROWS[name], args, Path(args.splits), 0) for name in names}
    rows = times_of_rows(configs, {name for name in names if ROWS[name].trained}, args.rounds)
    times = {"about": about, "rows": rows}
    write_json(path, times)
    return times


def split_files(args: argparse.Namespace) -> list[Path]:
    """The given split, or for `--validate` one file per fold of its training instances."""
    args.workdir.mkdir(parents=True, exist_ok=True)
    if not args.validate:
        return [Path(args.splits)]
    instances = np.random.default_rng(0).permutation(sorted(json.loads(Path(args.splits).read_text())["train"]))
    files = []
    for fold in range(FOLDS):
        held_out = instances[fold::FOLDS].tolist()
        split = {"train": sorted(set(instances.tolist()) - set(held_out)), "test": sorted(held_out)}
        files.append(args.workdir / f"fold{fold}.json")
        files[-1].write_text(json.dumps(split, indent=1))
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--splits", required=True)
    parser.add_argument("--gnd", default="", help="ground truth as of ROxford5k, .pkl or .json")
    parser.add_argument("--gnd-root", default="", help="the folder of its photographs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by semicolons")
    parser.add_argument("--paired", default="ours: both", metavar="ROW", help="compared with each other row, by query")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--words", type=int, default=1024, help="visual words")
    parser.add_argument("--times", action="store_true", help="take the times again")
    parser.add_argument("--rounds", type=int, default=8, help="of times")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    names = args.rows.split(";")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no row {sorted(unknown)[0]!r}; choose from {'; '.join(ROWS)}")
    if args.paired not in ROWS:
        parser.error(f"--paired: no row {args.paired!r}; choose from {'; '.join(ROWS)}")
    searched = "held-out training" if args.validate else "test"
    about = f"Leave-one-out on {searched} instances, {args.seeds} seeds, mean ± standard deviation. {machine()}."
    about = " ".join([about, *args.set])
    rows: dict[str, list[Record]] = {name: [] for name in names}
    files = split_files(args)
    for seed in range(args.seeds):
        for name in names if seed == 0 else [name for name in names if ROWS[name].trained]:
            for splits in files:
                record = run(name, args, splits, seed)
                rows[name].append(record)
                print(f"seed {seed}, {splits.stem}, {name}: mAP {record['mAP']:.2f}", flush=True)

    times: Record = {"about": "", "rows": {}} if args.validate else row_times(names, args)
    of_row = {name: times["rows"].get(name, {}) for name in names}
    baseline = float(np.mean([r["mAP"] for r in rows[names[0]]]))
    text = markdown({name: columns(records, baseline, of_row[name]) for name, records in rows.items()})
    if args.paired in rows and len(rows) > 1:
        text += f"\n\nPaired bootstrap over queries:\n\n{paired_tests(rows, args.paired)}"
    print(text)
    stem = "ablation" + ("-validation" if args.validate else "")
    args.out.mkdir(parents=True, exist_ok=True)
    if times["about"]:
        about += f"\n\nTimes: {times['about']}"
    (args.out / f"{stem}.md").write_text(f"{about}\n\n{text}\n")
    write_csv(args.out / f"{stem}.csv", [flat(record, of_row[name]) for name in names for record in rows[name]])
    if times["rows"]:
        points = {name: (of_row[name]["milliseconds"], [r["mAP"] for r in rows[name]]) for name in names}
        ours = {name for name in names if name.startswith("ours")}
        plot(args.out / f"{stem}.png", points, ours, "time to describe a photograph, ms")


if __name__ == "__main__":
    main()
