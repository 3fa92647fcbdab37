"""ASMK against its equations in loops, against the authors' package, and what building in parts may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.data.decoding import decode_photo
from sret_jax.data.resizing import content_size, resize
from sret_jax.datasets.synthetic_objects import source_photo
from sret_jax.errors import UserError
from sret_jax.extraction.sift import sift
from sret_jax.retrieval import inverted_file
from sret_jax.retrieval.asmk import aggregate, distinct_words, pack_signs, selectivity, similarity
from sret_jax.retrieval.codebook import kmeans
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.storage.artifacts import DamagedError

C = 64


def photos(seed=0, count=20, n=30, words=40):
    """Local features around the words, as many as each photograph has, and the words, always the same."""
    rng = np.random.default_rng(seed)
    centroids = np.random.default_rng(99).normal(size=(words, C)).astype(np.float32)
    seen = rng.integers(0, words, (count, n)) * (rng.random((count, n)) < 0.7)  # word 0 bursts
    x = centroids[seen] + 0.6 * rng.normal(size=(count, n, C)).astype(np.float32)
    return x.astype(np.float32), rng.integers(1, n + 1, count), centroids


def again(x, count, n):
    """Other photographs of the first `count` objects, with n local features."""
    noise = np.random.default_rng(1).normal(size=(count, n, C)).astype(np.float32)
    return x[:count, :n] + 0.3 * noise, np.full(count, n)


def aggregate_in_loops(x, centroids, assignments):
    """{word: summed residual} of one photograph."""
    out = {}
    for row in x.astype(np.float64):
        distance = [np.sum((row - word) ** 2) for word in centroids.astype(np.float64)]
        for word in np.argsort(distance)[:assignments]:
            out[int(word)] = out.get(int(word), 0) + row - centroids[word]
    return out


def compare_in_loops(a, b, binary, alpha, threshold):
    score = 0.0
    for word in set(a) & set(b):
        if binary:
            u = 1 - 2 * sum((p > 0) != (q > 0) for p, q in zip(a[word], b[word], strict=True)) / C
        else:
            u = float(np.dot(*(r / (np.linalg.norm(r) + 1e-6) for r in (a[word], b[word]))))
        if u >= threshold:
            score += np.sign(u) * abs(u) ** alpha
    return score / np.sqrt(len(a) * len(b)) if a and b else 0.0


def built(x, count, centroids, **options):
    index = InvertedFile(centroids, **options)
    for start in range(0, len(x), 7):
        rows = slice(start, start + 7)
        index.add(x[rows], count[rows], [f"{i}.jpg" for i in range(start, min(start + 7, len(x)))])
    return index


def all_scores(index, x, count, **options):
    ids, scores = index.search(x, count, len(index), **options)
    assert (np.diff(scores, axis=1) <= 0).all()
    out = np.empty_like(scores)
    np.put_along_axis(out, ids, scores, 1)
    return out


@pytest.mark.parametrize("binary, alpha, threshold", [(True, 3.0, 0.0), (True, 2.5, 0.1), (False, 3.0, -0.2)])
def test_scores_equal_the_equations_in_loops(binary, alpha, threshold):
    x, count, centroids = photos()
    queries, asked = again(x, 5, 12)
    index = built(x, count, centroids, binary=binary)
    ours = all_scores(index, queries, asked, assignments=3, alpha=alpha, threshold=threshold)
    rows = [aggregate_in_loops(z[:n], centroids, 1) for z, n in zip(x, count, strict=True)]
    for i, (z, n) in enumerate(zip(queries, asked, strict=True)):
        own = aggregate_in_loops(z[:n], centroids, 3)
        expected = [compare_in_loops(own, row, binary, alpha, threshold) for row in rows]
        np.testing.assert_allclose(ours[i], expected, atol=1e-6)


def method(centroids, binary):
    """The package with our centroids."""
    asmk_method = pytest.importorskip("asmk.asmk_method")
    codebook = pytest.importorskip("asmk.codebook")
    index = pytest.importorskip("asmk.index")
    params = {
        "index": {"gpu_id": None},
        "build_ivf": {
            "kernel": {"binary": binary},
            "ivf": {"use_idf": False},
            "quantize": {"multiple_assignment": 1},
            "aggregate": {},
        },
        "query_ivf": {
            "quantize": {"multiple_assignment": 5},
            "aggregate": {},
            "search": {"topk": None},
            "similarity": {"similarity_threshold": 0.0, "alpha": 3.0},
        },
    }
    words = codebook.Codebook(index.initialize_index(None), size=len(centroids))
    words.index(centroids)
    return asmk_method.ASMKMethod(params, {}, codebook=words)


def flat(x, count):
    rows = np.concatenate([z[:n] for z, n in zip(x, count, strict=True)])
    return rows, np.repeat(np.arange(len(x)), count)


def blurred_relu(seed, count, n=60):
    """As local features are: channels of very different power, correlated neighbours, far from zero mean."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, n + 4, C)) * np.exp(rng.normal(size=C))
    x = sum(noise[:, i : i + n] for i in range(5)) + 0.5
    return np.maximum(x, 0).astype(np.float32), np.full(count, n)


SAMPLES = [
    f"skimage/data/{name}"
    for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "motorcycle_left.png")
]


def described(pictures, n=150):
    """SIFT of each picture, and of a turned and darkened cut of it as queries."""
    cuts = [(0.7 * np.rot90(p[p.shape[0] // 8 :, : -p.shape[1] // 8])).astype(np.uint8) for p in pictures]
    rows = [[sift(np.ascontiguousarray(p), n).features for p in some] for some in (pictures, cuts)]
    counts = [np.array([len(row) for row in some]) for some in rows]
    assert min(counts[0]) > 30
    return *(np.stack([np.pad(row, ((0, n - len(row)), (0, 0))) for row in some]) for some in rows), *counts


def landmarks(root):
    """Four photographs each of three landmarks, 400 pixels long."""
    places = ("avignon__opera", "marseille__longchamp", "marseille__la_major")
    files = [f for place in places for f in sorted((root / f"provence/images/{place}").glob("*.jpg"))[:4]]
    decoded = [decode_photo(f.read_bytes()) for f in files]
    return [resize(p, content_size(p.shape[:2], 400, 1)) for p in decoded]


@pytest.mark.parity
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "kind", ["random", "features", "photographs", pytest.param("photos", marks=pytest.mark.photos)]
)
def test_scores_equal_the_package(binary, kind, request):
    if kind == "random":
        x, count, centroids = photos(2, 40)
        queries, asked = again(x, 18, 20)
    elif kind == "features":
        x, count = blurred_relu(0, 40)
        queries, asked = again(x, 18, 40)
        centroids = kmeans(x.reshape(-1, C), 64, iterations=3)
    else:
        given = kind == "photos"
        pictures = landmarks(request.getfixturevalue("photos")) if given else [source_photo(name) for name in SAMPLES]
        x, queries, count, asked = described(pictures)
        centroids = kmeans(flat(x, count)[0], 64, iterations=3)
    theirs = method(centroids, binary).build_ivf(*flat(x, count))
    _, _, ranks, scores = theirs.query_ivf(*flat(queries, asked))
    expected = np.empty((len(queries), len(x)))
    np.put_along_axis(expected, ranks, scores, 1)
    ours = all_scores(built(x, count, centroids, binary=binary), queries, asked)
    assert expected.std() > 5e-3
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_aggregation_lists_each_word_once():
    x, count, centroids = photos(4, 6)
    words, vectors = aggregate(*map(jnp.asarray, (x, count, centroids)), assignments=2, binary=False)
    for z, n, own_words, own in zip(x, count, np.asarray(words), np.asarray(vectors), strict=True):
        expected = aggregate_in_loops(z[:n], centroids, 2)
        used = own_words < len(centroids)
        assert own_words[used].tolist() == sorted(expected) and used[: used.sum()].all()
        for word, vector in zip(own_words[used], own[used], strict=True):
            np.testing.assert_allclose(vector, expected[word] / np.linalg.norm(expected[word]), atol=1e-5)
        assert not own[~used].any()


def test_signs_are_packed_highest_bit_first():
    x = jnp.zeros((1, 64)).at[0, 0].set(2.0).at[0, 31].set(1e-9).at[0, 33].set(0.1).at[0, 40].set(-3.0)
    assert pack_signs(x).tolist() == [[2**31 + 1, 2**30]]
    with pytest.raises(ValueError, match="40 channels"):
        pack_signs(jnp.zeros((1, 40)))


def test_similarity_runs_from_opposite_to_equal():
    x = jax.random.normal(jax.random.key(0), (64,))
    bits = pack_signs(x)
    assert similarity(bits, bits) == 1 and similarity(bits, pack_signs(-x)) == -1
    np.testing.assert_allclose(similarity(bits, pack_signs(x.at[:16].multiply(-1))), 0.5)


def test_selectivity():
    u = jnp.array([-0.5, -0.1, 0.0, 0.2, 1.0])
    np.testing.assert_allclose(selectivity(u), [0, 0, 0, 0.008, 1], atol=1e-8)
    np.testing.assert_allclose(selectivity(u, threshold=0.2), [0, 0, 0, 0.008, 1], atol=1e-8)
    np.testing.assert_allclose(selectivity(u, alpha=0.5, threshold=-0.2), [0, -(0.1**0.5), 0, 0.2**0.5, 1], atol=1e-7)


def test_a_photograph_finds_itself_with_score_one():
    x, count, centroids = photos(5)
    ids, scores = built(x, count, centroids).search(x, count, 1, assignments=1)
    np.testing.assert_array_equal(ids[:, 0], np.arange(len(x)))
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_features_past_the_count_are_ignored():
    x, count, centroids = photos(6)
    dirty = x.copy()
    for z, n in zip(dirty, count, strict=True):
        z[n:] = 1e3
    a, b = (all_scores(built(z, count, centroids), z, count) for z in (x, dirty))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("parts, stretch, stretches", [(6, 64, 4096), (1000, 3, 5), (6, 3, 5)])
def test_parts_and_stretches_do_not_show(parts, stretch, stretches, monkeypatch):
    x, count, centroids = photos(7)
    whole = built(x, count, centroids).search(x, count, 6)
    monkeypatch.setattr(inverted_file, "STRETCH", stretch)
    monkeypatch.setattr(inverted_file, "STRETCHES", stretches)
    inverted_file._add_scores.clear_cache()
    index = built(x, count, centroids, photos_per_part=parts)
    ids, scores = index.search(x, count, 6)
    assert len(index._parts) == (3 if parts == 6 else 1)
    np.testing.assert_allclose(scores, whole[1], atol=1e-6)
    np.testing.assert_array_equal(ids, whole[0])
    inverted_file._add_scores.clear_cache()


def test_a_photograph_takes_the_bytes_that_are_promised():
    x, count, centroids = photos(7)
    words = np.asarray(distinct_words(x, count, centroids)).sum()
    assert built(x, count, centroids).nbytes == words * (x.shape[2] // 8 + 4) + 4 * len(x)


def test_equal_photographs_come_in_their_order():
    x, count, centroids = photos(8, 4)
    twice = np.concatenate([x, x[::-1]]), np.concatenate([count, count[::-1]])
    ids, _ = built(*twice, centroids, photos_per_part=7).search(x, count, 2, assignments=1)
    np.testing.assert_array_equal(ids, [[0, 7], [1, 6], [2, 5], [3, 4]])


def test_a_photograph_without_features_scores_zero():
    x, count, centroids = photos(9, 5)
    count[2] = 0
    scores = all_scores(built(x, count, centroids), x, count)
    assert not scores[2].any() and not scores[:, 2].any() and np.isfinite(scores).all()


def test_a_saved_index_answers_the_same(tmp_path):
    x, count, centroids = photos(10)
    index = built(x, count, centroids, photos_per_part=8)
    index.save(tmp_path / "index")
    loaded = InvertedFile.load(tmp_path / "index")
    assert loaded.names == index.names and len(loaded) == len(x)
    for a, b in zip(loaded.search(x, count, 5), index.search(x, count, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.add(x[:1], count[:1], ["more.jpg"])
    assert loaded.search(x[:1], count[:1], 2, assignments=1)[0].tolist() == [[0, len(x)]]


def test_an_index_that_is_built_in_a_folder_keeps_no_part_in_memory(tmp_path):
    x, count, centroids = photos(10)
    index = built(x, count, centroids, photos_per_part=7, fingerprint="own", folder=tmp_path)
    index.finish()
    assert len(index._parts) > 2 and not index._pending
    assert all(isinstance(z, np.memmap) for part in index._parts for z in (part.vectors, part.photos, part.words_of))
    in_memory = built(x, count, centroids, photos_per_part=7, fingerprint="own")
    in_memory.save(tmp_path / "saved")
    for file in (tmp_path / "saved").iterdir():
        if file.name != "MANIFEST.json":
            assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    for a, b in zip(index.search(x, count, 5), in_memory.search(x, count, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    files = sorted(tmp_path.iterdir())
    index.add(x[:7], count[:7], [f"more {i}.jpg" for i in range(7)])  # a whole part, after the folder is finished
    assert index.search(x[:1], count[:1], 2, assignments=1)[0].tolist() == [[0, len(x)]]
    assert sorted(tmp_path.iterdir()) == files
    with pytest.raises(ValueError, match="`save` writes it"):
        in_memory.finish()


def test_a_damaged_index_is_refused(tmp_path):
    x, count, centroids = photos(11, 3)
    built(x, count, centroids).save(tmp_path / "index")
    file = tmp_path / "index" / "00000.vectors.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="00000.vectors.npy"):
        InvertedFile.load(tmp_path / "index")
    with pytest.raises(UserError, match="no inverted file"):
        InvertedFile.load(tmp_path / "nothing")


def test_k_must_fit():
    x, count, centroids = photos(12, 3)
    with pytest.raises(UserError, match="has 3 photographs"):
        built(x, count, centroids).search(x, count, 4)


def test_distinct_words_are_counted():
    x, count, centroids = photos(13)
    expected = [len(aggregate_in_loops(z[:n], centroids, 1)) for z, n in zip(x, count, strict=True)]
    assert distinct_words(*map(jnp.asarray, (x, count, centroids))).tolist() == expected
    assert max(expected) > min(expected)
