"""A linear adaptation from one's photographs, or from a file of descriptors, to a folder that is used."""

import dataclasses
import io
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config.adaptation import AdaptConfig
from sret_jax.config.rules import check
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.sampling import HOLD_OUT
from sret_jax.errors import UserError
from sret_jax.models.whitening import LearnedWhitening, apply_whitening
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import write_file, write_json
from sret_jax.storage.files import named
from sret_jax.storage.foreign import a_list, a_text, open_npy, read_json, read_lines
from sret_jax.storage.refusals import plainly
from sret_jax.storage.workdir import Workdir
from sret_jax.training import loop
from sret_jax.training.adaptation import Adaptation, Labelled, adapt

log = logging.getLogger(__name__)
MOST_BYTES = 64 << 30  # of a file of descriptors


@plainly()
def adapt_retriever(
    retriever: Retriever, root: str, out: Path, settings: AdaptConfig, splits: str = "", cache: str = ""
) -> tuple[Retriever, Adaptation]:
    """The retriever with a layer that is trained on the descriptors of a folder of instances, if that is better.

    The photographs are described once, into `out`/descriptors, without the whitening that the retriever learned after
    its training: the layer takes its place, and has to be better than it. `out`/retriever is what `sret_jax.load`
    reads; `out`/adaptation.json says how good it is.

    Args:
      root: `<instance>/<photo>`, or several such folders separated by commas.
      splits: JSON `{"train": [instance, ...], "val": [instance, ...]}`, one for each root; "": a share of the instances
        is held out.
      cache: where prepared photographs are kept; "": below `out`.

    Raises `UserError` for settings, folders, instances or descriptors that cannot be used.
    """
    check(settings, "AdaptConfig.")
    data = dataclasses.replace(
        retriever.config.data,
        dataset="folder",
        root=root,
        splits=splits,
        split="train",
        validation="val",
        held_out=settings.held_out,
        cache_dir=cache,
    )
    train = dataclasses.replace(retriever.config.train, validate_every=1)
    config = dataclasses.replace(retriever.config, data=data, train=train, seed=settings.seed)
    photos, held_out = loop.split_for_validation(
        config, out, loop.prepare_photos(config, out), named="--held_out", otherwise=""
    )
    assert held_out is not None
    bare, place = dataclasses.replace(retriever, whitening=None), Workdir(out)

    def described(name: str, part: PhotoSet) -> Labelled:
        log.info("describing %d photographs of %d instances (%s)", len(part), len(part.instances), name)
        return Labelled(np.asarray(bare.extract(part, place.descriptors(name)).descriptors), part.labels)

    known, deciding = described("train", photos), described("held-out", held_out)
    before = deciding.x if retriever.whitening is None else apply_whitening(deciding.x, *retriever.whitening)
    found = adapt(known, deciding, settings, before)
    adapted = retriever if found.layer is None else dataclasses.replace(retriever, whitening=found.layer)
    adapted.save(out / "retriever")
    _write_record(out, found, settings, {"root": root, "splits": splits})
    return adapted, found


@plainly()
def adapt_descriptors(
    descriptors: Path, out: Path, settings: AdaptConfig, labels: str = "", names: str = ""
) -> tuple[LearnedWhitening, Adaptation]:
    """A layer that is trained on a file of descriptors, or none, a projection that changes nothing, if none is better.

    `out`/projection.npz holds "mean" [c] and "projection" [c d]: normalise `(x - mean) @ projection` of normalised x.

    Args:
      descriptors: .npy [n c].
      labels: a file with the instance of each row, see `read_labels`.
      names: or with the name of its photograph, `<instance>/<photo>`.

    Raises `UserError` for settings or files that cannot be used.
    """
    check(settings, "AdaptConfig.")
    x = _read_descriptors(descriptors)
    known = read_labels(labels, names, len(x))
    out_rows = held_out_rows(known, settings)
    found = adapt(Labelled(x[~out_rows], known[~out_rows]), Labelled(x[out_rows], known[out_rows]), settings)
    layer = found.layer or LearnedWhitening(np.zeros(x.shape[1], np.float32), np.eye(x.shape[1], dtype=np.float32))
    file = io.BytesIO()
    np.savez(file, mean=layer.mean, projection=layer.projection)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "projection.npz", file.getvalue())
    _write_record(out, found, settings, {"descriptors": str(descriptors)})
    return layer, found


def read_labels(labels: str, names: str, count: int) -> Int[np.ndarray, "n"]:
    """The instance of each of `count` rows as a number; -1 where there is none.

    Args:
      labels: a text file with one instance a line, an empty line for none; or JSON, `[instance or null, ...]`.
      names: the same with the names of the photographs, whose first folder is the instance.

    Raises `UserError` naming what is missing or has another number of lines.
    """
    if bool(labels) == bool(names):
        raise UserError(
            "descriptors need the instance of each: give --labels=FILE, or --names=FILE of <instance>/<photo>"
        )
    path = Path(labels or names)
    with named(path, "it must hold one name a line, or a JSON list of names"):
        entries = a_list(read_json(path), "it") if path.suffix == ".json" else read_lines(path)
        for entry in entries:
            if entry is not None and (isinstance(entry, bool) or not isinstance(entry, int)):
                a_text(entry, "a name")
    if len(entries) != count:
        raise UserError(f"{path}: {len(entries)} names of {count} descriptors; give one each, in their order")
    instances = ["" if entry is None else str(entry).strip() for entry in entries]
    if names:
        instances = [name.split("/")[0] if "/" in name else "" for name in instances]
    number = {name: i for i, name in enumerate(sorted(set(instances) - {""}))}
    return np.array([number.get(name, -1) for name in instances], np.int32)


def held_out_rows(labels: Int[np.ndarray, "n"], settings: AdaptConfig) -> np.ndarray:
    """Which rows are of the instances that decide: a share of those with two descriptors or more, at least one.

    Raises `UserError` when that leaves fewer than two such instances to train on.
    """
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    several = values[counts >= 2]
    count = max(1, round(settings.held_out * len(several)))
    if len(several) - count < 2:
        raise UserError(
            f"of {len(several)} instances with two descriptors or more, {count} held out leave fewer than two to train "
            "on; give descriptors of more instances"
        )
    chosen = np.random.default_rng((settings.seed, HOLD_OUT)).permutation(several)[:count]
    return np.isin(labels, chosen)


def _read_descriptors(path: Path) -> Float[np.ndarray, "n c"]:
    with named(path, "give a .npy file of numbers with one descriptor a row"):
        return open_npy(path, MOST_BYTES, "fi", 2).astype(np.float32)


def _write_record(out: Path, found: Adaptation, settings: AdaptConfig, source: dict[str, str]) -> None:
    kept = {"kept": found.layer is not None, "verdict": found.verdict()}
    measured = {name: value for name, value in found._asdict().items() if name != "best"}
    write_json(out / "adaptation.json", kept | measured | {"settings": dataclasses.asdict(settings)} | source)
