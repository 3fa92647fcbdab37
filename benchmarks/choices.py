"""Which choices inside the two methods matter: window, kernel, graph, learning rates, on held-out training landmarks.

    python benchmarks/choices.py --root=PHOTOS --splits=SPLITS.json [--seeds=1] [--groups=smoothing,graph]

Never looks at the split "test": a third of the training instances is held out in turn, and a setting's figure is the
leave-one-out mAP on them, the mean of the three folds. The backbone is frozen, so its maps are computed once: `--views`
random views of every photograph to train on, and the photograph as it is to search. Heads then train on stored maps, in
seconds instead of minutes; otherwise this is the training of `benchmarks/ablation.py`, with its loss and optimiser.

Every setting stands beside the row that it changes, and a row beside GeM, measured with it: parameters without the
backbone's, and a paired bootstrap over queries. Of all groups the results are `choices.*`, of some
`choices_<group>.*` (but for "rows").
"""

import argparse
import copy
import dataclasses
import json
import runpy
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from choice_groups import GROUPS, R, S, Setting, base_of, stem_of
from comparison import markdown, mean_and_deviation, paired_bootstrap, write_csv
from jaxtyping import Float
from networks import map_of
from timing import machine

from sret_jax.config import Config
from sret_jax.config.validation import validate
from sret_jax.data.augmentation import augment
from sret_jax.data.folders import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.resizing import content_size, place, resize
from sret_jax.metrics.ranking import rank, score_rankings
from sret_jax.models.descriptor import build_network
from sret_jax.models.whitening import apply_whitening, pca_whitening
from sret_jax.retriever import load, without_unfilled_layers
from sret_jax.training import parallel
from sret_jax.training.losses import init_loss
from sret_jax.training.optimizer import build_optimizer
from sret_jax.training.step import TrainState, make_step

FOLDS = 3
UNTRAINED = ("untrained", "GeM, no whitening")


@dataclasses.dataclass(frozen=True)
class Measured:
    """The average precision of every query, percent, of each fold and seed; and how many parameters there are."""

    ap: list[list[Float[np.ndarray, "q"]]]  # seeds of folds
    parameters: int

    def over_seeds(self) -> Float[np.ndarray, "n"]:
        """The mean over seeds of every query of every fold."""
        return np.concatenate([np.mean(fold, 0) for fold in zip(*self.ap, strict=True)])


class StoredMaps(nn.Module):
    """Takes the place of a frozen backbone: its "images" are that backbone's maps already."""

    stage: str

    def __call__(self, maps: jax.Array, mask: jax.Array, **_: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        return {self.stage: (maps.astype(jnp.float32), mask)}


@dataclasses.dataclass(frozen=True)
class Maps:
    """Of every photograph, view 0 the whole and then random ones: maps [n v h w c], float16, and masks [n v h w]."""

    maps: np.ndarray
    masks: np.ndarray
    labels: np.ndarray

    def of(self, instances: np.ndarray) -> "Maps":
        """The photographs of these instances, with labels from 0."""
        rows = np.flatnonzero(np.isin(self.labels, instances))
        number = {int(old): new for new, old in enumerate(sorted(instances))}
        return Maps(self.maps[rows], self.masks[rows], np.array([number[int(x)] for x in self.labels[rows]], np.int32))


def store(photos: PhotoSet, config: Config, views: int) -> Maps:
    """The backbone's maps of all photographs and of `views` random views of each, all padded to one square."""
    retriever = load(without_unfilled_layers(config))
    map_in = map_of(retriever)
    side, multiple = config.data.image_size, retriever.network.size_multiple
    maps, masks = [], []
    for row in range(len(photos)):
        photo = photos.photo(row)
        rng = np.random.default_rng((0, row))
        seen = [resize(photo, content_size(photo.shape[:2], side, multiple))]
        seen += [augment(photo, rng, config.data, multiple=multiple) for _ in range(views)]
        images, inside = map(np.stack, zip(*(place(view, (side, side)) for view in seen), strict=True))
        x, mask = map_in(images, inside)
        maps.append(np.asarray(x, np.float16))
        masks.append(np.asarray(mask))
        if row % 100 == 99:
            print(f"{row + 1} of {len(photos)} photographs", flush=True)
    return Maps(np.stack(maps), np.stack(masks), photos.labels)


def changed(config: Config, fields: dict[str, Any]) -> Config:
    """The config with these fields; a float given for a field that is a number multiplies it."""
    config = copy.deepcopy(config)
    for path, value in fields.items():
        *parents, name = path.split(".")
        node: Any = config
        for parent in parents:
            node = getattr(node, parent)
        if isinstance(value, float):
            value = type(getattr(node, name))(getattr(node, name) * value)
        setattr(node, name, value)
    return config


def precisions(x: Float[np.ndarray, "n d"], labels: np.ndarray) -> Float[np.ndarray, "q"]:
    """Leave-one-out average precision of every photograph, percent."""
    ap, _ = score_rankings(rank(x @ x.T), labels, labels, np.arange(len(labels)))
    return 100 * ap[~np.isnan(ap)]


def run(
    base: Config, fields: dict[str, Any], train: Maps, held_out: Maps, seed: int
) -> tuple[Float[np.ndarray, "q"], int]:
    """Trains the heads on stored maps: the precisions of the held-out photographs, and how many parameters it took."""
    rewhiten = fields.get("rewhiten", False)
    config = changed(base, {path: value for path, value in fields.items() if path != "rewhiten"})
    config.seed = seed
    validate(config)
    stored = StoredMaps(config.model.stage)
    network = build_network(config.model).clone(backbone=stored)
    plain = build_network(config.model, whitening=False).clone(backbone=stored)
    params = jax.jit(network.init)(jax.random.key(seed), train.maps[:1, 0], jnp.asarray(train.masks[:1, 0]))["params"]

    def describe(network: nn.Module, params: Any, of: Maps) -> np.ndarray:
        apply = jax.jit(lambda x, mask: network.apply({"params": params}, x, mask)[0])
        padded = -(-len(of.maps) // 32) * 32  # one shape, one compilation
        rows = np.resize(np.arange(len(of.maps)), padded).reshape(-1, 32)
        return np.concatenate([apply(of.maps[r, 0], of.masks[r, 0]) for r in rows])[: len(of.maps)]

    dim, shrinkage = config.model.whitening_dim, config.model.whitening_shrinkage
    mean, projection = pca_whitening(describe(plain, params, train), dim, shrinkage)
    params["whitening"] = {"kernel": projection.astype(np.float32), "bias": (-mean @ projection).astype(np.float32)}

    rng = np.random.default_rng(seed)
    loss = init_loss(config.train, int(train.labels.max()) + 1, dim, jax.random.key(seed + 1))
    tree = {"network": params, "loss": loss}
    optimizer = build_optimizer(config.train, config.model, tree)
    state = TrainState(np.int32(0), tree, {}, optimizer.init(tree), jax.random.key_data(jax.random.key(seed)))
    state = parallel.place(parallel.fetch(state))
    step = parallel.data_parallel(make_step(network, optimizer, config.train))
    rows_of = [np.flatnonzero(train.labels == label) for label in range(int(train.labels.max()) + 1)]
    p, k = config.data.instances_per_batch, config.data.photos_per_instance
    for _ in range(config.train.steps):
        chosen = rng.choice(len(rows_of), p, replace=False)
        rows = np.concatenate([np.resize(rng.permutation(rows_of[label]), k) for label in chosen])
        view = rng.integers(1, train.maps.shape[1], len(rows))
        batch = {"image": train.maps[rows, view], "mask": train.masks[rows, view], "label": train.labels[rows]}
        state, _ = step(state, parallel.shard([batch | {"stop": np.zeros(len(rows), bool)}]))
    params = parallel.fetch(state.params["network"])

    if rewhiten:
        mean, projection = pca_whitening(describe(plain, params, train), dim, shrinkage)
        x = apply_whitening(describe(plain, params, held_out), mean, projection)
    else:
        x = describe(network, params, held_out)
    return precisions(x, held_out.labels), sum(leaf.size for leaf in jax.tree.leaves(params))


def untrained(config: Config, held_out: Maps) -> Float[np.ndarray, "q"]:
    """Of plain GeM without whitening."""
    model = dataclasses.replace(config.model, whitening=False)
    network = build_network(model).clone(backbone=StoredMaps(model.stage))
    apply = jax.jit(network.init_with_output)
    x = [apply(jax.random.key(0), x[:1], mask[:1])[0][0] for x, mask in zip(held_out.maps, held_out.masks, strict=True)]
    return precisions(np.concatenate(x), held_out.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--splits", required=True)
    parser.add_argument("--config", default="configs/spatial_context.py", help="what all settings share")
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--workdir", type=Path, default=Path("runs/choices"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    if unknown := set(args.groups.split(",")) - set(GROUPS):
        parser.error(f"no group {sorted(unknown)[0]!r}; choose from {', '.join(GROUPS)}")

    config = runpy.run_path(args.config)["get_config"]()
    config = changed(config, {f"{S}.enabled": False, f"{R}.enabled": False})
    photos = prepare_folder(args.root, args.workdir / "data", splits=args.splits, split="train")
    maps = store(photos, config, args.views)
    instances = np.random.default_rng(0).permutation(len(photos.instances))
    folds = []
    for fold in range(FOLDS):
        held_out = instances[fold::FOLDS]
        folds.append((maps.of(np.setdiff1d(instances, held_out)), maps.of(held_out)))

    groups = args.groups.split(",")
    asked = [(group, name) for group in groups for name in GROUPS[group]]
    measured = {UNTRAINED: Measured([[untrained(config, held_out) for _, held_out in folds]] * args.seeds, 0)}
    bases = [base_of(*setting) for setting in asked]
    for group, name in dict.fromkeys([base_of(*setting) for setting in bases] + bases + asked):  # each after its base
        start = time.perf_counter()
        found = [[run(config, GROUPS[group][name], *fold, seed) for fold in folds] for seed in range(args.seeds)]
        measured[group, name] = Measured([[ap for ap, _ in of_folds] for of_folds in found], found[0][0][1])
        jax.clear_caches()  # each run compiles its own programs, and a process can hold only so many
        seconds = time.perf_counter() - start
        print(f"{group}: {name}: {measured[group, name].over_seeds().mean():.2f}  ({seconds:.0f} s)", flush=True)
        write(args.out, stem_of(groups), measured, args.seeds)


def cells(setting: Setting, measured: dict[Setting, Measured]) -> dict[str, str]:
    """`{column: text}` of one setting."""
    own, base = measured[setting], base_of(*setting)
    row = {"mAP on held-out landmarks": mean_and_deviation([np.mean([x.mean() for x in seed]) for seed in own.ap])}
    row["parameters"] = f"{own.parameters / 1e6:.2f} M" if own.parameters else "–"
    if setting == UNTRAINED or setting == base:
        return row
    mean, low, high = paired_bootstrap(own.over_seeds(), measured[base].over_seeds())
    return row | {"minus": base[1], "difference (95 %)": f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"}


def write(out: Path, stem: str, measured: dict[Setting, Measured], seeds: int) -> None:
    """The table and each run, as far as measured."""
    columns = ["mAP on held-out landmarks", "parameters", "minus", "difference (95 %)"]
    found = {f"{group}: {name}": cells((group, name), measured) for group, name in measured}
    rows = {row: {column: values.get(column, "–") for column in columns} for row, values in found.items()}
    about = f"Leave-one-out mAP on held-out training instances, mean of {FOLDS} folds, {seeds} seeds. {machine()}."
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.md").write_text(f"{about}\n\n{markdown(rows)}\n")
    records = [
        {"group": group, "setting": name, "seed": seed, "fold": fold, "mAP": float(ap.mean())}
        | {"parameters": own.parameters, "fields": json.dumps(GROUPS.get(group, {}).get(name, {}))}
        for (group, name), own in measured.items()
        for seed, of_folds in enumerate(own.ap)
        for fold, ap in enumerate(of_folds)
    ]
    write_csv(out / f"{stem}.csv", records)


if __name__ == "__main__":
    main()
