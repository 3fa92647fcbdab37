"""Outlines are where the masks are, heat where it was found, and no name can do harm."""

import numpy as np
from PIL import Image

from sret_jax.evaluation.report.answers import asked
from sret_jax.evaluation.report.marked import (
    FOUND,
    HOTTEST,
    MarkedAnswers,
    found_in,
    heated,
    marked,
    marked_picture,
)
from sret_jax.evaluation.report.page import write_report
from sret_jax.evaluation.report.pictures import OBJECT, RIGHT, WRONG
from sret_jax.evaluation.scorers import InstanceScorer
from sret_jax.localization.methods import PredictedMask
from tests.support.answers import scored
from tests.support.reports import EVIL, Elements, benchmark, photo_set, ranked, results
from tests.support.twins import search_over


def block(size, left, top, right, bottom) -> np.ndarray:
    out = np.zeros(size, bool)
    out[top:bottom, left:right] = True
    return out


def predicted(mask: np.ndarray, heat: bool = True) -> PredictedMask:
    return PredictedMask(mask, np.where(mask, 1, 0.25) if heat else None)


def test_outlines_are_where_the_masks_are():
    photo, size = np.zeros((100, 200, 3), np.uint8), (100, 200)
    found, truth = block(size, 20, 20, 80, 80), block(size, 100, 10, 190, 90)
    image = np.asarray(marked(photo, found, truth, 100))  # half the size
    assert image.shape == (50, 100, 3)
    assert tuple(image[10, 25]) == tuple(image[25, 10]) == tuple(image[39, 25]) == FOUND
    assert tuple(image[5, 70]) == tuple(image[25, 94]) == OBJECT
    assert not image[25, 25].any() and not image[25, 70].any() and not image[2, 2].any()
    alone = np.asarray(marked(photo, found, None, 100))
    assert {tuple(pixel) for pixel in alone.reshape(-1, 3)} == {(0, 0, 0), FOUND}
    assert not np.asarray(marked(photo, block(size, 0, 0, 0, 0), None, 100)).any()


def test_the_ring_is_around_the_hottest_point():
    photo, heat = np.full((100, 100, 3), 128, np.uint8), np.zeros((100, 100), np.float32)
    heat[60:64, 30:34] = np.array([[1, 2, 2, 1], [2, 3, 3, 2], [2, 3, 3, 2], [1, 2, 2, 1]])
    image = np.asarray(heated(photo, heat, 100)).astype(int)
    blue = image[..., 2] - image[..., 0] > 100
    y, x = np.argwhere(blue).mean(0)
    assert abs(y - 61) < 1.5 and abs(x - 31) < 1.5 and 10 < blue.sum() < 150
    assert image[61, 31].sum() > image[90, 90].sum() and HOTTEST[2] > HOTTEST[0]
    flat = np.asarray(heated(photo, np.full((100, 100), 7.0, np.float32), 100))
    assert flat[50, 50].max() < 60  # nothing is hot


def test_the_ring_is_around_the_seed_where_there_is_one():
    photo, heat = np.full((200, 100, 3), 128, np.uint8), np.zeros((200, 100), np.float32)
    heat[150, 80] = 1
    image = np.asarray(heated(photo, heat, 100, seed=(30.5, 41.5))).astype(int)  # half the size
    y, x = np.argwhere(image[..., 2] - image[..., 0] > 100).mean(0)
    assert abs(y - 20) < 1.5 and abs(x - 15) < 1.5


def page_of(tmp_path, shown, regions=None, separate=False) -> Elements:
    photos = photo_set(labelled=not separate)
    if separate:  # queries that nobody has labelled
        x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
        answers = scored(InstanceScorer(photos.labels, photos.instances, photos.labels), search_over(x), x)
        kind = benchmark(photos, photos)
    else:
        answers, kind = ranked(photos), benchmark(photos)
    write_report(tmp_path, results(answers.metrics), answers, kind, {}, shown, regions=regions or {})
    return Elements((tmp_path / "report.html").read_text("utf-8"))


def answered(query: int, count: int = 2) -> list[int]:
    """The first answers of a query that `ranked` has."""
    answers = ranked(photo_set())
    return answers.ids[int(np.flatnonzero(answers.queries == query)[0])][:count].tolist()


def marks_of(rows, heat=True, nothing=()) -> list[PredictedMask]:
    blocks = [block(photo_set().sizes[row].tolist(), 2, 3, 12, 13) for row in rows]
    return [predicted(mask & (row not in nothing), heat) for row, mask in zip(rows, blocks, strict=True)]


def test_found_is_said_only_of_what_was_found_and_nothing_is_judged_without_ground_truth(tmp_path):
    photos, rows = photo_set(), answered(3)
    plain = MarkedAnswers("discovery", 3, rows, marks_of(rows, nothing=rows[1:]), None)
    assert found_in(plain) == "found in 1 of the first 2"
    texts = page_of(tmp_path, [plain]).texts
    assert texts.count("found") == texts.count("not found") == 1 and not [t for t in texts if "IoU" in t]
    picture = np.asarray(marked_picture([plain], photos, photos)).reshape(-1, 3)
    assert not any((picture == colour).all(1).any() for colour in (RIGHT, WRONG))


def test_what_of_a_query_is_searched_for_is_framed_and_told(tmp_path):
    photos = photo_set(labelled=False)
    mask = block(photos.sizes[2].tolist(), 4, 4, 12, 12)
    page = page_of(tmp_path, [], {0: [2, 3, 20, 20], 1: [5.0, 6.0], 2: mask}, separate=True)
    told = [text for text in page.texts if text.startswith("searched for: ")]
    assert [text.removeprefix("searched for: ") for text in told] == [
        "the box",
        "what was clicked on",
        "the outlined mask",
    ]
    framed = np.asarray(asked(photos, 2, {2: mask})[0]).astype(int)
    assert tuple(framed[4, 8]) == OBJECT and (framed[8, 8] == photos.photo(2)[8, 8]).all()
    assert (framed[30, 30] > photos.photo(2)[30, 30]).all()  # what is outside is paler


def test_every_method_is_told_with_what_it_found(tmp_path):
    rows = answered(3)
    truth = [block(photo_set().sizes[rows[0]].tolist(), 2, 3, 12, 13), None]
    shown = [
        MarkedAnswers("discovery", 3, rows, marks_of(rows), truth),
        MarkedAnswers("sv", 3, rows, marks_of(rows, heat=False, nothing=rows), truth),
    ]
    without, page = page_of(tmp_path, []), page_of(tmp_path, shown)
    assert len(page.sources) == len(without.sources) + 2 + 2  # the heat of one method, the outlines of the other
    texts = "|".join(page.texts)
    for words in ("IoU 1.00", "does not show it", "not found", "nothing found", EVIL[1]):
        assert words in texts
    for title in ("discovery: marked in 2 of the first 2, outlined above", "sv: marked in 0 of the first 2"):
        assert title in page.texts


def test_the_report_has_the_section_and_its_picture(tmp_path):
    photos = photo_set()
    answers = ranked(photos)
    masks = [block(photos.sizes[row].tolist(), 2, 3, 12, 13) for row in (0, 1)]
    shown = [MarkedAnswers("discovery", 3, [0, 1], [predicted(mask) for mask in masks], [masks[0], None])]
    write_report(tmp_path, results(answers.metrics), answers, benchmark(photos), {}, shown)
    page = Elements((tmp_path / "report.html").read_text("utf-8"))
    assert "discovery: marked in 2 of the first 2, outlined above" in page.texts and "script" not in page.tags
    picture = np.asarray(Image.open(tmp_path / "located.png").convert("RGB")).reshape(-1, 3)
    assert (picture == FOUND).all(1).any() and picture.shape[0] > 100_000
