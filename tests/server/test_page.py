"""The page in a real browser: pointing at a thing by mouse, by touch and by keyboard, and what is shown of it.

Needs `pip install "sret_jax[browser]"` and a Chromium: Debian's, one in the path, or that of SRET_CHROMIUM.
"""

import io
import os
import re
import shutil
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.decoding import encode_jpeg
from sret_jax.server.protocols import Collection
from sret_jax.server.readiness import Readiness
from tests.support.collection import FakeCollection, drawn_collection, lying_photo
from tests.support.serving import running

pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("SRET_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
NAME = "cat/brick 1.jpg"
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium is installed, and SRET_CHROMIUM names none")
    with playwright.sync_playwright() as running_playwright:
        options = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
        browser = running_playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def collection() -> FakeCollection:
    collection = drawn_collection()
    collection.photos["lying.jpg"] = lying_photo((240, 160))
    assert isinstance(collection, Collection)
    return collection


@pytest.fixture(scope="module")
def url(collection):
    with running(collection) as url:
        yield url


@pytest.fixture
def opened(browser, url):
    """Opens the page; afterwards nothing may have gone wrong in it, nor any other server been asked."""
    contexts, wrong = [], []

    def open_page(width=1400, height=900, at=url, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if is_wrong(line) else None)
        page.on("request", lambda asked: None if asked.url.startswith((at, "blob:")) else wrong.append(asked.url))
        page.goto(at)
        page.wait_for_selector("#photo-list button, #browse-empty:not([hidden])")
        return page

    def is_wrong(line):  # a file that the server refuses is no failure
        return line.type in ("error", "warning") and not line.location["url"].endswith("/preview")

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def until(page, expression, argument=None):
    """Waits for it to hold. (Playwright's own way evaluates text within the page, which the page's policy forbids.)"""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def pick(page, name=NAME):
    page.get_by_label(f"Look at {name}", exact=True).click()
    until(page, "document.activeElement.id === 'stage'")


def corners(page, collection, name=NAME):
    """Where on the screen the thing in a photograph begins and ends."""
    ((left, top, right, bottom),) = collection.things[name].values()
    frame = page.locator("#stage-photo").bounding_box()
    scale = frame["width"] / page.evaluate("document.getElementById('stage-photo').naturalWidth")
    x, y = frame["x"], frame["y"]
    return (x + left * scale, y + top * scale), (x + right * scale, y + bottom * scale)


def draw(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def shown(page):
    """(name, whether it is outlined, what is said below it) of each answer on the page."""
    page.wait_for_selector("#answer-list li")
    return page.evaluate(
        """[...document.querySelectorAll("#answer-list li")].map((item) => [item.dataset.name,
           item.querySelectorAll(".picture path").length > 0, item.querySelector(".score").textContent])"""
    )


def test_a_box_drawn_by_mouse_finds_the_thing_and_outlines_it(opened, collection):
    page = opened()
    pick(page)
    draw(page, *corners(page, collection))
    answers = shown(page)
    expected = collection.search(NAME, list(collection.things[NAME]["cat"]), 20).answers
    assert [name for name, _, _ in answers] == [answer.name for answer in expected]
    assert all(outlined for _, outlined, _ in answers)
    assert all(said.startswith(f"{a.score:.2f}") for a, (_, _, said) in zip(expected, answers, strict=True))
    assert "Found in 20 of the first 20" in page.locator("#summary").inner_text()
    assert expected[0].name in page.locator("#live").inner_text()

    page.locator("#more-answers").scroll_into_view_if_needed()
    until(page, "document.querySelectorAll('#answer-list li').length > 20")
    name, outlined, said = shown(page)[30]
    assert not name.startswith("cat/") and not outlined and "not found" in said


def test_a_photograph_larger_than_the_page_is_searched_where_the_box_is(opened):
    """What is shown of it is smaller: the box is told in the pixels of the file."""
    large = drawn_collection()
    picture = Image.open(io.BytesIO(large.photos[NAME]))
    large.photos[NAME] = encode_jpeg(np.asarray(picture.resize((4 * picture.width, 4 * picture.height))), 80)
    large.things[NAME] = {thing: tuple(4 * x for x in box) for thing, box in large.things[NAME].items()}
    with running(large) as at:
        page = opened(at=at)
        pick(page)
        asked = []
        page.on("request", lambda request: asked.append(request) if request.url.endswith("/search") else None)
        (left, top, right, bottom) = box = large.things[NAME]["cat"]
        frame, scale = page.locator("#stage-photo").bounding_box(), 4 * picture.width
        place = [frame["x"] + x * frame["width"] / scale for x in (left, right)]
        down = [frame["y"] + y * frame["width"] / scale for y in (top, bottom)]
        draw(page, (place[0], down[0]), (place[1], down[1]))
        assert shown(page)[0][0].startswith("cat/")
        np.testing.assert_allclose(asked[0].post_data_json["region"], box, atol=0.02 * scale)
        page.close()  # before its server


def test_a_box_is_suggested_on_demand(opened, collection):
    page = opened()
    pick(page)
    page.click("#suggest")
    assert shown(page)[0][0].startswith("cat/")  # and it is searched for
    left, top, right, bottom = collection.things[NAME]["cat"]
    label = f"The photograph. Box at {left}, {top}, {right - left} by {bottom - top} pixels"
    until(page, "(label) => document.getElementById('stage').getAttribute('aria-label') === label", label)
    assert page.locator("#suggest").is_hidden()


def test_the_outline_lies_on_the_thing(opened, collection):
    page = opened()
    pick(page)
    draw(page, *corners(page, collection))
    name = shown(page)[0][0]
    item = page.locator("#answer-list li").first
    path, image = item.locator(".picture path").last.bounding_box(), item.locator("img").bounding_box()
    height, width = collection.search(name).size
    left, top, right, bottom = collection.things[name]["cat"]
    scale = image["width"] / width
    assert abs(path["x"] - image["x"] - left * scale) < 6 and abs(path["y"] - image["y"] - top * scale) < 6
    assert abs(path["width"] - (right - left) * scale) < 10 and abs(path["height"] - (bottom - top) * scale) < 10


def test_a_click_is_a_point_and_the_box_can_be_moved_and_cleared(opened, collection):
    page = opened()
    pick(page)
    (x0, y0), (x1, y1) = corners(page, collection)
    page.mouse.click((x0 + x1) / 2, (y0 + y1) / 2)
    assert shown(page)[0][0].startswith("cat/")
    assert "Point at" in page.locator("#stage").get_attribute("aria-label")
    draw(page, (x0, y0), (x1, y1))
    before = page.locator("#stage").get_attribute("aria-label")
    draw(page, ((x0 + x1) / 2, (y0 + y1) / 2), ((x0 + x1) / 2 + 40, (y0 + y1) / 2))
    moved = page.locator("#stage").get_attribute("aria-label")
    assert moved != before and moved.split(",")[-1] == before.split(",")[-1]  # elsewhere, and of the same size
    page.click("#clear")
    assert page.locator("#stage").get_attribute("aria-label") == "The photograph"
    assert page.locator("#go").inner_text() == "Search the whole photograph"


def test_everything_can_be_done_by_keyboard(opened, collection):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("Boolean(document.activeElement.dataset.name)"):
            break
    first = page.evaluate("document.activeElement.dataset.name")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.name") == collection.names[1] != first
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'stage'")
    page.keyboard.press("ArrowLeft")  # sets a box
    label = page.locator("#stage").get_attribute("aria-label")
    assert "Box at 160, 110, 320 by 220" in label or "Box at 120, 150, 240 by 300" in label
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("+")
    assert page.locator("#stage").get_attribute("aria-label") != label
    assert "Box at" in page.locator("#live").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#stage").get_attribute("aria-label") == "The photograph"
    page.keyboard.press("Enter")
    assert len(shown(page)) == 20
    until(page, "/The first 20/.test(document.getElementById('live').textContent)")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "picture":
            break
    name = shown(page)[0][0]
    page.keyboard.press("Enter")  # the answer is the next query
    until(page, "(name) => document.getElementById('query-name').textContent === name", name)


def test_an_answer_becomes_the_next_query_and_the_way_back_leads_to_the_one_before(opened, collection):
    page = opened()
    pick(page)
    draw(page, *corners(page, collection))
    name = shown(page)[0][0]
    page.locator(".picture").first.click()
    until(page, "(name) => document.getElementById('query-name').textContent === name", name)
    left, top, *_ = collection.things[name]["cat"]
    until(
        page,
        "(start) => document.getElementById('stage').getAttribute('aria-label').includes(start)",
        f"Box at {left}, {top}",
    )
    until(page, "(name) => !document.querySelector(`li[data-name='${name}']`)", name)
    page.go_back()
    until(page, "(name) => document.getElementById('query-name').textContent === name", NAME)


def test_the_page_is_there_at_once_and_says_that_it_starts(browser):
    """Also where the collection does not answer yet."""
    slow = drawn_collection()
    started, told = threading.Event(), threading.Event()

    class Slow(FakeCollection):
        @property
        def names(self):
            assert not started.is_set() or told.wait(30)
            return sorted(self.photos)

    with running(Slow(slow.photos, slow.things)) as at:
        started.set()
        page = browser.new_page()
        page.goto(at)
        assert "Starting" in page.locator("#starting").inner_text()
        told.set()
        page.wait_for_selector("#photo-list button")
        assert not page.locator("#starting").is_visible()
        page.close()


def test_what_is_waited_for_is_said(opened):
    """Searching, and why it takes long, as long as it does."""
    slow, readiness = drawn_collection(), Readiness(ready=False)
    slow.seconds = WAIT / 1000
    with running(slow, readiness=readiness) as at:
        page = opened(at=at)
        until(page, "document.getElementById('notice').textContent === 'Getting ready …'")
        pick(page)
        draw(page, *corners(page, slow))
        until(page, "document.getElementById('working').offsetHeight > 0")
        assert "The first search waits until everything is ready" in page.locator("#working").inner_text()
        assert page.locator("#answers").get_attribute("aria-busy") == "true"
        readiness.ready, readiness.message = True, "Postcards could not be brought up to date: Read-only file system"
        slow.ending.set()
        shown(page)
        until(page, "document.getElementById('answers').ariaBusy === 'false'")
        assert not page.locator("#working").is_visible()
        until(page, "/Read-only file system/.test(document.getElementById('notice').textContent)")
        page.close()


def test_answers_of_an_earlier_search_are_told_from_those_of_this_one(opened, collection):
    page = opened()
    pick(page)
    draw(page, *corners(page, collection))
    shown(page)
    until(page, "/^Found in 20/.test(document.getElementById('summary').textContent)")
    earlier = "document.getElementById('answers').classList.contains('earlier')"
    assert not page.evaluate(earlier)
    page.click("#clear")
    assert page.evaluate(earlier) and page.locator("#summary").inner_text() == "Answers of the earlier search"
    assert "due" in page.locator("#go").get_attribute("class")
    page.click("#go")
    until(page, f"!{earlier} && /^The first 20/.test(document.getElementById('summary').textContent)")
    page.locator("#stage").press("ArrowLeft")
    assert page.evaluate(earlier)
    page.keyboard.press("Enter")
    until(page, f"!{earlier}")


def test_where_nothing_is_found_it_is_said_what_to_try(opened, collection):
    page = opened()
    page.fill("#filter", "scenes/brick")
    pick(page, "scenes/brick.jpg")
    frame = page.locator("#stage-photo").bounding_box()
    x, y = frame["x"], frame["y"]
    draw(page, (x + 5, y + 5), (x + 80, y + 60))
    shown(page)
    page.wait_for_selector("#advice:not([hidden])")
    assert "Nothing was recognized" in page.locator("#advice").inner_text()
    assert page.evaluate("getComputedStyle(document.querySelector('#answer-list img')).opacity") == "1"
    assert "The 20 photographs most alike" in page.locator("#summary").inner_text()


def test_a_photograph_is_turned_and_its_box_with_it(opened, collection):
    page = opened()
    pick(page)
    draw(page, *corners(page, collection))
    shown(page)
    label = page.locator("#stage").get_attribute("aria-label")
    left, top, width, height = (int(x) for x in re.findall(r"\d+", label))
    size = "[document.getElementById('stage-photo').naturalWidth, document.getElementById('stage-photo').naturalHeight]"
    whole = page.evaluate(size)
    page.click("#turn")
    until(page, f"String({size}) === '{whole[1]},{whole[0]}'")
    turned = f"The photograph. Box at {whole[1] - top - height}, {left}, {height} by {width} pixels"
    until(page, "(label) => document.getElementById('stage').getAttribute('aria-label') === label", turned)
    assert page.locator("#query-name").inner_text() == NAME
    until(page, "!document.getElementById('answers').classList.contains('earlier')")
    until(page, "document.getElementById('working').hidden && document.querySelectorAll('#answer-list li').length > 9")
    assert NAME not in [name for name, _, _ in shown(page)]  # it is the query
    for quarter in range(3):
        page.click("#turn")
        until(page, f"String({size}) === '{whole[quarter % 2 == 1]},{whole[quarter % 2 == 0]}'")
    until(page, "(label) => document.getElementById('stage').getAttribute('aria-label') === label", label)
    page.go_back()
    until(page, f"String({size}) === '{whole[1]},{whole[0]}'")


def test_an_answer_that_is_all_object_becomes_a_query_without_a_box(opened):
    filled = drawn_collection()
    for name in list(filled.things):
        if name != NAME:
            width, height = Image.open(io.BytesIO(filled.photos[name])).size
            filled.things[name] = {thing: (0, 10, width, height) for thing in filled.things[name]}
    with running(filled) as at:
        page = opened(at=at)
        pick(page)
        draw(page, *corners(page, filled))
        name = shown(page)[0][0]
        page.locator(".picture").first.click()
        until(page, "(name) => document.getElementById('query-name').textContent === name", name)
        until(page, "document.getElementById('go').textContent === 'Search the whole photograph'")
        page.close()


def test_the_corners_of_a_box_at_the_border_can_be_seen_and_moved(opened, collection):
    page = opened()
    pick(page)
    frame = page.locator("#stage-photo").bounding_box()
    x, y, right, bottom = frame["x"], frame["y"], frame["x"] + frame["width"], frame["y"] + frame["height"]
    draw(page, (x + 30, y + 30), (right + 40, bottom + 40))
    shown(page)
    handles = [handle.bounding_box() for handle in page.locator("#stage-region .handle").all()]
    assert len(handles) == 4
    for handle in handles:
        assert handle["x"] >= x and handle["x"] + handle["width"] <= right + 1
        assert handle["y"] >= y and handle["y"] + handle["height"] <= bottom + 1
    corner = max(handles, key=lambda handle: handle["x"] + handle["y"])
    draw(page, (corner["x"] + 7, corner["y"] + 7), (x + 150, y + 120))
    box = [int(n) for n in re.findall(r"\d+", page.locator("#stage").get_attribute("aria-label"))]
    scale = page.evaluate("document.getElementById('stage-photo').naturalWidth") / frame["width"]
    np.testing.assert_allclose(box, [30 * scale, 30 * scale, 120 * scale, 90 * scale], atol=3)


def test_the_square_around_a_click_is_drawn(opened, collection):
    page = opened()
    pick(page)
    (x0, y0), (x1, y1) = corners(page, collection)
    page.mouse.click((x0 + x1) / 2, (y0 + y1) / 2)
    shown(page)
    page.wait_for_selector("#stage-region .box-over.searched")
    square = page.locator("#stage-region .box-over.searched").bounding_box()
    scale = page.evaluate("document.getElementById('stage-photo').naturalWidth / "
                          "document.getElementById('stage-photo').clientWidth")  # fmt: skip
    assert abs(square["width"] * scale - 40) < 6 and abs(square["x"] + square["width"] / 2 - (x0 + x1) / 2) < 3
    page.locator("#stage").press("Escape")
    assert page.locator("#stage-region .searched").count() == 0


def test_no_photograph_is_blown_up(opened):
    """One that is alone in its row stays as high as others, about."""
    few = drawn_collection()
    names = [NAME, "cat/brick 2.jpg", "cat/gravel 2.jpg"]
    photos = {name: few.photos[name] for name in names}
    panorama = encode_jpeg(np.zeros((200, 520, 3), np.uint8), 80)
    with running(FakeCollection(photos | {f"x{i}.jpg": panorama + bytes(i) for i in range(3)}, few.things)) as at:
        page = opened(1000, 800, at=at)
        pick(page)
        page.click("#go")
        shown(page)
        heights = page.evaluate("[...document.querySelectorAll('.picture')].map((picture) => picture.offsetHeight)")
        assert max(heights) <= 1.61 * 210
        page.close()


def test_what_the_browser_cannot_show_is_shown_by_the_server(opened, collection):
    """Boxes are told in pixels of the file, of which a smaller picture is seen."""
    page = opened()
    file = io.BytesIO()
    Image.open(io.BytesIO(collection.photos[NAME])).resize((2560, 1760)).save(file, "TIFF")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/search" in request.url else None)
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files({"name": "scan.tif", "mimeType": "image/tiff", "buffer": file.getvalue()})
    until(page, "document.activeElement.id === 'stage'")
    assert page.locator("#query-name").inner_text() == "scan.tif"
    assert page.evaluate("document.getElementById('stage-photo').naturalWidth") == 1280
    frame = page.locator("#stage-photo").bounding_box()
    draw(page, (frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2),
         (frame["x"] + frame["width"] - 1, frame["y"] + frame["height"] - 1))  # fmt: skip
    shown(page)
    box = [float(x) for x in parse_qs(urlsplit(asked[0]).query)["region"][0].split(",")]
    np.testing.assert_allclose(box, [1280, 880, 2560, 1760], atol=12)


def test_a_file_is_searched_and_lying_photographs_stand(opened, collection):
    page = opened()
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files({"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": lying_photo((240, 160))})
    until(page, "document.activeElement.id === 'stage'")
    assert page.locator("#query-name").inner_text() == "mine.jpg"
    size = "[document.getElementById('stage-photo').naturalWidth, document.getElementById('stage-photo').naturalHeight]"
    assert page.evaluate(size) == [160, 240]
    page.click("#go")
    names = [name for name, _, _ in shown(page)]
    assert "lying.jpg" not in names  # it is the query, byte for byte
    page.click("#browse-tab")
    page.fill("#filter", "lying")
    until(page, "document.querySelectorAll('#photo-list li').length === 1")
    pick(page, "lying.jpg")
    assert page.evaluate(size) == [160, 240]


def test_a_heat_map_is_shown_on_demand(opened, collection):
    page = opened()
    pick(page)
    draw(page, *corners(page, collection))
    name = shown(page)[0][0]
    button = page.get_by_label(f"Heat map of {name}", exact=True)
    button.click()
    page.wait_for_selector("img.heat")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and not page.locator("img.heat").is_visible()


def test_the_name_below_a_photograph_picks_it_too(opened):
    page = opened()
    caption = page.locator("#photo-list li p").nth(2)
    caption.click()
    until(page, "document.activeElement.id === 'stage'")
    assert page.locator("#query-name").inner_text().endswith(caption.inner_text())


def test_more_photographs_come_on_the_way_down_and_names_filter_them(opened, collection):
    page = opened()
    assert page.locator("#photo-list li").count() >= 60
    page.locator("#photo-list li").last.scroll_into_view_if_needed()
    until(page, f"document.querySelectorAll('#photo-list li').length === {len(collection.photos)}")
    page.fill("#filter", "no such name")
    page.wait_for_selector("#browse-empty:not([hidden])")
    assert "No name contains “no such name”." in page.locator("#browse-empty").inner_text()


def test_what_goes_wrong_is_said(opened, collection):
    page = opened()
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files({"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no photograph"})
    page.wait_for_selector("#error:not([hidden])")
    assert "notes.jpg: not a JPEG, PNG, " in page.locator("#error-text").inner_text()
    page.click("#dismiss")
    assert not page.locator("#error").is_visible()


def test_an_empty_collection_says_so_and_how_far_indexing_is(opened):
    with running(FakeCollection({}, indexing=(120, 1400))) as url:
        page = opened(at=url)
        until(page, "document.querySelector('#indexing-text').innerText === 'Indexing 120 of 1,400'")
        until(page, "document.querySelector('#browse-empty').innerText.includes('once they are indexed')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_page(opened, scheme):
    """WCAG's contrast of 4.5 for what is read."""
    page = opened(color_scheme=scheme)
    page.get_by_label(f"Look at {NAME}", exact=True).click()
    until(page, "document.activeElement.id === 'stage'")
    ratios = page.evaluate(
        """() => {
          const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
          const light = (c) => rgb(c).slice(0, 3).map((v) => v / 255).map((v) => (v <= .04045 ? v / 12.92
            : ((v + .055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
          const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!(rgb(c).length === 4 && rgb(c)[3] === 0)) return c; } return "rgb(255,255,255)"; };
          const read = ["h1", "h2", "#collection-size", "#how", "#go", "#another", "#browse-tab",
            ".photos p", "#query-name"];
          return read.map((s) => { const e = document.querySelector(s);
              const a = light(getComputedStyle(e).color), b = light(ground(e));
              return [s, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; });
        }"""
    )
    assert not [(what, ratio) for what, ratio in ratios if ratio < 4.5]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 27)"
    assert dark == (scheme == "dark")


def test_a_phone_shows_all_of_it(opened, collection):
    page = opened(375, 812, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.get_by_label(f"Look at {NAME}", exact=True).tap()
    until(page, "document.activeElement.id === 'stage'")
    page.locator("#stage").scroll_into_view_if_needed()
    (x0, y0), (x1, y1) = corners(page, collection)
    page.touchscreen.tap((x0 + x1) / 2, (y0 + y1) / 2)
    assert shown(page)[0][0].startswith("cat/")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    small = page.evaluate(
        """[...document.querySelectorAll("button, a")].filter((e) => e.offsetParent && !e.matches(".skip"))
           .map((e) => [e.id || e.title, e.offsetWidth, e.offsetHeight]).filter(([, w, h]) => w < 36 || h < 36)"""
    )
    assert not small
