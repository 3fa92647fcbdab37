"""What is frozen, as data, and the one function that measures it with the present interface."""

import base64
import csv
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.config import Config
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.external import scoring
from sret_jax.evaluation.request import Request
from sret_jax.evaluation.run import evaluate
from sret_jax.localization.methods import METHODS
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import read_sealed
from tests.golden.miniatures import MINIATURES, NETWORK, learned_whitening, mask, variables

SETTINGS = {
    "data.image_size": 64,
    "data.bucket_ratios": (),
    "data.threads": 1,
    "extract.batch_size": 4,
    "local.most": 60,
    "rerank.trials": 200,
    "rerank.trusted": 3,
    "localize.image_size": 64,
    "localize.query_size": 64,
    "localize.inliers": 4,
    "eval.synthetic_instances": 3,
    "eval.synthetic_photos": 3,
}
EVERYWHERE = (
    "everything",
    "lost",
    "lost_inwards",
    "query_lost",
    "seed_lost",
    "discovery",
    "regions",
    "dense",
    "sv",
    "sv+discovery",
)
OWN = {"local.source": "head", "local.scales": (1.0, 0.5)}  # local features of the network instead of SIFT


@dataclass(frozen=True)
class Measured:
    """A network measured on a benchmark. {root} stands for the miniature's folder."""

    miniature: str
    benchmark: str = ""  # default: as the miniature
    settings: dict[str, Any] = field(default_factory=dict)  # beside SETTINGS
    options: dict[str, Any] = field(default_factory=dict)
    whitened: bool = False  # by a whitening learned after training
    repeatable: bool = True  # bit for bit by the same code on the same machine
    names: bool = False  # also the names of the fields of results.json


@dataclass(frozen=True)
class Scored:
    """Rankings or marks that something else made, scored on a benchmark."""

    miniature: str
    benchmark: str
    file: str  # its name
    content: Any  # text, an array or dict for .npy, or {file: box} for a folder of masks
    kind: str = "rankings"  # or "marks"
    rankings: Any = None  # of marks: an array
    options: dict[str, Any] = field(default_factory=dict)
    names: bool = False


def _reranked(*stages: str, miniature: str = "folder", **settings: Any) -> Measured:
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return Measured(miniature, settings={"rerank.stages": stages} | settings)


def _searched(method: str, miniature: str = "crowd", **settings: Any) -> Measured:
    settings = {f"search.{name}": value for name, value in settings.items()}
    if method == "asmk":
        settings |= {"local.scales": (1.0, 0.5)}
    benchmark = "" if miniature in ("roxford5k", "gldv2") else "folder"
    return Measured(miniature, benchmark, {"search.method": method} | settings)


def _located(miniature: str, benchmark: str = "", *methods: str, **options: Any) -> Measured:
    return Measured(miniature, benchmark, {"localize.methods": methods or EVERYWHERE}, options)


def _with(case: Measured, names: bool = False, **settings: Any) -> Measured:
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return replace(case, settings=case.settings | settings, names=names)


PHOTOS = {"root": "{root}/photos"}
GND = {"gnd": "{root}/gnd_own.json"}

BENCHMARKS = {
    "synthetic": Measured("synthetic"),
    "folder": Measured("folder", names=True),
    "folder-split": Measured(
        "halves", "folder", {"data.root": "{root}/photos", "data.splits": "{root}/splits.json"}, {"root": ""}
    ),
    "folder-queries": Measured("halves", "folder", options=PHOTOS | {"queries": "{root}/queries"}),
    "folder-distractors": Measured("halves", "folder", options=PHOTOS | {"distractors": ["{root}/others"]}),
    "folder-unlabelled": Measured("asked", "folder", options=PHOTOS | {"queries": "{root}/mine"}),
    "roxford5k": Measured("roxford5k", names=True, options={"anchors": True}),
    "rparis6k": Measured("rparis6k"),
    "revisited": Measured("revisited", options=GND),
    "proxford": Measured("roxford5k", "proxford"),
    "prparis": Measured("rparis6k", "prparis"),
    "gldv2": Measured("gldv2", names=True),
    "ilias": Measured("ilias"),
    "paintings": Measured("paintings"),
    "roxford5k+1m": Measured("roxford5k", "roxford5k+1m"),
    "gldv2+1m": Measured("gldv2", "gldv2+1m"),
    "uncropped": Measured("roxford5k", options={"protocol": "compat:uncropped"}),
    "junk-first": Measured(
        "roxford5k", "roxford5k+1m", {"rerank.stages": ("alpha_qe:2",)}, {"protocol": "compat:junk-first"}
    ),
    "ranked": Measured("roxford5k", "roxford5k+1m", {"eval.ranked": 4}),
}
SEARCHES = {
    "exact": _searched("exact"),
    "exact-in-parts": _searched("exact", chunk_rows=5),
    "brute_force": _searched("brute_force"),
    "ah": _searched("ah"),
    "ah-reorder": _searched("ah", reorder=4),
    # ScaNN draws its leaves anew every time: all are searched, and scores are summed in whatever order they are in.
    "tree_ah": replace(_searched("tree_ah", leaves_to_search=8), repeatable=False),
    "asmk": _searched("asmk", words=11),
    "asmk-real": _searched("asmk", words=12, binary=False, assignments=2),
    "asmk-roxford5k": _searched("asmk", "roxford5k", words=6),
    "asmk-gldv2": _searched("asmk", "gldv2", words=6),
}
RERANKINGS = {
    "sv": _reranked("sv:6"),
    "sv-homography": _reranked("sv:6", rerank__transform="homography", rerank__mutual=False, rerank__ratio=0.8),
    "sv-own-features": _reranked("sv:6", **OWN),
    "aqe": _reranked("aqe:2"),
    "alpha_qe": _reranked("alpha_qe:2"),
    "dba": _reranked("dba:3"),
    "superglobal": _reranked("superglobal:8", rerank__neighbours=3),
    "diffusion": _reranked("diffusion:4", rerank__diffusion_queries=3),
    "hypergraph": _reranked("hypergraph:9", rerank__inliers=4),
    "hypergraph-compat": _reranked("hypergraph:9", rerank__inliers=4, rerank__compat=True),
    "chain": _with(_reranked("sv:6", "alpha_qe:3"), names=True),
    "sv-roxford5k": _reranked("sv:5", miniature="roxford5k"),
    "hypergraph-roxford5k": _reranked("hypergraph:5", miniature="roxford5k", rerank__inliers=5),
    "chain-roxford5k": _reranked("dba:3", "superglobal:6", "diffusion:4", miniature="roxford5k", rerank__neighbours=3),
}
LOCALIZATIONS = {
    "where-proxford": _with(_located("roxford5k", "proxford"), names=True),
    "where-paintings": _with(_located("paintings"), localize__refine="guided"),
    "where-synthetic": _located("synthetic"),  # of photographs that are made smaller to be refined
    "where-folder": _located("uneven", "folder", **PHOTOS, masks="{root}/photos-masks"),
    "where-own-features": _with(
        _located("roxford5k", "proxford", "sv", "sv+discovery"), **OWN, localize__source="backbone"
    ),
    "where-reranked": _with(
        _located("roxford5k", "proxford", "discovery"), localize__refine="none", rerank__stages=("alpha_qe:2",)
    ),
    "where-asked": _located("asked", "folder", **PHOTOS, queries="{root}/mine", regions="{root}/regions.json"),
}
DESCRIPTORS = {
    "scales": Measured("revisited", settings={"extract.scales": (1.0, 0.5)}, options=GND),
    "scales-gem": Measured(
        "revisited", settings={"extract.scales": (1.0, 0.5), "extract.scale_pooling": "gem"}, options=GND
    ),
    "scales-power3": Measured(
        "revisited", settings={"extract.scales": (1.0, 0.5), "extract.scale_pooling": "power3"}, options=GND
    ),
    "scales-of-input": Measured(
        "folder",
        settings={"extract.scales": (1.0, 0.5), "extract.scale_pooling": "max", "extract.resized": "tensor"},
    ),
    "whitened": Measured("revisited", options=GND, whitened=True),
    "buckets": Measured("folder", settings={"data.bucket_ratios": (0.75,), "extract.chunk_rows": 5}),
    "not-enlarged": Measured("ilias", settings={"data.image_size": 96, "data.enlarge": False}),
}

_ENTRIES = [
    {"category_id": 0, "image_id": 0, "bbox": [10, 5, 60, 60]},
    {"category_id": "query_0", "image_id": "photo_3", "segmentation": [[20, 10, 90, 12, 80, 80, 22, 70]], "score": 0.9},
    {"category_id": 0, "image_id": 3, "bbox": [0, 0, 9, 9], "score": 0.1},
    {"category_id": 1, "image_id": 1, "segmentation": {"size": [96, 128], "counts": [1000, 60, 36, 60, 36, 70, 11026]}},
    {"category_id": 2, "image_id": 5, "bbox": [30, 20, 64, 70]},
]
_POLYGONS = {
    f"qimlist_{q}_imlist_{i}": [[8 * q, 4 * i], [90, 3 * i], [80 + q, 80], [5, 70 - i]]
    for q in range(3)
    for i in (q, q + 3)
}
SCORED = {
    "ranks-roxford5k": Scored(
        "roxford5k", "roxford5k", "r.npy", [[0, 1, 9], [4, 3, 2], [5, 4, 8], [3, 0, 5]], names=True
    ),
    "ranks-rparis6k": Scored("rparis6k", "rparis6k", "r.npy", [[8, 1, 2], [0, 10, 5], [3, 4, -1]]),
    "ranks-proxford": Scored("roxford5k", "proxford", "r.npy", [[0, 1, 2], [3, 4, 5]]),
    "ranks-gldv2": Scored(
        "gldv2", "gldv2", "s.csv", "id,images\na0cdef0123456789,1b1def0123456789 0b0def0123456789 6b6def0123456789\n"
    ),
    "recognition-gldv2": Scored("gldv2", "gldv2", "s.csv", "id,landmarks\na,7 0.5\nb,9 0.9\nc,4 0.7\nd,\n"),
    "ranks-ilias": Scored(
        "ilias",
        "ilias",
        "s.csv",
        "id,images\nbold_bimp_000/query/Q000_00,zippy_zoot_999/pos/P001_00 bold_bimp_000/pos/P000_01\n"
        "zippy_zoot_999/query/Q001_00,zippy_zoot_999/pos/P001_02\n",
    ),
    "ranks-paintings": Scored(
        "paintings", "paintings", "s.csv", "id,images\ndb/p_0.png,walls/3.png walls/2.png\ndb/p_1.png,walls/1.png\n"
    ),
    "ranks-folder": Scored(
        "halves",
        "folder",
        "s.csv",
        'id,images\ntower 0/0.png,"""tower 1/1.png"" ""tower 0/2.png"" ""tower 0/1.png"""\ntower 1/0.png,\n',
        options=PHOTOS | {"queries": "{root}/queries"},
    ),
    "marks-coco": Scored(
        "roxford5k",
        "proxford",
        "m.json",
        json.dumps(_ENTRIES),
        "marks",
        [[0, 1, 5], [4, 4, 2], [3, 7, 8], [6, 2, 0]],
        names=True,
    ),
    "marks-polygons": Scored("rparis6k", "prparis", "m.npy", _POLYGONS, "marks", [[0, 1, 5], [3, 4, 2]]),
    "marks-pictures": Scored(
        "paintings", "paintings", "masks", {"0_0.png": (3, 4, 70, 60), "1_1.png": (20, 10, 100, 90)}, "marks"
    ),
}
CASES: dict[str, Measured | Scored] = BENCHMARKS | SEARCHES | RERANKINGS | LOCALIZATIONS | DESCRIPTORS | SCORED


def outcome(case: Measured | Scored, folder: Path) -> dict[str, Any]:
    """What comes out, as JSON values: from the files that are left in `folder`, but for the masks, which are not
    written of every benchmark and are caught on the way.

    This is the only place that knows the interface; its values and their names in the frozen files do not change.
    """
    root = MINIATURES[case.miniature](folder / "root")
    options = {"root": "{root}"} | case.options
    options = {name: _placed(value, root) for name, value in options.items()}
    out = folder / "run/eval" / (case.benchmark or case.miniature)
    if isinstance(case, Scored):
        file, request, cache = _written(case, folder), Request(**options), folder / "cache"
        if case.kind == "rankings":
            scoring.score_rankings(case.benchmark, file, out, request, cache_dir=cache)
        else:
            rankings = ""
            if case.rankings is not None:
                rankings = str(folder / "ranks.npy")
                np.save(rankings, np.array(case.rankings))
            scoring.score_marks(case.benchmark, file, out, request, cache, rankings)
        return _read(out, case.names)
    settings = {name: _placed(value, root) for name, value in (SETTINGS | case.settings).items()}
    whitening = LearnedWhitening(*learned_whitening()) if case.whitened else None
    retriever = Retriever(NETWORK, variables(), _config(settings), whitening)
    options |= {"root": ""} if case.miniature == "synthetic" else {}
    measured = {name: options.pop(name) for name in ("anchors", "regions") if name in options}
    name, cache = case.benchmark or case.miniature, folder / "cache"
    with _marks() as marks:
        benchmark = open_benchmark(name, **options, config=retriever.config, cache=cache)
        evaluate(retriever, benchmark, out, workdir=folder / "run", **measured)
    found = _read(out, case.names)
    stores = sorted((folder / "run/descriptors").glob("*"))  # there are none where local features alone are searched
    named = {f"{name}-queries" if store.name.endswith("-queries") else store.name: store for store in stores}
    found["descriptors"] = {own: _packed(sorted(store.glob("[0-9]*.npy"))) for own, store in named.items()}
    return found | ({"marks": marks} if marks else {})


def _placed(value: Any, root: Path) -> Any:
    if isinstance(value, list):
        return [_placed(one, root) for one in value]
    return value.replace("{root}", str(root)) if isinstance(value, str) else value


def _config(settings: dict[str, Any]) -> Config:
    config = Config()
    for name, value in settings.items():
        section, one = name.split(".")
        part = getattr(config, section)
        assert one in {f.name for f in fields(part)}, name
        config = replace(config, **{section: replace(part, **{one: value})})
    return config


def _written(case: Scored, folder: Path) -> Path:
    file = folder / case.file
    if file.suffix == ".npy":
        np.save(file, np.array(case.content) if isinstance(case.content, list) else case.content)
    elif isinstance(case.content, dict):
        for name, box in case.content.items():
            mask(file / name, box)
    else:
        file.write_text(case.content)
    return file


@contextmanager
def _marks() -> Iterator[dict[str, dict[str, str]]]:
    """Fills {method: {"<query> <photo>": sha256 of the mask's bits}} while it is open."""
    marks: dict[str, dict[str, str]] = {}
    before = dict(METHODS)

    def watched(method: str):
        def locate(localizer, query, rows):
            found = before[method](localizer, query, rows)
            if len(set(rows)) == len(rows):  # else it only compiles
                own = marks.setdefault(method, {})
                for row, one in zip(rows, found, strict=True):
                    bits = np.packbits(one.mask).tobytes() + str(one.mask.shape).encode()
                    own.setdefault(f"{query} {row}", hashlib.sha256(bits).hexdigest()[:16])
            return found

        return locate

    METHODS.update({method: watched(method) for method in before})
    try:
        yield marks
    finally:
        METHODS.update(before)


VALUES = (
    "benchmark metrics extracted photos instances skipped index_recall dim distractors compat before_training anchors"
).split()


def _read(out: Path, names: bool) -> dict[str, Any]:
    results = read_sealed(out / "results.json")
    found: dict[str, Any] = {"results": {name: results[name] for name in VALUES if name in results}}
    if reranked := results.get("rerank"):
        found["results"]["rerank"] = {"before": reranked["before"], "uncertainty": reranked["uncertainty"]}
    for method, of in results.get("localization", {}).items():
        measured = {rules: values for rules, values in of.items() if rules != "photos_per_second"}
        found["results"].setdefault("localization", {})[method] = measured
    if names:
        nested = [f"{name}.{key}" for name, value in results.items() if isinstance(value, dict) for key in value]
        found["names"] = " ".join(sorted([*results, *(name.replace(" ", "_") for name in nested)]))
    for file, read in READ.items():
        if (out / file).exists():
            found[file] = read(out / file)
    for file in sorted(out.glob("marks-*.npy")):
        pairs = np.load(file, allow_pickle=True).item()
        found[file.name] = {pair: _words(np.ravel(points)) for pair, points in pairs.items()}
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _words(values: Any) -> str:
    return " ".join(map(str, values))


def _rankings(path: Path) -> dict[str, Any]:
    """For every query its photographs, by number in the sorted list of all, and their scores as they are printed."""
    rows = _rows(path)
    photos = sorted({row["photo"] for row in rows})
    out: dict[str, Any] = {"": photos}
    for query in dict.fromkeys(row["query"] for row in rows):
        own = [row for row in rows if row["query"] == query]
        assert [row["rank"] for row in own] == [str(i + 1) for i in range(len(own))]
        out[query] = [_words(photos.index(row["photo"]) for row in own), _words(row["score"] for row in own)]
    return out


def _packed(chunks: list[Path]) -> list[Any]:
    """The shape and the bytes, little-endian float32, of an array in chunks."""
    array = np.concatenate([np.load(chunk) for chunk in chunks])
    assert array.dtype == np.float32
    return [list(array.shape), base64.b64encode(array.astype("<f4").tobytes()).decode()]


def unpacked(packed: list[Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed[1]), "<f4").reshape(packed[0])


READ = {
    "rankings.csv": _rankings,
    "queries.csv": lambda path: {row["query"]: row["AP"] for row in _rows(path)},
    "ranks.npy": lambda path: [_words(row) for row in np.load(path)],
    "submission.csv": lambda path: path.read_text().splitlines(),
    "skipped.json": lambda path: json.loads(path.read_text()),
}
