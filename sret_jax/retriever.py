"""A network ready to use, as one value: what describes photographs the same way wherever they come from."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict
from jaxtyping import Float, Int

from sret_jax.config import Config, from_dict, to_dict
from sret_jax.config.own_parts import check_sources, with_sources
from sret_jax.config.validation import check_values, validate
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import Region, cut_out
from sret_jax.errors import UserError, did_you_mean
from sret_jax.extraction.descriptors import Extraction, Extractor, extract
from sret_jax.extraction.local_features import FeatureSource, StoredLocal, open_source, store_local
from sret_jax.extraction.maps import StoredMaps, localizing_network, store_maps
from sret_jax.extraction.origin import Descriptors
from sret_jax.extraction.preprocessing import preprocessing
from sret_jax.models.descriptor import (
    RetrievalNetwork,
    Variables,
    build_network,
    descriptor_length,
    init_network,
)
from sret_jax.models.weights.folder import RETRIEVER
from sret_jax.models.weights.pretrained import stored_whitening
from sret_jax.models.weights.shipped import DEFAULT, shipped_config, shipped_names
from sret_jax.models.weights.trained import PARAMETERS, TrainedNetwork, read_saved
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.storage.artifacts import commit_folder, write_file, write_json
from sret_jax.storage.compilation_cache import keep_compiled_programs
from sret_jax.storage.refusals import plainly
from sret_jax.training.checkpoint import check_same_model, load_network


@dataclass(frozen=True, eq=False)
class Retriever:
    """Describes photographs: a network, its parameters, and how photographs are shown to it.

    `load` makes one; `dataclasses.replace(retriever, config=...)` changes how photographs are shown. Raises `UserError`
    for a value of the config that cannot be used.

    Attributes:
      network: whose `__call__` makes the descriptors.
      variables: its parameters and statistics.
      config: `data` and `extract` say how photographs are described, `search`, `rerank`, `localize` and `eval` what
        follows.
      whitening: learned after training, applied last; None where there is none.
      step: of training, whose network it is; None where no run says so.
    """

    network: RetrievalNetwork
    variables: Variables
    config: Config
    whitening: LearnedWhitening | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        check_values(self.config, to_train=False)  # `dataclasses.replace` brings others

    @classmethod
    def of(cls, trained: TrainedNetwork, config: Config | None = None) -> "Retriever":
        """A trained network, shown photographs as its own config says, or another, which may say its `dtype` too."""
        config = config or trained.config
        network = build_network(dataclasses.replace(trained.config.model, dtype=config.model.dtype))
        return cls(network, trained.variables, config, trained.whitening, trained.step)

    @property
    def fingerprint(self) -> str:
        """Identifies everything that a descriptor depends on, but the photograph."""
        return self.extractor.fingerprint

    @property
    def descriptor_length(self) -> int:
        """Numbers of a descriptor."""
        return descriptor_length(self.config.model) if self.whitening is None else self.whitening.projection.shape[1]

    @cached_property
    def extractor(self) -> Extractor:
        """The network on this process's devices.

        Raises `UserError` for a whitening layer, or local features that are pooled, which nothing has ever filled.
        """
        keep_compiled_programs()
        self._check_filled("whitening")
        if self.config.model.pool == "how":
            self._check_filled("local")
        return Extractor(self.network, self.variables, self.config, self.whitening)

    def describe(
        self,
        photos: PhotoSet,
        rows: Sequence[int] | Int[np.ndarray, "n"] | None = None,
        regions: Mapping[int, Region] | Sequence[Region] | None = None,
    ) -> Float[np.ndarray, "n d"]:
        """Descriptors of unit length, float32, on which every whitening has acted.

        They know which retriever made them: an `Index` of another one refuses them as queries. A few photographs are
        described one by one, more in batches; after the first of each shape, nothing is compiled again.

        Args:
          photos: what `open_photos` returns.
          rows: of the photographs to describe, in this order; by default all.
          regions: what of a photograph is described instead of all of it, as in `data.regions`, by its row; or a list
            with a region, or None, for each of `rows`.

        Raises:
          UserError: a whitening layer that was never filled, a photograph that cannot be read any more, or a region
            that is none.
        """
        if not isinstance(photos, PhotoSet):
            raise UserError(
                f"describe takes photographs, not {type(photos).__name__}: sret_jax.open_photos(...) opens them"
            )
        rows = range(len(photos)) if rows is None else [int(row) for row in rows]
        if not rows:
            raise UserError("describe: no photographs; give at least one row")
        if regions is not None:
            photos, rows = _with_regions(photos, rows, regions)
        few = len(rows) <= self.extractor.batch_size // 4
        return Descriptors.of(self.extractor.describe(photos, rows, batch_size=1 if few else None), self.fingerprint)

    def extract(self, photos: PhotoSet, folder: str | Path, shared: Path | None = None) -> Extraction:
        """Descriptors of all photographs, kept in a store in `folder`: reused while nothing has changed, resumable.

        Args:
          shared: of another store, which is only read: it is used instead where it has all of these descriptors.
        """
        return extract(self.extractor, photos, Path(folder), shared)

    def local_features(self, photos: PhotoSet, folder: str | Path, learned_from: PhotoSet | None = None) -> StoredLocal:
        """The local features that `config.local` names, kept in a store in `folder`, resumable.

        Args:
          learned_from: the photographs that the reduction of "map" and "backbone" is learned from, the same for queries
            and database; by default `photos`.
        """
        source = self.feature_source(learned_from or photos, self.config)
        return StoredLocal([store_local(source, photos, self.config, Path(folder))])

    def feature_source(self, photos: PhotoSet, config: Config) -> FeatureSource:
        """What finds the local features that `config.local` names; see `extraction.local_features.open_source`.

        Raises `UserError` for local features of the network whose reduction nothing has ever filled.
        """
        if config.local.source == "head":
            self._check_filled("local")
        return open_source(self.extractor, photos, config)

    def maps(self, photos: PhotoSet, folder: str | Path, image_size: int, shared: Path | None = None) -> StoredMaps:
        """The feature maps that `config.localize.source` names, kept in a store in `folder`, resumable.

        Args:
          image_size: longest side of a photograph, pixels.
          shared: as for `extract`.
        """
        network = localizing_network(self.network, self.config)
        return store_maps(self.extractor, network, photos, image_size, Path(folder), shared=shared)

    def save(
        self,
        folder: str | Path,
        *,
        about: Mapping[str, Any] | None = None,
        beside: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes the retriever as one folder, config.json and model.safetensors, which `load` reads anywhere.

        config.json says in words and numbers how photographs are shown to it: `extraction.preprocessing`.

        Args:
          about: more sections of config.json, by name.
          beside: more files, by name.

        Raises `UserError` where the system does not let it be written: a full disk, a folder without permission.
        """
        with plainly(folder), commit_folder(Path(folder).expanduser()) as built:
            named = {"network": self.variables, "learned": self.whitening._asdict() if self.whitening else {}}
            arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(named, sep="/").items()}
            write_file(built / PARAMETERS, safetensors.numpy.save(arrays))
            shown = preprocessing(self.network, self.variables, self.config)
            config = to_dict(with_sources(self.config))
            sections = {"format": RETRIEVER, "config": config, "preprocessing": shown} | dict(about or {})
            write_json(built / "config.json", sections)
            for name, data in (beside or {}).items():
                write_file(built / name, data)

    def intermediates(self, photos: PhotoSet, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """By row, what the network computes on the way to a descriptor, by name; see `Extractor.intermediates`."""
        return self.extractor.intermediates(photos, rows)

    def _check_filled(self, module: str) -> None:
        unfilled = self.variables["params"].get(module, {})
        if any(np.isnan(leaf).any() for leaf in jax.tree.leaves(unfilled)):
            layer, field, without = {
                "whitening": ("whitening layer", "whitening_init", "whitening"),
                "local": ("reduction of local features", "local.init", "local.enabled"),
            }[module]
            raise UserError(
                f"the {layer} of this network was never filled, so it cannot describe photographs: train it with "
                f'`sret train`, take it from a checkpoint (config.model.{field}="weights"), or leave it out '
                f"(config.model.{without}=False)"
            )


def _with_regions(
    photos: PhotoSet, rows: Sequence[int], regions: Mapping[int, Region] | Sequence[Region]
) -> tuple[PhotoSet, Sequence[int]]:
    """The photographs of `rows`, cut to their regions, and their rows: a photograph may be there with several."""
    if isinstance(regions, Mapping):
        return cut_out(photos, regions), rows
    if len(regions) != len(rows):
        raise UserError(f"describe: {len(regions)} regions for {len(rows)} photographs; give one each, or None")
    return cut_out(photos.select(rows), dict(enumerate(regions))), range(len(rows))


def load(source: str | Path | Config = DEFAULT, config: Config | None = None) -> Retriever:
    """A retriever, from whatever holds a network.

    Args:
      source: the name of weights that come with this package, as by default; a workdir that training wrote (its newest
        intact checkpoint), the folder of one step in it, a folder that `Retriever.save` wrote; or a `Config`, whose
        `model.weights` says where parameters come from: a pretrained backbone, or a whole checkpoint from elsewhere.
      config: how photographs are shown to it and what follows, where that is not as it was trained; its `model` must be
        the one that was trained, but for the `dtype` that is computed in.

    Raises:
      UserError: names the folder that holds no checkpoint, the field in which it differs, or the weights that are
        missing.

    A part of the network that does not come with the package has to be registered before: nothing is imported because
    a folder names it. One that has changed since training is refused unless `config.changed_parts` is True.
    """
    keep_compiled_programs()
    if isinstance(source, Config):
        return _untrained(source)
    if str(source) in shipped_names() and (isinstance(source, str) or not source.exists()):
        shipped = from_dict(shipped_config(str(source)))
        if config is not None:
            check_same_model(shipped, config, Path(source))
        return _untrained(config or shipped)
    folder = Path(source).expanduser()
    if not folder.exists() and (near := did_you_mean(str(source), shipped_names())):
        raise UserError(f"no weights or folder {str(source)!r}{near}")
    changed = config is not None and config.changed_parts
    if (folder / PARAMETERS).is_file():
        trained = read_saved(folder)
        check_sources(trained.config, str(folder), changed=changed)
    else:
        trained = load_network(folder, changed_parts=changed)
    check_same_model(trained.config, config, folder)
    validate(config or trained.config, to_train=False)
    return Retriever.of(trained, config)


def _untrained(config: Config) -> Retriever:
    validate(config, to_train=False)
    network = build_network(config.model)
    variables = init_network(network, config.model, jax.random.key(config.seed), config.data)
    learned = stored_whitening(config) if config.whitening.kind == "weights" else None
    return Retriever(network, variables, config, learned)


def without_unfilled_layers(config: Config) -> Config:
    """The config of the network that can be measured before training: without a whitening layer to be learned."""
    if not config.model.whitening or config.model.whitening_init == "weights":
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, whitening=False))
