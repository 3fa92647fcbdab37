"""Photographs with names that try to do harm, their rankings and results, and the elements of a report's page."""

import io
from functools import partial
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.request import Request
from sret_jax.evaluation.results import Results
from sret_jax.evaluation.scorers import InstanceScorer, Scores
from tests.support.answers import scored
from tests.support.twins import search_over

EVIL = ['<script>alert("x")</script>', "a & b'\"><img src=x onerror=alert(1)>", "na\udcefve\n{}", "dôme"]


def photo_set(masks: bool = False, labelled: bool = True) -> PhotoSet:
    rng = np.random.default_rng(0)
    records, names, sizes = [], [], []
    for i in range(12):
        size = [(40, 60), (60, 40), (50, 50), (20, 90)][i % 4]
        data, mask = io.BytesIO(), io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(data, "PNG")
        marked = np.zeros(size, np.uint8)
        marked[5:15, 5:15] = 255
        Image.fromarray(marked).convert("1").save(mask, "PNG")
        records.append({"image": data.getvalue()} | ({"mask": mask.getvalue()} if masks else {}))
        names.append(f"{EVIL[i // 3]}/{i}.png")
        sizes.append(size)
    labels = np.repeat(np.arange(4), 3).astype(np.int32) if labelled else np.full(12, -1, np.int32)
    instances = EVIL if labelled else []
    return PhotoSet(
        "evil", names, labels, instances, np.array(sizes, np.int32), [str(i) for i in range(12)], records, []
    )


def ranked(photos: PhotoSet, spread: float = 1.0) -> Scores:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 6))[photos.labels] + spread * rng.normal(size=(12, 6))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return scored(InstanceScorer(photos.labels, photos.instances), search_over(x), x)


def benchmark(photos: PhotoSet, queries: PhotoSet | None = None) -> Benchmark:
    scorer = partial(InstanceScorer, photos.labels, photos.instances, queries and queries.labels)
    return Benchmark("folder", photos, [], photos, queries, scorer, "<i>root</i>", Request())


def results(metrics: dict, **other) -> Results:
    settings = {
        "before_training": {"mAP": 12.3, "R@1": 45.6} if metrics else {},
        "timings": {"extract": 3.21, "search": 0.05},
        "images_per_second": 12.5,
        "photos": 12,
        "instances": 4,
        "skipped": 2,
        "searched": "<i>root</i>",
        "queries_from": "",
        "index": "exact",
        "rerank": {},
        "localization": {},
        "commit": "abc123",
        "versions": {"jax": "0"},
        "device": "cpu",
    }
    return Results("folder", metrics=metrics, **(settings | other))


class Elements(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts, self.sources, self.links = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.sources += [value for name, value in attrs if name == "src"]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        self.texts.append(data)
