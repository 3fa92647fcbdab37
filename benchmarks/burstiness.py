"""How much smoothing tames bursts: local features and distinct visual words of a photograph, by kind of smoothing.

    python benchmarks/burstiness.py --root=PHOTOS [--splits=SPLITS.json] [--workdir=RUN] [--words 4096] [--save]

PHOTOS is a folder <instance>/<photo>, SPLITS a JSON file {"train": [instance, ...], "test": [instance, ...]}: the words
are learned on "train" and counted on "test"; without it both are done on all photographs. A repeated pattern gives many
features and few words; the closer C_X is to |X|, the less a photograph bursts. HOW's authors measure their 3x3 average
in this way.

For every row, as they do: strengths from the unsmoothed map, the `--features` strongest over seven scales, features
reduced to 128 numbers by PCA-whitening, words by k-means; both learned from one scale of the training photographs.

The learnable smoothing is that of the trained network in RUN, whose backbone all rows then share; without RUN it is
untrained, as `--start` names it.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from networks import square_batches
from timing import command, machine, save

from sret_jax.config import Config, ModelConfig, SmoothingConfig
from sret_jax.data.folders import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import PhotoBatch
from sret_jax.extraction.multiscale import resize_input
from sret_jax.extraction.selection import HOW_SCALES, SelectedFeatures, select_local
from sret_jax.models.attention import l2_attention
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.fixed_smoothing import average, bilateral, gaussian
from sret_jax.models.regional_pooling import regional_gem
from sret_jax.models.whitening import pca_whitening
from sret_jax.retrieval.asmk import distinct_words
from sret_jax.retrieval.codebook import kmeans
from sret_jax.retriever import Retriever, load, without_unfilled_layers

DIM, PCA_PHOTOS = 128, 200
FIXED: dict[str, Callable[..., jax.Array]] = {
    "none": lambda x, mask: x,
    "3 x 3 average": lambda x, mask: average(x, 3, mask=mask),
    "Gaussian, sigma 1, 3 x 3": lambda x, mask: gaussian(x, 1.0, window=3, mask=mask),
    "bilateral, sigma 1 and 0.5, 3 x 3": lambda x, mask: bilateral(x, 1.0, 0.5, window=3, mask=mask),
    "regional GeM, 5 x 5": lambda x, mask: regional_gem(x, mask=mask),
}
Reduction = tuple[np.ndarray, np.ndarray]


def open_smoothing(options: argparse.Namespace) -> tuple[Retriever, str]:
    """A network with smoothing and no refinement behind it, and the name of its row."""
    if options.workdir:
        retriever, name = load(options.workdir), "learnable, trained"
        if retriever.network.smoothing is None:
            sys.exit(f"--workdir={options.workdir}: that network has no smoothing; give a run that trained it")
        retriever = dataclasses.replace(retriever, network=retriever.network.clone(refinement=None))
    else:
        smoothing = SmoothingConfig(enabled=True, start=options.start)
        retriever = load(without_unfilled_layers(Config(model=ModelConfig(smoothing=smoothing))))
        name = f"learnable, untrained ({options.start})"
    retriever.config.data.image_size = options.size
    return retriever, name


def spread(photos: PhotoSet, most: int) -> np.ndarray:
    """At most so many rows, evenly spread."""
    return np.unique(np.linspace(0, len(photos) - 1, min(most, len(photos))).astype(int))


@partial(jax.jit, static_argnames=("network", "learnable", "scale"))
def local_maps(
    network: RetrievalNetwork,
    learnable: str,
    variables: Variables,
    reductions: dict[str, Reduction],
    images: jax.Array,
    mask: jax.Array,
    scale: float,
) -> dict[str, dict[str, jax.Array]]:
    """Of every row {"features", "strength", "mask"} at one scale, reduced where `reductions` says how."""
    if scale != 1:
        images, mask = resize_input(images, mask, scale, network.size_multiple, recomputed=True)
    smoothed, mask, seen = network.apply(variables, images, mask, method="feature_map")
    strength = l2_attention(seen["backbone"])
    maps = {name: smooth(seen["backbone"], mask) for name, smooth in FIXED.items()} | {learnable: smoothed}
    for name, (mean, projection) in reductions.items():
        maps[name] = (maps[name] - mean) @ projection
    return {name: {"features": x, "strength": strength, "mask": mask} for name, x in maps.items()}


def at_one_scale(
    found: Iterator[PhotoBatch], maps_of: Callable[..., Any], reductions: dict[str, Any]
) -> dict[str, np.ndarray]:
    """All local features of photographs, by row of the table."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in found:
        for name, maps in maps_of(reductions, batch["image"], batch["mask"], 1.0).items():
            parts.setdefault(name, []).append(np.asarray(maps["features"])[np.asarray(maps["mask"])])
    return {name: np.concatenate(x) for name, x in parts.items()}


def count(
    found: Iterator[PhotoBatch],
    maps_of: Callable[..., Any],
    reductions: dict[str, Reduction],
    codebooks: dict[str, np.ndarray],
    most: int,
    scales: tuple[float, ...] = HOW_SCALES,
) -> dict[str, np.ndarray]:
    """|X| and C_X of every photograph, by row of the table."""
    counts: dict[str, list[np.ndarray]] = {name: [] for name in codebooks}
    for batch in found:
        maps = [maps_of(reductions, batch["image"], batch["mask"], scale) for scale in scales]
        real = batch["row"] >= 0
        for name, centroids in codebooks.items():
            chosen: SelectedFeatures = select_local([one[name] for one in maps], scales, most)
            words = distinct_words(chosen.features, chosen.counts, jnp.asarray(centroids))
            counts[name].append(np.stack([chosen.counts, words], 1)[real])
    return {name: np.concatenate(x) for name, x in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--splits", default="")
    parser.add_argument("--workdir", default="", help="of a training run with smoothing")
    parser.add_argument("--start", default="average", choices=("identity", "average"))
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--features", type=int, default=1000, help="of a photograph, at most")
    parser.add_argument("--size", type=int, default=320, help="longest side, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--photos", type=int, default=0, help="of each split, evenly spread; 0 for all")
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    options = parser.parse_args()

    retriever, learnable = open_smoothing(options)
    maps_of = partial(local_maps, retriever.network, learnable, retriever.variables)
    with tempfile.TemporaryDirectory() as cache:
        train, test = (
            prepare_folder(options.root, cache, splits=options.splits, split=split if options.splits else "")
            for split in ("train", "test")
        )
        rows = [spread(photos, options.photos or len(photos)) for photos in (train, test)]
        some = rows[0][:: max(1, len(rows[0]) // PCA_PHOTOS)]
        raw = at_one_scale(square_batches(train, retriever, options.batch, some), maps_of, {})
        reductions = {name: pca_whitening(x, DIM) for name, x in raw.items()}
        reductions = jax.tree.map(lambda z: np.asarray(z, np.float32), reductions)
        learned_on = at_one_scale(square_batches(train, retriever, options.batch, rows[0]), maps_of, reductions)
        codebooks = {name: kmeans(x, options.words) for name, x in learned_on.items()}
        counted = square_batches(test, retriever, options.batch, rows[1])
        counts = count(counted, maps_of, reductions, codebooks, options.features)

    features = len(next(iter(learned_on.values())))
    lines = ["# Burstiness by kind of smoothing", "", machine(), "", command(), ""]
    lines += [
        f"EfficientNet-Lite0 at {options.size} pixels, {options.words} words learned from {features} local features of "
        f"{len(rows[0])} photographs, counted on {len(rows[1])} photographs; means.",
        "",
        "| smoothing | features \\|X\\| | words C_X | C_X / \\|X\\| |",
        "|---|---|---|---|",
    ]
    for name in [*FIXED, learnable]:
        mean = counts[name].mean(0)
        lines.append(f"| {name} | {mean[0]:.0f} | {mean[1]:.1f} | {mean[1] / mean[0]:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.save:
        print("saved", save("burstiness", text))


if __name__ == "__main__":
    main()
