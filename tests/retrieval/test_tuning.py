"""A recall that is asked for is reached by the settings that were chosen, with the least work, or it says so."""

import dataclasses

import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval import tuning
from sret_jax.retrieval.changing_index import ChangingIndex
from sret_jax.retrieval.index import Index
from sret_jax.retrieval.tuning import Choice, cheapest, raised

pytest.importorskip("scann")
BREADTHS, REORDERS = [1, 2, 4, 7, 11], [10, 20, 50, 100]


def rising(seed: int) -> np.ndarray:
    """A recall for every choice [breadths reorders] that falls with neither."""
    steps = np.random.default_rng(seed).random((len(BREADTHS), len(REORDERS))) ** 3
    recall = steps.cumsum(0).cumsum(1)
    return recall / recall.max()


def work(choice: Choice) -> float:
    return 30 * choice.leaves_to_search + choice.reorder


def lookup(table: np.ndarray):
    asked = []

    def recall_of(choice: Choice) -> float:
        asked.append(choice)
        return table[BREADTHS.index(choice[0]), REORDERS.index(choice[1])]

    return recall_of, asked


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("enough", [0.01, 0.5, 0.9, 1.0])
def test_the_cheapest_choice_is_that_of_asking_for_all(seed, enough):
    table = rising(seed)
    recall_of, asked = lookup(table)
    found = cheapest(recall_of, BREADTHS, REORDERS, enough, work)
    right = []
    for i, breadth in enumerate(BREADTHS):
        for j, reorder in enumerate(REORDERS):
            if table[i, j] >= enough:
                right.append(work(Choice(breadth, reorder)))
    assert work(found) == min(right) and recall_of(found) >= enough
    assert len(asked) <= len(BREADTHS) + len(REORDERS) + 4  # four: to find where the border begins


def test_what_cannot_be_reached_gives_the_most_exact_choice():
    recall_of, _ = lookup(rising(0) * 0.8)
    assert cheapest(recall_of, BREADTHS, REORDERS, 0.9, work) == Choice(11, 100)
    assert raised(recall_of, Choice(1, 10), BREADTHS, REORDERS, 0.9, work) == (Choice(11, 100), 0.8)


@pytest.mark.parametrize("seed", range(20))
def test_a_choice_is_raised_until_it_is_enough(seed):
    table = rising(seed)
    recall_of, asked = lookup(table)
    choice, measured = raised(recall_of, Choice(2, 20), BREADTHS, REORDERS, 0.9, work)
    assert measured == recall_of(choice) >= 0.9 and choice[0] >= 2 and choice[1] >= 20
    enough = table[1, 1] >= 0.9
    assert (choice == Choice(2, 20)) == enough and (len(asked) == 2) == enough


def grouped(n: int, d: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(60, d))
    return (centres[rng.integers(0, 60, n)] + 0.5 * rng.normal(size=(n, d))).astype(np.float32)


def in_loops(index: Index, x: np.ndarray, queries: np.ndarray) -> float:
    """Recall@10 from the definition."""
    unit = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    shares = []
    for query in queries:
        cosine = unit @ query
        tenth = sorted(cosine)[-10]
        found = [i for i in index.search(query[None], 10).ids[0] if i >= 0]
        shares.append(np.mean([cosine[i] >= tenth - 1e-6 for i in found]) * len(found) / 10)
    return float(np.mean(shares))


def means(x: np.ndarray, seed: int) -> np.ndarray:
    """256 directions between five rows each, and after them 256 others."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    rng, found = np.random.default_rng(seed), []
    for five in [rng.integers(0, len(x), (256, 5)) for _ in range(2)]:
        found += [sum(unit[i] for i in rows) / np.linalg.norm(sum(unit[i] for i in rows)) for rows in five]
    return np.array(found, np.float32)


@pytest.mark.parametrize(("method", "store"), [("ah", "float32"), ("tree_ah", "float32"), ("tree_ah", "int8")])
def test_the_recall_asked_for_is_measured_on_means_that_did_not_choose(method, store):
    x = grouped(900)
    index = Index.build(x, [str(i) for i in range(900)], SearchConfig(method=method, recall=0.95, store=store))
    others = means(x, seed=0)[256:]
    assert index.settings["recall"] >= 0.95
    assert in_loops(index, x, others) == pytest.approx(index.settings["recall"], abs=0.02)
    assert f"recall@10 {index.settings['recall']:.4g} on means of its photos (0.95 asked for)" in index.description
    assert str(index.settings["reorder"]) in index.description


def test_near_copies_of_each_other_do_not_hide_what_others_find():
    """A photograph of the collection finds its copies in one leaf; one from elsewhere has to look into many."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(8, 48))  # what photographs are of has fewer dimensions than their descriptors

    def photographs(n: int) -> np.ndarray:
        return (rng.normal(size=(n, 8)) @ basis).astype(np.float32)

    seen, others = photographs(400), photographs(200)
    x = np.concatenate([one + 0.2 * rng.normal(size=(20, 48)).astype(np.float32) for one in seen])
    alone = photographs(1000)
    x = np.concatenate([x, alone])
    index = Index.build(x, [str(i) for i in range(len(x))], SearchConfig(method="tree_ah", recall=0.95))
    unit, asked = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, others))
    right = np.argsort(-(asked @ unit.T), axis=1, kind="stable")[:, :10]
    found = index.search(others, 10).ids
    assert np.mean([np.isin(a, b).mean() for a, b in zip(right, found, strict=True)]) >= 0.94


def test_a_recall_out_of_reach_is_said_and_the_most_exact_settings_are_taken(monkeypatch, caplog):
    monkeypatch.setattr(tuning, "REORDERS", (10,))
    index = Index.build(grouped(400), [str(i) for i in range(400)], SearchConfig(method="tree_ah", recall=1.0))
    assert index.settings["leaves_to_search"] == index.settings["leaves"] == 40 and index.settings["reorder"] == 10
    assert index.settings["recall"] < 1 and "search.recall=1 is not reached" in caplog.text
    assert "(1 was asked for and is not reached)" in index.description


def test_what_was_chosen_is_saved(tmp_path):
    x = grouped(400)
    index = Index.build(x, [str(i) for i in range(400)], SearchConfig(method="tree_ah", recall=0.9))
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert loaded.settings == index.settings and loaded.description == index.description
    np.testing.assert_array_equal(loaded.search(x[:5], 10).ids, index.search(x[:5], 10).ids)


def test_an_exact_index_has_nothing_to_choose():
    index = Index.build(grouped(40), [str(i) for i in range(40)], SearchConfig(method="exact", recall=0.99))
    assert index.settings == {} and "recall" not in index.description


@pytest.mark.parametrize("field", ["leaves_to_search", "reorder"])
def test_a_recall_beside_what_it_chooses_is_refused(field):
    with pytest.raises(UserError, match=f"config.search.recall=0.9 chooses {field}: leave config.search.{field} at 0"):
        Index.build(grouped(40), [str(i) for i in range(40)], SearchConfig(recall=0.9, **{field: 5}))


@pytest.mark.parametrize("store", ["float32", "int8"])
def test_a_changing_index_is_tuned_and_kept_so(store, tmp_path):
    x = grouped(500)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    config = SearchConfig(method="tree_ah", recall=0.95, store=store)
    index = ChangingIndex(np.arange(500), lambda ids: x[ids], config)
    assert index.recall >= 0.95
    index.save(tmp_path / "index", "key")
    loaded = ChangingIndex.load(tmp_path / "index", "key", lambda ids: x[ids], config)
    assert loaded.recall == index.recall
    found = [index.search(x[i], 10)[0] for i in range(50)]
    right = [np.argsort(-(x @ x[i]), kind="stable")[:10] for i in range(50)]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(right, found, strict=True)]) >= 0.9
    other = dataclasses.replace(config, recall=0.99)
    assert ChangingIndex.load(tmp_path / "index", "key", lambda ids: x[ids], other) is None
