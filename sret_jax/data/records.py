"""ArrayRecord files by tensorflow-datasets: how `prepared` writes photographs, and reads them without TensorFlow.

Importing it takes seconds, so the modules that only may need it import it where they do.
"""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from sret_jax.data.prepared import SPLIT, PhotoBuilder


class Records:
    """The records of a prepared folder, still encoded; `sret_jax.data.decoding` is the only decoder."""

    def __init__(self, version_dir: Path) -> None:
        builder = tfds.builder_from_directory(version_dir)
        raw = {key: tfds.decode.SkipDecoding() for key in ("image", "mask") if key in builder.info.features}
        self._source = builder.as_data_source(SPLIT, decoders=raw)
        self._keys = tuple(raw)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        record = self._source[index]
        return {key: record[key] for key in self._keys}


class PhotoRecords(tfds.core.GeneratorBasedBuilder):
    """Writes what a `PhotoBuilder` generates, in its order."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. tfds would look for a list of URLs, and for that import a package it does not require.
    url_infos = None

    def __init__(self, photos: PhotoBuilder) -> None:
        self.photos = photos
        super().__init__(file_format="array_record", data_dir=photos.data_dir)

    def write(self, **options: Any) -> None:
        """Fills the folder; `options` are those of tfds's `download_and_prepare`."""
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # tfds prints the temporary folder as the result
            self.download_and_prepare(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "name": tfds.features.Text()}
        if self.photos.MASKS:
            features["mask"] = tfds.features.Image(shape=(None, None, 1))
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Any:
        return self.photos.examples()
