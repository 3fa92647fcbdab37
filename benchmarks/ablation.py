"""The methods of the field and ours, every row the same data, steps, size and backbone, several seeds.

    python benchmarks/ablation.py --root=PHOTOS --splits=SPLITS.json [--seeds=3] [--rows="GeM,ours: smoothing"]
        [--gnd=GND --gnd-root=FOLDER]

PHOTOS is a folder <instance>/<photo>, SPLITS a JSON file {"train": [instance, ...], "test": [instance, ...]}. A row is
a file of `configs/`, trained on "train" and measured leave-one-out on "test"; with `--gnd` its first seed also by the
revisited protocol, with all of PHOTOS as distractors. Only the model and the loss may differ between rows, which is
checked. `--validate` never looks at "test" and is what choices are made on: it holds out a third of the training
instances in turn. `--set field=value` changes the config of all rows.

The table and a plot of mAP against time go to `--out`, each run to a CSV there. Runs are kept in `--workdir` and go on
where they were stopped. Times are those of the fastest seed, visual words and the revisited protocol of the first.
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
from comparison import markdown, mean_and_deviation, paired_bootstrap, plot, write_csv
from local_search import asmk_search, words_of_photographs
from timing import machine

from sret_jax import experiment
from sret_jax.artifacts import write_json
from sret_jax.config import Config, differences, to_dict
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmarks import Request
from sret_jax.models.descriptor import RetrievalNetwork, Variables, build_network, init_network
from sret_jax.training.checkpoint import load_network
from sret_jax.training.loop import learned_start, prepare_photos, train

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A config, and the fields in which the row differs from it."""

    config: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: bool = True
    asmk: bool = False  # its local features are compared by ASMK


SHARED_LOSS = {"train.loss": "multi_similarity", "train.margin": 0.5}
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
    "SuperGlobal pooling": Row("superglobal", {"extract.scales": (1.0,), "extract.scale_pooling": "mean"}),
    "ours: smoothing": Row("spatial_context", {"model.refinement.enabled": False}),
    "ours: refinement": Row("spatial_context", {"model.smoothing.enabled": False}),
    "ours: both": Row("spatial_context"),
}
FINAL = "ours: both"
# HOW has no whitening layer, and nothing to train but the end of the backbone.
MAY_DIFFER = ("model.", "train.loss", "train.margin", "train.train_from")
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
    """What one row measures with one seed; read from disk where that is complete."""
    row, folder = ROWS[name], row_folder(args.workdir, name, splits, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "measured.json"
    if path.exists():
        return json.loads(path.read_text())
    config = row_config(row, args, splits, seed)
    record: Record = {"row": name, "split": splits.stem, "seed": seed}
    if row.trained:
        workdir = run_folder(args.workdir, name, splits, seed)
        train(config, workdir)
        loaded = load_network(workdir)
        network, variables = build_network(config.model), {"params": loaded.params, "batch_stats": loaded.batch_stats}
        record["training_seconds"] = training_seconds(workdir, config)
    else:
        network = build_network(config.model)
        variables = init_network(network, config.model, jax.random.key(seed))
        variables = learned_start(config, variables, prepare_photos(config, args.workdir))
    record["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    measure = measure_asmk if row.asmk else measure_descriptors
    record |= measure(network, variables, config, folder, args, seed)
    write_json(path, record)
    return record


def training_seconds(workdir: Path, config: Config) -> float:
    """All steps at the median speed of the run, without compilation."""
    speeds = [json.loads(line)["images_per_second"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    photos = config.data.instances_per_batch * config.data.photos_per_instance * config.train.accumulate
    return config.train.steps * photos / float(np.median(speeds))


def revisited_request(args: argparse.Namespace) -> Request:
    return Request(root=args.gnd_root, gnd=args.gnd, distractors=(args.root,))


def measure_descriptors(
    network: RetrievalNetwork, variables: Variables, config: Config, out: Path, args: argparse.Namespace, seed: int
) -> Record:
    """Retrieval by global descriptors, what it costs, and the burstiness of the map that is pooled."""
    cache = args.workdir / "data"
    found = experiment.evaluate(network, variables, config, "folder", out / "eval/folder", cache_dir=cache)
    with open(out / "eval/folder/queries.csv", newline="") as f:
        per_query = [float(line["AP"]) for line in csv.DictReader(f)]
    record = {
        "mAP": found["metrics"]["mAP"],
        "R@1": found["metrics"]["R@1"],
        "per_query": per_query,
        "milliseconds": 1000 / found["images_per_second"],
        "bytes": 4 * found["dim"],
    }
    if seed:
        return record
    if args.gnd:
        asked = dataclasses.asdict(revisited_request(args))
        out = out / "eval/revisited"
        found = experiment.evaluate(network, variables, config, "revisited", out, cache_dir=cache, **asked)
        record |= {kind: found["metrics"][kind]["mAP"] for kind in ("easy", "medium", "hard")}
    return record | {"words": words_of_photographs(network, variables, config, cache, args.words)}


def measure_asmk(
    network: RetrievalNetwork, variables: Variables, config: Config, out: Path, args: argparse.Namespace, seed: int
) -> Record:
    """Retrieval by local features."""
    search = [network, variables, config]
    cache = args.workdir / "data"
    ranked, milliseconds, size = asmk_search(*search, "folder", Request(), cache, args.words)
    record = {
        "mAP": ranked.metrics["mAP"],
        "R@1": ranked.metrics["R@1"],
        "per_query": [100 * float(ap) for ap in ranked.ap],
        "milliseconds": milliseconds,
        "bytes": size,
    }
    if args.gnd and not seed:
        ranked, _, _ = asmk_search(*search, "revisited", revisited_request(args), cache, args.words)
        record |= {kind: ranked.metrics[kind]["mAP"] for kind in ("easy", "medium", "hard")}
    return record


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


def columns(records: list[Record], baseline: float) -> dict[str, str]:
    """The cells of one row, from its runs: `{column: text}`."""
    first = next(r for r in records if r["seed"] == 0)
    seeds = sorted({r["seed"] for r in records})
    mean = {m: [np.mean([r[m] for r in records if r["seed"] == s]) for s in seeds] for m in ("mAP", "R@1")}
    cells = {
        "mAP": mean_and_deviation(mean["mAP"]),
        "over untrained": f"{np.mean(mean['mAP']) - baseline:+.2f}",
        "R@1": mean_and_deviation(mean["R@1"]),
    }
    if "medium" in first:
        cells["revisited E / M / H"] = " / ".join(f"{first[kind]:.1f}" for kind in ("easy", "medium", "hard"))
    cells["parameters"] = f"{first['parameters'] / 1e6:.2f} M"
    trained = [r["training_seconds"] for r in records if "training_seconds" in r]
    cells["training"] = f"{min(trained):.0f} s" if trained else "–"
    cells["per photo"] = f"{min(r['milliseconds'] for r in records):.0f} ms"
    cells["index"] = f"{first['bytes']:.0f} B"
    if "words" in first:
        number, distinct = first["words"]
        cells["C_X / \\|X\\|"] = f"{distinct:.0f} / {number:.0f}"
    return cells


def paired_tests(rows: dict[str, list[Record]]) -> str:
    """Each row against ours, query by query: the AP of a query is the mean over seeds."""
    scores = {
        name: np.concatenate(
            [
                np.mean([r["per_query"] for r in records if r["split"] == split], 0)
                for split in sorted({r["split"] for r in records})
            ]
        )
        for name, records in rows.items()
    }
    lines = [f"| {FINAL} minus | mAP | 95 % interval |", "|---|---|---|"]
    for name, score in scores.items():
        if name != FINAL:
            mean, low, high = paired_bootstrap(scores[FINAL], score)
            lines.append(f"| {name} | {mean:+.2f} | {low:+.2f} to {high:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--splits", required=True)
    parser.add_argument("--gnd", default="", help="ground truth as of ROxford5k, .pkl or .json")
    parser.add_argument("--gnd-root", default="", help="the folder of its photographs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--words", type=int, default=1024, help="visual words")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    names = args.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no row {sorted(unknown)[0]!r}; choose from {', '.join(ROWS)}")

    rows: dict[str, list[Record]] = {name: [] for name in names}
    files = split_files(args)
    for seed in range(args.seeds):
        for name in names:
            for splits in files:
                record = run(name, args, splits, seed)
                rows[name].append(record)
                print(f"seed {seed}, {splits.stem}, {name}: mAP {record['mAP']:.2f}", flush=True)

    baseline = float(np.mean([r["mAP"] for r in rows[names[0]]]))
    text = markdown({name: columns(records, baseline) for name, records in rows.items()})
    if FINAL in rows and len(rows) > 1:
        text += f"\n\nPaired bootstrap over queries:\n\n{paired_tests(rows)}"
    print(text)
    stem = "ablation" + ("-validation" if args.validate else "")
    args.out.mkdir(parents=True, exist_ok=True)
    searched = "held-out training" if args.validate else "test"
    about = f"Leave-one-out on {searched} instances, {args.seeds} seeds, mean ± standard deviation. {machine()}."
    (args.out / f"{stem}.md").write_text(f"{about} {' '.join(args.set)}\n\n{text}\n")
    flat = [{k: v for k, v in r.items() if k not in ("per_query", "words")} for of in rows.values() for r in of]
    write_csv(args.out / f"{stem}.csv", flat)
    ours = {name for name in rows if name.startswith("ours")}
    points = {name: (min(r["milliseconds"] for r in of), [r["mAP"] for r in of]) for name, of in rows.items()}
    plot(args.out / f"{stem}.png", points, ours, "time to describe a photograph, ms")


if __name__ == "__main__":
    main()
