"""What parts of one's own look like, kind by kind; `x` and `mask` are a map and where in it the photograph is.

Every keyword argument behind those named here is a parameter, which a config gives in `parts` of the section that names
the part: `ModelConfig(pool="trimmed", parts={"trimmed": {"share": 0.2}})`. A class of flax has them as its fields.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.lookups import Lookup
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import PredictedMask
from sret_jax.reranking.answers import Context, Step

Refined = Float[Array, "b h w c"] | tuple[Float[Array, "b h w c"], Mapping[str, Array]]


class Pooling(Protocol):
    """One vector of a map: a function, or a class of flax whose `__call__` is this.

    Positions outside the mask must not change it: they are there because of the other photographs of a batch. It comes
    in float32, and is normalised afterwards.
    """

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], /) -> Float[Array, "b d"]: ...


class Refinement(Protocol):
    """Another map of the same shape, and of a smoothing the same: a function, or a class of flax.

    It may give a dict beside it: what of that is one number per position, [b h w], the report shows by its name.
    """

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], /) -> Refined: ...


class Loss(Protocol):
    """A scalar of the descriptors of one whole batch, over all devices, which have unit length.

    A function, or a class of flax. Parameters of that train; its variables of any other collection are kept from batch
    to batch. A field `classes` of it gets the number of training instances.
    """

    def __call__(self, x: Float[Array, "b d"], labels: Int[Array, "b"], /) -> Float[Array, ""]: ...


class Backbone(Protocol):
    """A class of flax: photographs in, `{stage: (map, mask)}` out, of every stage.

    size_multiple  photographs whose sides are multiples of it get the same maps padded as alone
    stages         stride of each stage's map, in the order of the network; the last is what `model.stage` should name
    channels       of each stage's map
    pretrained     without arguments: its variables {"params": ...}, for `model.weights="auto"`; it may be missing

    `train`, where the call takes it, is True where BatchNorm may track the batch's statistics, over the axis "batch".
    `last_stage`, where it takes that, is the last one that is needed.
    """

    size_multiple: ClassVar[int]
    stages: ClassVar[Mapping[str, int]]
    channels: ClassVar[Mapping[str, int]]

    def __call__(
        self, images: Float[Array, "b h w 3"], mask: Bool[Array, "b h w"], /
    ) -> Mapping[str, tuple[Array, Array]]: ...


class Reranker(Protocol):
    """Made ready for a database, what puts the first answers to some queries in another order: see `Candidates`.

    number   of the first answers that it concerns, as of `--rerank=NAME:NUMBER`; 100 without a number
    context  descriptors and local features, the config, and a folder of its own
    """

    def __call__(self, number: int, context: Context, /) -> Step: ...


class LocalizationMethod(Protocol):
    """Where the object of one query is in some photographs: a mask of each, [H W], or a `PredictedMask`.

    localizer  has maps, masks, sizes and regions of queries and photographs
    query      its row
    rows       of the photographs
    """

    def __call__(
        self, localizer: Localizer, query: int, rows: Sequence[int], /
    ) -> Sequence[PredictedMask | Bool[np.ndarray, "H W"]]: ...


class OpensBenchmark(Protocol):
    """Opens a benchmark: a `Lookup` (queries with a list of right answers each), or photographs that are each other's
    queries, by their instances; or a whole `Benchmark`, with a scorer of its own.

    root   of its files, as of `--root`; `Path()` where none is given
    cache  where prepared photographs may be kept
    """

    def __call__(self, root: Path, cache: Path, /) -> Lookup | PhotoSet | Benchmark: ...
