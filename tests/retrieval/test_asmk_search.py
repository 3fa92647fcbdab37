"""ASMK as a search: by hand on the same words, for every benchmark, kept and refused on disk, and by the command."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from sret_jax.config import LocalSearchConfig, RerankConfig, SearchConfig
from sret_jax.config.validation import validate
from sret_jax.data.folders import prepare_folder
from sret_jax.data.pipeline import evaluation_batches
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import BENCHMARKS
from sret_jax.extraction.local_features import pack, unpack
from sret_jax.extraction.multiscale import resize_input
from sret_jax.extraction.selection import extract_local
from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.models.local_features import LocalFeatureHead
from sret_jax.models.pooling import GeM
from sret_jax.retrieval.index import Index
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retriever import Retriever
from tests.support.commands import run_eval
from tests.support.miniatures import MINIATURES, QUERIES, SEARCHED
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure

SCALES, MOST = (1.0, 0.5), 40
FIELDS = {"backbone": NETWORK.backbone, "pool": GeM(3.0), "stage": "last", "size_multiple": 8}
WITH_HEAD = RetrievalNetwork(**FIELDS, local=LocalFeatureHead(32))
BLANK = np.zeros((1, 32, 32, 3), np.uint8), np.ones((1, 32, 32), bool)
START = jax.jit(WITH_HEAD.init)(jax.random.key(1), *BLANK)


def asmk(root: Path | str = "", **search):
    local = LocalSearchConfig(scales=SCALES, most=MOST)
    return replace(config(root), local=local, search=SearchConfig(method="asmk", **({"words": 8} | search)))


def evaluate(tmp_path: Path, settings, benchmark="folder", variables=START, network=WITH_HEAD, **options) -> dict:
    out = tmp_path / "run/eval" / benchmark
    return measure(network, variables, settings, benchmark, out, cache_dir=tmp_path / "cache", **options)


@partial(jax.jit, static_argnums=2)
def maps_of(images, mask, scale):
    if scale != 1:
        images, mask = resize_input(images, mask, scale, 8, recomputed=True)
    return WITH_HEAD.apply(START, images, mask)[1]["local"]


@pytest.mark.parametrize("binary", [True, False])
def test_scores_are_those_of_the_inverted_file_by_hand(tmp_path, binary):
    root = write_photos(tmp_path / "photos")
    results = evaluate(tmp_path, asmk(root, binary=binary, assignments=3))
    centroids = np.load(tmp_path / "run/asmk/codebook/centroids.npy")
    photos = prepare_folder(root, tmp_path / "cache")
    batches = evaluation_batches(
        photos, image_size=64, bucket_ratios=(), size_multiple=8, batch_size=4, rows=None, threads=1
    )
    found = dict(extract_local(maps_of, batches, scales=SCALES, most=MOST))
    features, _, _, _, count = unpack(pack([found[row] for row in range(12)]))  # as they are stored, in 8 bits
    index = InvertedFile(centroids, binary=binary)
    index.add(features, count, photos.names)
    ids, scores = index.search(features, count, 12, assignments=3)
    by_hand = {
        (photos.names[query], photos.names[i]): score
        for query in range(12)
        for i, score in zip(ids[query], scores[query], strict=True)
    }
    rows = list(csv.DictReader((tmp_path / "run/eval/folder/rankings.csv").open()))
    assert len(rows) == 12 * 11 and np.ptp([float(row["score"]) for row in rows]) > 0.2
    ours = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(ours, [by_hand[row["query"], row["photo"]] for row in rows], atol=1e-5)
    kind = "binary" if binary else "real-valued"
    assert f"ASMK, {kind}, 8 words of 12 photographs, queries in 3 words a feature, 12 photos" in results["index"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_benchmark_can_be_searched(tmp_path, benchmark):
    root = MINIATURES[benchmark](tmp_path / "root")
    settings = asmk()
    settings = replace(settings, eval=replace(settings.eval, synthetic_instances=2, synthetic_photos=2))
    gnd = str(root / "gnd_own.json") if benchmark == "revisited" else ""
    write_photos(tmp_path / "others", instances=1, photos=3, seed=5)
    options = {"root": str(root) if root else "", "gnd": gnd, "distractors": [str(tmp_path / "others")]}
    results = evaluate(tmp_path, settings, benchmark, **options)
    assert results["metrics"]["queries"] == QUERIES.get(benchmark, 4)
    assert f"{SEARCHED.get(benchmark, 4) + 3} photos" in results["index"] and results["index_recall"] == {}
    assert 0 < next(value for name, value in results["metrics"].items() if name == "mAP" or "mAP@" in name) <= 100


def test_asmk_alone_describes_nothing_globally(tmp_path, monkeypatch):
    root = write_photos(tmp_path / "photos")
    queries = str(write_photos(tmp_path / "queries", photos=1, seed=1))
    with monkeypatch.context() as patched:
        patched.setattr(Retriever, "extract", lambda *_: pytest.fail("photographs were described globally"))
        results = evaluate(tmp_path, asmk(root), queries=queries)
        verified = evaluate(tmp_path, replace(asmk(root), rerank=RerankConfig(stages=("sv:3",))), queries=queries)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"asmk", "data", "eval", "local"}
    assert results["dim"] == 32 and results["extracted"] == 0 and results["images_per_second"] == 0
    index = InvertedFile.load(tmp_path / "run/asmk/folder")
    assert results["fingerprint"] == verified["fingerprint"] == index.fingerprint
    seconds = {"prepare", "visual words", "local features", "index", "search", "score", "report"}
    assert set(results["timings"]) == seconds
    assert set(verified["timings"]) == seconds | {"prepare re-ranking", "re-rank"}
    # A re-ranker that compares descriptors needs them, and what it needs is described and named.
    expanded = evaluate(tmp_path, replace(asmk(root), rerank=RerankConfig(stages=("aqe:2",))), queries=queries)
    assert expanded["extracted"] == 12 and expanded["fingerprint"] != results["fingerprint"]
    assert {"extract", "extract queries"} < set(expanded["timings"])


def test_an_index_of_descriptors_is_no_asmk():
    with pytest.raises(UserError, match="search.method='asmk' compares local features: an index of descriptors has"):
        Index.build(np.eye(3, dtype=np.float32), ["a", "b", "c"], SearchConfig(method="asmk"))


def test_asmk_ranks_separate_queries_and_reranks(tmp_path):
    root = write_photos(tmp_path / "photos")
    write_photos(tmp_path / "queries", photos=1, seed=1)
    settings = replace(asmk(root), rerank=RerankConfig(stages=("sv:3", "alpha_qe:2")))
    results = evaluate(tmp_path, settings, queries=str(tmp_path / "queries"))
    assert results["metrics"]["queries"] == 3 and 0 < results["rerank"]["before"]["mAP"] <= 100
    assert results["rerank"]["stages"].keys() == {"sv:3", "alpha_qe:2"} and "ASMK" in results["index"]


def written(tmp_path: Path) -> dict[str, int]:
    files = {"codebook": "codebook/CODEBOOK.json", "lists": "folder/INVERTED_FILE.json"}
    return {name: (tmp_path / "run/asmk" / file).stat().st_mtime_ns for name, file in files.items()}


def test_words_and_lists_are_used_again_and_never_stale(tmp_path, caplog):
    root = write_photos(tmp_path / "photos")
    first, made = evaluate(tmp_path, asmk(root)), written(tmp_path)
    assert evaluate(tmp_path, asmk(root))["metrics"] == first["metrics"] and written(tmp_path) == made
    evaluate(tmp_path, asmk(root, assignments=2))  # of queries alone
    assert written(tmp_path) == made
    evaluate(tmp_path, asmk(root, binary=False))
    real = written(tmp_path)
    assert real["codebook"] == made["codebook"] and real["lists"] > made["lists"]
    evaluate(tmp_path, asmk(root, binary=False), variables=jax.tree.map(lambda x: x * 1.1, jax.device_get(START)))
    other = written(tmp_path)
    assert other["codebook"] > real["codebook"] and other["lists"] > real["lists"]
    evaluate(tmp_path, asmk(root, words=5))
    assert written(tmp_path)["codebook"] > other["codebook"]
    for file in ("codebook/centroids.npy", "folder/00000.vectors.npy"):
        path = tmp_path / "run/asmk" / file
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        assert evaluate(tmp_path, asmk(root))["metrics"]["mAP"] == pytest.approx(first["metrics"]["mAP"])
        assert path.name in caplog.text


def test_the_codebook_is_learned_from_the_configured_photographs(tmp_path):
    root = write_photos(tmp_path / "photos")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["tower 0"], "test": ["tower 1", "tower 2"]}))
    settings = asmk(root)
    settings = replace(settings, data=replace(settings.data, splits=str(tmp_path / "splits.json")))
    assert "8 words of 4 photographs" in evaluate(tmp_path, settings)["index"]
    whole, splits = write_photos(tmp_path / "whole", photos=2, seed=4), settings.data.splits
    several = replace(settings, data=replace(settings.data, root=f"{root},{whole}", splits=f"{splits},"))
    assert "8 words of 10 photographs" in evaluate(tmp_path, several)["index"]
    settings.search.codebook = str(write_photos(tmp_path / "elsewhere/deep", photos=2, seed=3).parent)
    assert "8 words of 6 photographs" in evaluate(tmp_path, settings)["index"]
    settings.search.codebook_photos = 3
    assert "8 words of 3 photographs" in evaluate(tmp_path, settings)["index"]
    settings.search.words = 0  # as many as the features of a few photographs can tell apart
    assert "ASMK, binary, 3 words of 3 photographs, queries in 3 words" in evaluate(tmp_path, settings)["index"]


def test_what_asmk_cannot_search_is_refused_in_one_line(tmp_path):
    root = write_photos(tmp_path / "photos")
    with pytest.raises(UserError, match="no local features of its own; set config.model.local.enabled"):
        evaluate(tmp_path, asmk(root), network=NETWORK, variables=VARIABLES)
    with pytest.raises(UserError, match=r"config.search.words=9999: 12 photographs of photos have \d+ local features"):
        evaluate(tmp_path, asmk(root, words=9999))
    short = RetrievalNetwork(**FIELDS, local=LocalFeatureHead(12))
    variables = jax.jit(short.init)(jax.random.key(1), *BLANK)
    with pytest.raises(
        UserError, match="12 dimensions, but signs are packed in multiples of 32; set config.model.local.dim"
    ):
        evaluate(tmp_path, asmk(root), network=short, variables=variables)
    assert "ASMK, real" in evaluate(tmp_path, asmk(root, binary=False), network=short, variables=variables)["index"]
    with pytest.raises(UserError, match="config.search.words=-1"):
        validate(asmk(words=-1))


CONFIG = """
from sret_jax.config import Config, DataConfig, EvalConfig, ExtractConfig, LocalConfig, LocalSearchConfig, ModelConfig

def get_config():
    return Config(
        data=DataConfig(image_size=64, bucket_ratios=(), threads=1),
        model=ModelConfig(weights="none", stage="c3", local=LocalConfig(enabled=True, dim=32, init="weights")),
        extract=ExtractConfig(batch_size=4),
        local=LocalSearchConfig(scales=(1.0, 0.5), most=50),
        eval=EvalConfig(synthetic_instances=2, synthetic_photos=3),
    )
"""


@pytest.mark.slow
def test_the_command_searches_drawn_photographs(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    flags = ["--config=tiny.py", "--benchmark=synthetic", "--config.search.method=asmk"]
    done = run_eval(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "words of 6 photographs, queries in 5 words a feature, 6 photos in" in done.stdout
    assert (tmp_path / "runs/untrained-tiny/asmk/synthetic/INVERTED_FILE.json").exists()
    assert json.loads((tmp_path / "runs/untrained-tiny/eval/synthetic/results.json").read_text())["metrics"]["mAP"] > 0
    done = run_eval(*flags, "--config.search.words=100000", cwd=tmp_path)
    assert done.returncode == 2 and "config.search.words=100000: 6 photographs of" in done.stderr
