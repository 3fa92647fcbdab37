"""ArrayRecord files by tensorflow-datasets: how `prepared` writes photographs, and reads them without TensorFlow.

Importing it takes seconds, so the modules that only may need it import it where they do.
"""

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from sret_jax.data.prepared import RECORDS, SPLIT, PhotoBuilder
from sret_jax.storage.artifacts import DamagedError
from sret_jax.storage.refusals import of_process


class Records:
    """The records of a prepared folder, still encoded; `sret_jax.data.decoding` is the only decoder.

    Each photograph is compared with its digest whenever it is read: sha256 of 100 kB takes 0.06 ms, decoding it 2 ms.
    Only the records are read. What tfds has noted beside them could name classes, which tfds would import.

    Args:
      folder: of the cache, which holds the files of one builder.
      digests: sha256 of each photograph, in order.

    Raises `DamagedError` where the files do not hold so many records, and on reading where a record is not what was
    written; the text names the folder.
    """

    def __init__(self, folder: Path, digests: Sequence[str]) -> None:
        self._folder, self._digests = folder, digests
        files = sorted(str(path) for path in folder.glob(f"*/*/*{RECORDS}*"))
        try:
            self._source = ArrayRecordDataSource(files) if files else []
            count = len(self._source)
        except (RuntimeError, ValueError, OSError) as error:
            if of_process(error):
                raise
            raise self._damaged(str(error).splitlines()[0]) from None
        if count != len(digests):
            raise self._damaged(f"{count} records of {len(digests)} photographs")

    def __len__(self) -> int:
        return len(self._digests)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            features = tf_example_pb2.Example.FromString(self._source[index]).features.feature
            record = {key: features[key].bytes_list.value[0] for key in ("image", "mask") if key in features}
            sound = hashlib.sha256(record["image"]).hexdigest() == self._digests[index]
        except (RuntimeError, ValueError, OSError, LookupError, DecodeError) as error:
            if of_process(error):
                raise
            sound = False
        if not sound:
            raise self._damaged(f"record {index} is not what was written")
        return record

    def _damaged(self, how: str) -> DamagedError:
        return DamagedError(f"{self._folder}: {how}; delete this folder and run again, which prepares it anew")


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
