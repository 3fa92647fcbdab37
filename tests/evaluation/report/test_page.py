"""What is shown, and that no file name can do harm."""

from dataclasses import replace
from urllib.parse import quote, unquote

import numpy as np
import pytest
from PIL import Image

from sret_jax.evaluation.report import page as page_module
from sret_jax.evaluation.report.marked import MarkedAnswers
from sret_jax.evaluation.report.page import choose_photos, choose_queries, write_report
from sret_jax.evaluation.report.pictures import escaped, heat_map, node_graph, thumbnail
from sret_jax.evaluation.report.table import print_results
from sret_jax.evaluation.request import Request
from sret_jax.evaluation.scorers import InstanceScorer
from sret_jax.localization.methods import PredictedMask
from tests.support.answers import scored
from tests.support.reports import EVIL, Elements, benchmark, photo_set, ranked, results
from tests.support.twins import search_over


def seen(rows, with_graph=True) -> dict:
    mask = np.zeros((64, 64), bool)
    mask[:64, :48] = True
    rng = np.random.default_rng(0)
    graph = {
        "nodes": np.array([[0, 0], [7, 5], [3, 3]]),
        "valid": np.array([True, True, False]),
        "senders": np.array([0, 1, 0, 2]),
        "receivers": np.array([0, 0, 1, 2]),
        "edge_valid": np.array([True, True, True, False]),
    }
    values = {"map": rng.random((8, 8, 5)), "photo_mask": mask}
    if with_graph:
        values |= {"smoothing": {"a": np.ones((8, 8)), "c": rng.random((8, 8))}, "refinement": graph}
    return dict.fromkeys(rows, values)


@pytest.mark.parametrize("masks", [False, True])
def test_a_report_is_one_harmless_file(tmp_path, masks):
    photos = photo_set(masks)
    answers = ranked(photos)
    write_report(tmp_path, results(answers.metrics), answers, benchmark(photos), seen(choose_photos(answers, photos)))
    page = (tmp_path / "report.html").read_text("utf-8")
    elements = Elements(page)
    assert "script" not in elements.tags and "i" in elements.tags and not elements.links
    assert elements.sources and all(source.startswith("data:image/webp;base64,") for source in elements.sources)
    assert f"{EVIL[0]}/0.png" in elements.texts and "na\ufffdve\n{}" in elements.texts
    assert f"{answers.metrics['mAP']:.1f}" in elements.texts
    assert "mAP, %, 12.3 before training" in elements.texts
    assert page.count("nodes and their edges") == 4 and "a: bright keeps to itself (1 everywhere)" in page
    assert len(page) < 3e6
    strip = Image.open(tmp_path / "strip.png")
    assert strip.format == "PNG" and strip.width > 1000


def test_a_network_without_context_has_fewer_maps(tmp_path):
    photos = photo_set()
    answers = ranked(photos)
    write_report(tmp_path, results(answers.metrics), answers, benchmark(photos), seen([0], with_graph=False))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "nodes and their edges" not in page and "strength of the features" in page


def test_right_and_wrong_answers_are_told_apart(tmp_path):
    photos = photo_set()
    answers = ranked(photos, spread=0)
    write_report(tmp_path, results(answers.metrics), answers, benchmark(photos), {})
    page = (tmp_path / "report.html").read_text("utf-8")
    shown = sum(map(len, choose_queries(answers, photos)))
    assert page.count('class="right"') == 2 * shown and page.count('class="wrong"') == 8 * shown
    assert "first right photograph at rank 1" in page and "✓" in page and "✗" in page


def test_queries_without_labels_are_shown_without_a_verdict(tmp_path):
    photos, queries = photo_set(), photo_set(labelled=False)
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    answers = scored(InstanceScorer(photos.labels, photos.instances, queries.labels), search_over(x), x)
    shown = seen(choose_photos(answers, queries))
    write_report(tmp_path, results({}, queries_from="q"), answers, benchmark(photos, queries), shown)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert 'class="right"' not in page and 'class="wrong"' not in page
    assert "mAP" not in page and "AP " not in page and "benchmark" not in page and "instances" not in page
    assert page.count("searched for") == 0 and f"<bdi>{queries.names[11]}</bdi>" in page


def test_what_nothing_has_trained_is_said_and_not_shown(tmp_path):
    photos = photo_set()
    answers = ranked(photos)
    write_report(
        tmp_path, results(answers.metrics), answers, benchmark(photos), seen([0]), untrained=["smoothing", "refinement"]
    )
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Smoothing and refinement have not been trained" in page and "strength of the features" in page
    assert "nodes and their edges" not in page and "keeps to itself" not in page


def test_a_name_that_turns_the_direction_of_writing_is_shown_as_it_is():
    assert escaped("cat\u202egpj.exe") == "cat[U+202E]gpj.exe" and escaped("חתול.jpg") == "חתול.jpg"


def test_every_file_is_named_and_a_link_where_it_is_on_disk(tmp_path):
    photos, root = photo_set(), tmp_path / "root"
    there = ["dôme/9.png", "dôme/10.png"]
    for name in there:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    found, request = ranked(photos), Request(root=str(root))
    write_report(tmp_path, results(found.metrics), found, replace(benchmark(photos), folder=root, request=request), {})
    links = set(Elements((tmp_path / "report.html").read_text("utf-8")).links)
    assert links == {f"root/{quote(name)}" for name in there}
    moved = tmp_path.parent / f"{tmp_path.name} moved"
    tmp_path.rename(moved)
    assert all((moved / unquote(link)).is_file() for link in links)


def test_files_that_were_not_used_are_listed_with_their_reasons(tmp_path):
    photos = replace(photo_set(), skipped=[("<b>broken.jpg", "it is cut short"), ("notes.txt", "no photograph")])
    answers = ranked(photos)
    write_report(tmp_path, results(answers.metrics), answers, benchmark(photos), {})
    texts = Elements((tmp_path / "report.html").read_text("utf-8")).texts
    assert "2 files were not used" in texts
    for file, reason in photos.skipped:
        assert texts[texts.index(file) + 1] == reason


def test_all_queries_with_marks_are_shown_and_as_many_of_the_others_as_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "OWN", 2)
    photos, queries = photo_set(), photo_set(labelled=False)
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    answers = scored(InstanceScorer(photos.labels, photos.instances, queries.labels), search_over(x), x)
    marked = [MarkedAnswers("sv", 9, [0], [PredictedMask(np.ones(photos.sizes[0], bool))], None)]
    write_report(tmp_path, results({}, queries_from="q"), answers, benchmark(photos, queries), {}, marked)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Answers to 3 of 12 queries" in page and page.count('class="query"') == 3


def test_the_shown_queries_are_best_and_worst_of_different_instances():
    photos = photo_set()
    answers = ranked(photos)
    best, worst = choose_queries(answers, photos)
    assert not set(best) & set(worst) and len(best) == len(worst) == 6
    assert set(photos.labels[answers.queries[worst]]) == {0, 1, 2, 3}
    assert answers.ap[worst].min() == answers.ap.min() and answers.ap[best].max() == answers.ap.max()
    assert list(answers.ap[worst]) == sorted(answers.ap[worst])


def test_heat_map_shows_only_the_photo_and_where_it_is_high():
    photo = np.full((80, 60, 3), 128, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[:, :48] = True
    values = np.zeros((8, 8))
    values[6, 1], values[2, 7] = 5, 100  # the second is on the padding
    image, low, high = heat_map(photo, values, mask)
    assert image.size == (48, 64) and (low, high) == (0, 5)
    y, x = np.unravel_index(np.asarray(image).sum(-1).argmax(), (64, 48))
    assert abs(y - 52) <= 4 and abs(x - 12) <= 4


def test_node_graph_draws_nodes_where_they_are():
    photo = np.zeros((64, 64, 3), np.uint8)
    graph = {
        "nodes": np.array([[1, 6], [5, 2]]),
        "valid": np.array([True, False]),
        "senders": np.array([1]),
        "receivers": np.array([0]),
        "edge_valid": np.array([False]),
    }
    image = np.asarray(node_graph(photo, graph, (8, 8), np.ones((64, 64), bool)))
    assert image[12, 52].sum() > 300 and image[44, 20].sum() == 0


def test_thumbnails_outline_the_object():
    photo, mask = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), bool)
    mask[20:60, 30:70] = True
    image = np.asarray(thumbnail(photo, 100, mask))
    assert image[20, 50].sum() and image[40, 31].sum() and not image[40, 50].sum() and not image[5, 5].sum()
    assert thumbnail(np.zeros((10, 400, 3), np.uint8), 96).size == (154, 96)
    assert thumbnail(np.zeros((400, 1, 3), np.uint8), 96).size == (1, 96)


def test_the_table_shows_names_as_they_are(capsys, tmp_path):
    photos = photo_set()
    metrics = ranked(photos).metrics | {"per_instance": {"[red]x[/]": 50.0}}
    print_results(results(metrics, extracted=12), tmp_path)
    shown = capsys.readouterr().out
    assert (
        "[red]x[/]" in shown and "12.5 images/s" in shown and str(tmp_path / "report.html") in shown.replace("\n", "")
    )
    rerank = {"stages": {"sv:100": {"queries": 1.0, "asked": 10, "prepare": 2.0}}}
    print_results(results(metrics, extracted=12, rerank=rerank), tmp_path)
    assert "sv:100: 100.0 ms per query" in capsys.readouterr().out
    print_results(results({}, extracted=0), tmp_path)
    shown = capsys.readouterr().out
    assert "mAP" not in shown and "descriptors reused" in shown


def test_the_head_shows_localization_and_what_re_ranking_changed(tmp_path):
    photos = photo_set(masks=False)
    answers = ranked(photos)
    rerank = {"stages": {}, "before": {"mAP": 33.3, "R@1": 44.4}}
    located = {"discovery": {"strict": {"mIoU": 55.5}, "official": {}}, "sv": {"strict": {}, "official": {}}}
    shown = results(answers.metrics, rerank=rerank, localization=located, instances=0)
    write_report(tmp_path, shown, answers, benchmark(photos), {})
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in ("33.3 before re-ranking", "<b>55.5</b><span>discovery: mIoU, %"):
        assert text in page
    assert "instances</span>" not in page and "sv: mIoU" not in page
    assert page.index("Best queries") < page.index("Seconds per stage")
