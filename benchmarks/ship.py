"""Makes the weights that come with the package, and their card, of a run of the ablation.

    python benchmarks/ship.py --run=RUN --row="both, last stage trained" [--measured=benchmarks/results/ablation.csv]

RUN is the workdir of one run of that row, which `benchmarks/ablation.py` has trained and measured. Writes
NAME.safetensors (what differs from the installed backbone) and NAME.md, the card, to
`sret_jax/models/weights/shipped/`.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from comparison import markdown, mean_and_deviation

from sret_jax.config import Config, differences, to_dict
from sret_jax.models.weights.file import read_weights
from sret_jax.models.weights.pretrained import installed_weights
from sret_jax.models.weights.shipped import DEFAULT, write_shipped
from sret_jax.retriever import load
from sret_jax.storage.workdir import Workdir

FOLDER = Path(__file__).parent.parent / "sret_jax" / "models" / "weights" / "shipped"
BESIDE = ("untrained GeM", "GeM", "GeM, last stage trained")  # rows that the card shows beside its own
PRIVATE = ("data.root", "data.splits", "data.cache_dir", "eval.")  # where photographs lay: nobody else's business

CARD = """# {name}

A retriever for photographs of one particular object: {parameters:.1f} M parameters, {dim} dimensions, {size:.1f} MB
here (the stages that did not train come from the package of the backbone).

    import sret_jax
    retriever = sret_jax.load("{name}")

## What it is

{backbone} at {image_size} px, learnable smoothing of 3 x 3 and refinement in the span of the features before GeM, and a
whitening layer in closed form. Of the backbone the stages from {train_from} on were trained with the rest; its weights
here are the mean of those before and after, which forgets less.

## What it was trained on

{photos} photographs of {instances} instances, and {held_out} more instances to choose the step by: covers of films by
several phones, shoes, balls, toys and parts from shops and buyers, packaged goods, statues and buildings from
photogrammetry sets, world landmarks, and landmarks of six towns of Provence from the web. They were gathered for
research from public collections, **most of them without a licence that allows to pass them on**. No photograph is in
this file; whether weights made of such photographs suit your purpose is yours to judge. The backbone started from
ImageNet weights (Apache-2.0).

## How

Step {step} of {steps}, chosen on the held-out instances: mAP {start:.2f} before training, {best:.2f} after.

    python benchmarks/ablation.py --rows="{row}" ...

The settings that differ from the defaults:

{settings}

## How good it is

Searched leave-one-out, or by official queries (easy / medium / hard), on photographs of instances that it was not
trained on; "objects" are those that the step was chosen by. Mean and standard deviation over seeds of the same recipe,
one seed where no deviation stands. This file is the run with seed {seed}.

{table}

## What it is not

- Landmarks, covers, shoes, toys and packages were there to learn from. Nothing was measured on faces, plants,
  handwriting or satellite images.
- The backbone is the smallest of its family, and photographs are seen at {image_size} px on their longest side: what is
  small in them may go unseen.
"""


def card(name: str, run: Path, row: str, measured: Path, size: int) -> str:
    """The card's text, from the run and the results of its row."""
    retriever = load(run)
    config, record = retriever.config, json.loads(_last_record(run).read_text())
    curve = dict(record["validation"]["curve"])
    about = json.loads(Workdir(run).config.read_text())
    changed = differences(to_dict(Config()), to_dict(config))
    settings = [f"    {field} = {value!r}" for field, _, value in changed if not field.startswith(PRIVATE)]
    return CARD.format(
        name=name,
        row=row,
        parameters=_count(retriever.variables["params"]) / 1e6,
        dim=config.model.whitening_dim,
        size=size / 1e6,
        backbone=config.model.backbone,
        image_size=config.data.image_size,
        train_from=config.train.train_from,
        photos=about["photos"],
        instances=about["instances"],
        held_out=about["held_out"],
        step=record["validation"]["step"],
        steps=config.train.steps,
        start=curve[0],
        best=curve[record["validation"]["step"]],
        settings="\n".join(settings),
        seed=config.seed,
        table=_table(measured, row),
    )


def _count(tree: Any) -> int:
    return sum(_count(part) for part in tree.values()) if isinstance(tree, dict) else tree.size


def _last_record(run: Path) -> Path:
    return max(Workdir(run).checkpoints.glob("*/record.json"), key=lambda path: int(path.parent.name))


def _table(measured: Path, row: str) -> str:
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    with open(measured, newline="") as file:
        for line in csv.DictReader(file):
            runs[line["row"]].append(line)
    own = [c for c in runs[row][0] if c.endswith((" mAP", " easy", " medium", " hard")) and runs[row][0][c]]
    rows = {}
    for name in dict.fromkeys([*(b for b in BESIDE if b in runs), row]):
        rows[name] = {column: mean_and_deviation([float(line[column]) for line in runs[name]]) for column in own}
    return markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--row", required=True)
    parser.add_argument("--measured", type=Path, default=Path("benchmarks/results/ablation.csv"))
    parser.add_argument("--name", default=DEFAULT)
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    retriever, path = load(args.run), FOLDER / f"{args.name}.safetensors"
    if retriever.whitening is not None:
        parser.error(f"{args.run}: has a whitening that was learned after training, which the file would not hold")
    config = to_dict(retriever.config)
    config["data"] |= {"root": "", "splits": "", "cache_dir": ""}
    config["eval"] = to_dict(Config())["eval"]
    backbone = read_weights(installed_weights(retriever.config.model.backbone)).variables
    write_shipped(path, retriever.variables, backbone, config)
    text = card(args.name, args.run, args.row, args.measured, path.stat().st_size)
    (FOLDER / f"{args.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
