"""sret_jax: instance-level image retrieval with spatial context, in JAX.

    photographs -> data -> models -> training -> checkpoint
                             `-> extraction -> retrieval -> reranking -> localization -> evaluation

    import sret_jax

    retriever = sret_jax.load()
    photos = sret_jax.open_photos("photos/")
    index = sret_jax.Index.build(retriever.describe(photos), photos.names)
    print(index.search(retriever.describe(sret_jax.open_photos(["query.jpg"])), k=5).names(0))

Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sret_jax.collection.collection import Collection as Collection
    from sret_jax.config import Config as Config
    from sret_jax.data.opening import open_photos as open_photos
    from sret_jax.errors import UserError as UserError
    from sret_jax.evaluation.benchmark import open_benchmark as open_benchmark
    from sret_jax.evaluation.run import evaluate as evaluate
    from sret_jax.evaluation.training_run import train as train
    from sret_jax.parts import register as register
    from sret_jax.retrieval.index import Index as Index
    from sret_jax.retriever import Retriever as Retriever
    from sret_jax.retriever import load as load

_PLACES = {
    "Collection": "collection.collection",
    "Config": "config",
    "Index": "retrieval.index",
    "Retriever": "retriever",
    "UserError": "errors",
    "evaluate": "evaluation.run",
    "load": "retriever",
    "open_benchmark": "evaluation.benchmark",
    "open_photos": "data.opening",
    "register": "parts",
    "train": "evaluation.training_run",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sret_jax")
    if name not in _PLACES:
        raise AttributeError(f"module 'sret_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"sret_jax.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
