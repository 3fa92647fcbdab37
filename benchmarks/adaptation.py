"""Linear adaptation of the descriptors of frozen networks: what it adds, from which start, and where.

    python benchmarks/adaptation.py --root=A,B --splits=A.json,B.json --folder "NAME=ROOT;SPLITS.json;SPLIT" ...
        [--revisited "NAME=FOLDER;GND;DISTRACTORS,..."] [--retriever NAME ...] [--starts=within,pca,random]

The layer is trained on the instances of "train", and its epoch is chosen on those of "val"; collections are named as
for `ablation.py`, and searched once with what was chosen. `--retriever` is a run's folder or a pretrained name, whose
whitening layer is left out: the adapted layer takes its place, and "closed form" says what the layer is before its
training. By default it is EfficientNet-Lite0 with ImageNet's weights and GeM at 320 pixels. Descriptors are kept in
`--workdir`. Prints a table, and writes it to `--out`.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from ablation import open_collections, scores
from comparison import counted, mean_and_deviation, write_table
from timing import command, machine

from sret_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from sret_jax.config.adaptation import AdaptConfig
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.models.descriptor import build_network
from sret_jax.models.whitening import LearnedWhitening, apply_whitening
from sret_jax.reranking.answers import Answers
from sret_jax.retriever import Retriever, load
from sret_jax.storage.workdir import Workdir
from sret_jax.training.adaptation import Labelled, adapt
from sret_jax.training.loop import prepare_photos, split_for_validation

START = {"within": "whitening within instances", "pca": "PCA rotation", "random": "random, as published"}
Vectors = tuple[np.ndarray, np.ndarray | None]  # of the database and of the queries, None where they are the same


def without_whitening(source: str) -> Retriever:
    """The retriever with the descriptors that its whitening layer would get, normalised."""
    if not source:
        return load(Config(data=DataConfig(image_size=320), model=ModelConfig(whitening=False)))
    retriever = load(source)
    model = dataclasses.replace(retriever.config.model, whitening=False)
    variables: dict[str, Any] = dict(retriever.variables)
    variables["params"] = {name: tree for name, tree in variables["params"].items() if name != "whitening"}
    config = dataclasses.replace(retriever.config, model=model)
    return Retriever(build_network(model), variables, config)


def measured(benchmark: Benchmark, vectors: Vectors, layer: LearnedWhitening | None) -> dict[str, float]:
    """mAP, or of easy, medium and hard, in percent, of the exact search with adapted descriptors."""
    x, q = (own if own is None or layer is None else apply_whitening(own, *layer) for own in vectors)
    scorer = benchmark.scorer()
    similarity = (x if q is None else q)[scorer.queries] @ x.T
    if q is None:
        similarity[np.arange(len(similarity)), scorer.queries] = -np.inf
    ids = np.argsort(-similarity, axis=1, kind="stable")[:, : scorer.depth]
    scorer.add(Answers(scorer.queries, ids, np.take_along_axis(similarity, ids, 1)))
    found = scores(scorer.result())
    return {name: found[name] for name in ("easy", "medium", "hard") if name in found} or {"mAP": found["mAP"]}


def cells(found: list[dict[str, dict[str, float]]]) -> dict[str, str]:
    """A column for every collection: mean and deviation over seeds of each of its figures."""
    return {
        f"{name}, {' / '.join(kinds)}": " / ".join(
            mean_and_deviation([own[name][kind] for own in found]) for kind in kinds
        )
        for name, kinds in found[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folders of photographs to train on, separated by commas")
    parser.add_argument("--splits", required=True, help="their JSON files")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--revisited", action="append", default=[], metavar="NAME=ROOT;GND;DISTRACTORS")
    parser.add_argument("--retriever", action="append", default=[], metavar="NAME=RUN", help="or a pretrained name")
    parser.add_argument("--starts", default="within", help=f"separated by commas: {', '.join(START)}")
    parser.add_argument("--dim", type=int, default=AdaptConfig.dim)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    before = machine()
    collections = open_collections(args)
    data = DataConfig(root=args.root, splits=args.splits, cache_dir=str(args.workdir / "data"), threads=2)
    split = Config(data=data, train=TrainConfig(validate_every=1))
    photos, held_out = split_for_validation(split, args.workdir, prepare_photos(split, args.workdir))
    assert held_out is not None
    rows: dict[str, dict[str, str]] = {}
    for text in args.retriever or ["GeM"]:
        name, _, source = text.partition("=")
        retriever, place = without_whitening(source), Workdir(args.workdir / name)

        def described(own: Any, retriever: Retriever = retriever, place: Workdir = place) -> np.ndarray:
            return np.asarray(retriever.extract(own, place.descriptors(own.fingerprint[:12])).descriptors)

        train, val = (Labelled(described(own), own.labels) for own in (photos, held_out))
        vectors: dict[str, Vectors] = {
            key: (described(own.database), None if own.queries is None else described(own.queries))
            for key, own in collections.items()
        }

        def found(layer: LearnedWhitening | None, vectors: dict[str, Vectors] = vectors) -> dict[str, dict[str, float]]:
            return {key: measured(own, vectors[key], layer) for key, own in collections.items()}

        rows[f"{name}, without whitening, {train.x.shape[1]}"] = cells([found(None)])
        for start in args.starts.split(","):
            adapted, closed, gains, kept = [], None, [], 0
            for seed in range(args.seeds):
                settings = AdaptConfig(dim=args.dim, start=start, seed=seed)
                one = adapt(train, val, settings)
                adapted.append(found(one.best))
                gains.append(one.curve[one.epoch] - one.curve[0])
                kept += one.layer is not None
                if closed is None and start != "random":
                    closed = found(adapt(train, val, dataclasses.replace(settings, epochs=0)).best)
                print(f"{name}, {start}, seed {seed}: {gains[-1]:+.2f} on val, {adapted[-1]}", flush=True)
            if closed is not None:
                rows[f"{name}, {START[start]}, {args.dim}"] = cells([closed])
            rows[f"{name}, adapted ({START[start]}), {args.dim}"] = cells(adapted) | {
                "gain on val over its start": mean_and_deviation(gains),
                "kept": f"{kept} of {args.seeds}",
            }
    about = (
        f"Leave-one-out mAP, or of official queries; {len(photos)} photographs of {len(photos.instances)} instances to "
        f"train on, {len(held_out)} of {len(held_out.instances)} to choose the epoch; {counted(args.seeds, 'seed')}. "
        f"{command()}. {before}."
    )
    write_table(args.out / "adaptation.md", about, rows)


if __name__ == "__main__":
    main()
