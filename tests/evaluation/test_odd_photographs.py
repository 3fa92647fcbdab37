"""Photographs that show nothing, or all the same, or one alone: what is asked of them has an answer, or one line."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import sret_jax
from sret_jax.collection.collection import Collection
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.run import evaluate
from sret_jax.localization.methods import METHODS
from sret_jax.reranking.rerankers import RERANKERS

pytestmark = pytest.mark.slow
SIZE = (96, 128, 3)
NOISE = np.random.default_rng(0).integers(0, 255, SIZE).astype(np.uint8)
BLACK, GREY, WHITE = (np.full(SIZE, value, np.uint8) for value in (0, 128, 255))
NAMES = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
SETS = {
    "black": dict.fromkeys(NAMES, BLACK),
    "equal": dict.fromkeys(NAMES, NOISE),
    "constant": dict(zip(NAMES, (BLACK, GREY, WHITE, NOISE), strict=True)),
    "alone": {"a/1.png": NOISE},
    "black and alone": {"a/1.png": BLACK},
}
SEVERAL = [name for name, photos in SETS.items() if len(photos) > 1]


@pytest.fixture(scope="module")
def retriever():
    found = sret_jax.load()
    data = dataclasses.replace(found.config.data, image_size=96, bucket_ratios=())
    local = dataclasses.replace(found.config.local, source="sift")
    return dataclasses.replace(found, config=dataclasses.replace(found.config, data=data, local=local))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    for kind, photos in SETS.items():
        for name, pixels in photos.items():
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / kind / name)
    return root


@pytest.mark.parametrize("kind", SETS)
def test_descriptors_are_directions_and_an_index_says_how_many_it_has(retriever, folder, kind):
    photos = sret_jax.open_photos(str(folder / kind))
    x = retriever.describe(photos)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    for method in ("auto", "exact", "brute_force"):
        settings = dataclasses.replace(retriever.config.search, method=method)
        index = sret_jax.Index.build(x, photos.names, settings)
        found = index.search(x, k=len(photos))
        assert np.isfinite(found.scores).all() and (np.sort(found.ids, 1) == np.arange(len(photos))).all()
        with pytest.raises(UserError, match=f"k=50: the index has {len(photos)} photos; choose 1 to {len(photos)}"):
            index.search(x, k=50)


@pytest.mark.parametrize("kind", SETS)
def test_a_collection_answers_with_what_there_is(retriever, folder, kind, tmp_path):
    photos = SETS[kind]
    collection = Collection.open(folder / kind, workdir=tmp_path, retriever=retriever, local="sift")
    assert len(collection.update().added) == len(photos)
    name = collection.names[0]
    twins = sum(np.array_equal(own, photos[name]) for own in photos.values())
    for options in ({}, {"verify": True}, {"region": (2, 2, 40, 40)}, {"region": (5, 5)}, {"k": 100_000}):
        answers = collection.search(name, **({"k": 50} | options)).answers
        assert len(answers) == len(photos) - twins  # the same content is no answer to itself
        assert all(np.isfinite(answer.score) for answer in answers)
    assert not collection.search(name, k=5, start=1000).answers
    scores = [answer.score for answer in collection.search(Image.fromarray(GREY + 1), k=50, verify=True).answers]
    assert len(scores) == len(photos) and np.isfinite(scores).all()
    assert np.isfinite(collection.heat(name, name)).all()
    left, top, right, bottom = collection.object_in(name)
    assert 0 <= left < right <= SIZE[1] and 0 <= top < bottom <= SIZE[0]


def measured(retriever, folder, out, stages=(), methods=()):
    config = retriever.config
    rerank = dataclasses.replace(config.rerank, stages=stages)
    localize = dataclasses.replace(config.localize, methods=methods)
    own = dataclasses.replace(retriever, config=dataclasses.replace(config, rerank=rerank, localize=localize))
    queries = {"queries": str(folder)} if methods else {}
    opened = open_benchmark("folder", root=str(folder), config=own.config, cache=out / "cache", **queries)
    return evaluate(own, opened, out / "eval", workdir=out).metrics


@pytest.mark.parametrize("kind", SEVERAL)
def test_every_reranker_has_an_order_of_them(retriever, folder, kind, tmp_path):
    for stage in RERANKERS:
        metrics = measured(retriever, folder / kind, tmp_path, (stage,))
        assert 0 < metrics["mAP"] <= 100 and metrics["queries"] == len(SETS[kind])


@pytest.mark.parametrize("kind", SETS)
def test_every_method_marks_something_in_them(retriever, folder, kind, tmp_path):
    measured(retriever, folder / kind, tmp_path, methods=tuple(METHODS))
    assert (tmp_path / "eval/located.png").is_file()


@pytest.mark.parametrize("kind", sorted(set(SETS) - set(SEVERAL)))
def test_one_photograph_alone_cannot_be_measured(retriever, folder, kind, tmp_path):
    with pytest.raises(UserError, match="no query has a photo to find"):
        measured(retriever, folder / kind, tmp_path)
