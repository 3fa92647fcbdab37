"""Words and signs instead of local features: the same inverted file, less on disk, never stale, made once."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from sret_jax.config import Config, LocalSearchConfig, RerankConfig, SearchConfig
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.run import describe_part
from sret_jax.extraction.local_features import StoredLocal, store_local
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.models.local_features import LocalFeatureHead
from sret_jax.models.pooling import GeM
from sret_jax.retrieval import stored_words
from sret_jax.retrieval.asmk_search import Codebook
from sret_jax.retrieval.stored_words import read_words, store_words, words_of
from sret_jax.retriever import Retriever
from sret_jax.storage.row_store import PARTS, Part
from sret_jax.storage.workdir import Workdir
from tests.support.networks import NETWORK
from tests.support.photos import photo_set, write_photos
from tests.support.runs import config, measure

PHOTOS = photo_set()  # 11 of them
SETTINGS = Config(local=LocalSearchConfig(chunk_rows=4))
WORDS = np.random.default_rng(1).normal(size=(8, 32)).astype(np.float32)
CODEBOOK = Codebook(WORDS, "learned from some photographs", 5)


class Drawn:
    """Local features drawn by the number of the photograph; fails where it is told to."""

    def __init__(self, slots: int = 20, fails_at: int | None = None, fingerprint: str = "drawn"):
        self.slots, self.fails_at, self.fingerprint = slots, fails_at, fingerprint
        self.described: list[int] = []

    def __call__(self, photos, rows):
        for row in rows:
            if row == self.fails_at:
                raise KeyboardInterrupt
            self.described.append(row)
            yield row, self.of(row)

    def of(self, row: int) -> SelectedFeatures:
        rng, count = np.random.default_rng(row), self.slots - row
        x, strength = rng.normal(size=(self.slots, WORDS.shape[1])).astype(np.float32), np.ones(self.slots, np.float32)
        x[count:], strength[count:] = 0, 0
        return SelectedFeatures(x, strength, np.zeros((self.slots, 2), np.float32), strength, np.array(count, np.int32))


def content(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name.as_posix(): path.read_bytes() for name, path in files.items() if not path.name.startswith(".")}


def test_words_are_bit_for_bit_those_of_features_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_words, "AT_ONCE", 3)  # a chunk of four is aggregated by two calls
    kept = StoredLocal([store_local(Drawn(), PHOTOS, SETTINGS, tmp_path / "features")])
    store = store_words(Drawn(), PHOTOS, CODEBOOK, SETTINGS, tmp_path / "words")
    from_features, from_words = list(words_of(kept, CODEBOOK, 4)), list(read_words(store))
    assert [len(part.words) for part in from_features] == [3, 1, 3, 1, 3]
    for ours, theirs in zip(from_words, from_features, strict=True):
        np.testing.assert_array_equal(ours.words, theirs.words)
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    assert from_words[0].vectors.dtype == np.uint32 and (from_words[0].words < 8).any()


def test_a_photograph_takes_twenty_bytes_a_feature_of_128_channels(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.WORDS", np.zeros((8, 128), np.float32))
    store = store_words(Drawn(100), PHOTOS, CODEBOOK._replace(centroids=WORDS), SETTINGS, tmp_path / "words")
    assert sum(part.nbytes for part in store.parts()) == 11 * 100 * 20
    assert store_local(Drawn(100), PHOTOS, SETTINGS, tmp_path / "features").parts()[0].nbytes == 4 * (100 * 138 + 4)


def test_what_was_interrupted_goes_on_to_the_same_bytes(tmp_path):
    store_words(Drawn(), PHOTOS, CODEBOOK, SETTINGS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        store_words(Drawn(fails_at=6), PHOTOS, CODEBOOK, SETTINGS, tmp_path / "resumed")
    source = Drawn()
    store_words(source, PHOTOS, CODEBOOK, SETTINGS, tmp_path / "resumed")
    assert source.described == list(range(4, 11))
    whole, resumed = content(tmp_path / "whole"), content(tmp_path / "resumed")
    assert {name: whole[name] for name in whole if name != "STORE"} == {
        name: resumed[name] for name in resumed if name != "STORE"
    }


@pytest.mark.parametrize(
    "change",
    [
        {"source": "another network"},
        {"codebook": CODEBOOK._replace(fingerprint="learned from others")},
        {"codebook": CODEBOOK._replace(centroids=WORDS + 1e-6)},
        {"photos": photo_set(seed=1)},
    ],
    ids=["network", "codebook", "bits of the codebook", "photographs"],
)
def test_stale_words_are_made_again(tmp_path, change):
    store_words(Drawn(), PHOTOS, CODEBOOK, SETTINGS, tmp_path)
    again = Drawn()
    store_words(again, PHOTOS, CODEBOOK, SETTINGS, tmp_path)
    assert not again.described
    changed = Drawn(fingerprint=change.get("source", "drawn"))
    store_words(changed, change.get("photos", PHOTOS), change.get("codebook", CODEBOOK), SETTINGS, tmp_path)
    assert changed.described == list(range(11))


def test_features_that_are_not_finite_are_refused(tmp_path):
    source = Drawn()
    source.of = lambda row: Drawn.of(source, row)._replace(strength=np.full(20, np.nan if row == 5 else 1, np.float32))
    with pytest.raises(UserError, match=f"^{PHOTOS.names[5]}: its descriptor is not finite"):
        store_words(source, PHOTOS, CODEBOOK, SETTINGS, tmp_path)


WITH_HEAD = RetrievalNetwork(
    backbone=NETWORK.backbone, pool=GeM(3.0), stage="last", size_multiple=8, local=LocalFeatureHead(128)
)
START = jax.jit(WITH_HEAD.init)(jax.random.key(1), np.zeros((1, 32, 32, 3), np.uint8), np.ones((1, 32, 32), bool))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs to search, others beside them, and queries."""
    root = tmp_path_factory.mktemp("photographs")
    write_photos(root / "photos", photos=8)
    write_photos(root / "others", instances=1, photos=10, seed=5)
    write_photos(root / "queries", instances=2, photos=1, seed=1)
    return root


def asmk(root: Path, stages: tuple[str, ...] = (), **local) -> Config:
    local = LocalSearchConfig(**({"source": "head", "scales": (1.0, 0.5), "most": 100, "chunk_rows": 8} | local))
    search = SearchConfig(method="asmk", words=8)
    return replace(config(root / "photos", rerank=RerankConfig(stages=stages)), local=local, search=search)


def searched(root: Path, run: Path, settings: Config, queries: bool = True) -> dict:
    options = {"queries": str(root / "queries")} if queries else {}
    options |= {"distractors": [str(root / "others")], "cache_dir": root / "cache"}
    return measure(WITH_HEAD, START, settings, "folder", run / "eval/folder", **options)


def kinds(run: Path) -> dict[str, set[str]]:
    return {path.name: {kind.name for kind in path.iterdir()} for path in (run / "local").iterdir()}


def on_disk(run: Path) -> int:
    """Bytes of what is extracted and searched."""
    return sum(len(data) for kind in ("local", "asmk") for data in content(run / kind).values())


def test_what_only_asmk_reads_takes_less_than_half_the_disk(tmp_path, photographs):
    kept = searched(photographs, tmp_path / "kept", asmk(photographs, ("sv:3",)))
    found = searched(photographs, tmp_path / "words", asmk(photographs))
    assert found["metrics"] == kept["rerank"]["before"] and found["fingerprint"] == kept["fingerprint"]
    features, words, queries = {"head"}, {"words"}, {"folder-queries": {"head"}}
    assert kinds(tmp_path / "kept") == {"folder": features, "distractors-others": features} | queries
    assert kinds(tmp_path / "words") == {"folder": words, "distractors-others": words} | queries
    assert content(tmp_path / "words/asmk") == content(tmp_path / "kept/asmk") != {}
    assert on_disk(tmp_path / "words") <= on_disk(tmp_path / "kept") / 2
    # Features that are there already are read, and others that a re-ranker asks for are not those of the search.
    (tmp_path / "kept/asmk/folder+others").rename(tmp_path / "inverted file")
    rankings = (tmp_path / "words/eval/folder/rankings.csv").read_bytes()
    searched(photographs, tmp_path / "kept", asmk(photographs))
    assert (tmp_path / "kept/eval/folder/rankings.csv").read_bytes() == rankings
    assert kinds(tmp_path / "kept") == {"folder": features, "distractors-others": features} | queries
    searched(photographs, tmp_path / "words", asmk(photographs, ("sv:3",), source="sift"))
    assert kinds(tmp_path / "words")["folder"] == {"words", "sift"}


def test_photographs_that_are_queries_too_keep_their_features(tmp_path, photographs):
    searched(photographs, tmp_path, asmk(photographs), queries=False)
    assert kinds(tmp_path) == {"folder": {"head"}, "distractors-others": {"words"}}


def test_parts_are_taken_over(tmp_path, photographs, caplog):
    settings = asmk(photographs)
    whole = searched(photographs, tmp_path / "whole", settings)
    where = {"queries": photographs / "queries", "distractors": [photographs / "others"]}
    benchmark = open_benchmark("folder", config=settings, cache=photographs / "cache", **where)
    retriever, place = Retriever(WITH_HEAD, START, settings), Workdir(tmp_path / "parts")
    assert all(describe_part(retriever, benchmark, place, Part(number, 2)) for number in (1, 0))
    assert not list(place.root.glob("local/*/*/*.npy"))
    parts = searched(photographs, tmp_path / "parts", settings)
    assert parts["metrics"] == whole["metrics"] and "lack" not in caplog.text
    chunks = [
        {name: data for name, data in content(run / "local").items() if name.endswith(".npy") and PARTS not in name}
        for run in (tmp_path / "parts", tmp_path / "whole")
    ]
    assert chunks[0] == chunks[1] != {} and any("words" in name for name in chunks[0])
