"""Outlines are where the masks are, heat where it was found, and no name can do harm."""

import numpy as np
from PIL import Image

from sret_jax.evaluation.report.marked import (
    FOUND,
    HOTTEST,
    MarkedAnswers,
    heated,
    marked,
    marked_picture,
    marked_section,
)
from sret_jax.evaluation.report.page import write_report
from sret_jax.evaluation.report.pictures import OBJECT, RIGHT, WRONG
from sret_jax.localization.methods import PredictedMask
from tests.support.reports import EVIL, Elements, benchmark, photo_set, ranked, results


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


def test_no_verdict_is_shown_without_ground_truth(tmp_path):
    photos = photo_set()
    size, masks = photos.sizes[3].tolist(), [block(photos.sizes[row].tolist(), 2, 3, 12, 13) for row in (0, 1)]
    found = [predicted(masks[0]), predicted(masks[1] & False)]
    plain = MarkedAnswers("discovery", 3, [0, 1], found, None)
    texts = Elements(marked_section([plain], photos, photos)).texts
    assert texts[-3:] == ["discovery", "found", "not found"]
    picture = np.asarray(marked_picture([plain], photos, photos)).reshape(-1, 3)
    assert not any((picture == colour).all(1).any() for colour in (RIGHT, WRONG))
    clicked = MarkedAnswers("discovery", 3, [0, 1], found, None, block(size, 4, 4, 12, 12))
    pages = [Elements(marked_section([one], photos, photos)).sources for one in (plain, clicked)]
    assert pages[0][0] != pages[1][0] and pages[0][1:] == pages[1][1:]  # only the query differs: its region is drawn


def test_a_strip_per_query_and_rows_of_each_method():
    photos = photo_set()
    masks = [block(photos.sizes[row].tolist(), 2, 3, 12, 13) for row in (0, 1)]
    shown = [
        MarkedAnswers("discovery", 3, [0, 1], [predicted(mask) for mask in masks], [masks[0], None]),
        MarkedAnswers("sv", 3, [0, 1], [predicted(mask & False, heat=False) for mask in masks], [masks[0], None]),
    ]
    page = Elements(marked_section(shown, photos, photos))
    assert "script" not in page.tags and all(source.startswith("data:image/jpeg") for source in page.sources)
    assert len(page.sources) == 2 * 3 + 2  # the query and two photographs of each method, and the heat of one
    texts = "|".join(page.texts)
    for words in ("IoU 1.00", "does not show it", "not found", "nothing found", "discovery", "sv", EVIL[1]):
        assert words in texts
    assert marked_section([], photos, photos) == ""


def test_the_report_has_the_section_and_its_picture(tmp_path):
    photos = photo_set()
    answers = ranked(photos)
    masks = [block(photos.sizes[row].tolist(), 2, 3, 12, 13) for row in (0, 1)]
    shown = [MarkedAnswers("discovery", 3, [0, 1], [predicted(mask) for mask in masks], [masks[0], None])]
    write_report(tmp_path, results(answers.metrics), answers, benchmark(photos), {}, shown)
    page = Elements((tmp_path / "report.html").read_text("utf-8"))
    assert "Where the object is" in page.texts and "script" not in page.tags
    picture = np.asarray(Image.open(tmp_path / "located.png").convert("RGB")).reshape(-1, 3)
    assert (picture == FOUND).all(1).any() and picture.shape[0] > 100_000
