"""Published numbers to stand beside ours, with where each was read. Their protocol is the benchmark's own unless named.

They are other people's measurements on other machines: environments alone have moved such numbers by several points.
"""

from typing import Any, NamedTuple

SETS = ("easy", "medium", "hard")
PRIVATE, PUBLIC = "mAP@100 private", "mAP@100 public"
FEWEST = 900_000  # distractors that stand for the published sets, of which some photographs have gone


class Anchor(NamedTuple):
    benchmark: str
    distractors: bool  # with the million of Revisiting Oxford and Paris, or the hundred million of ILIAS
    protocol: str  # "standard", or the deviation as eval.py names it
    method: str
    metrics: dict[str, float]  # percent
    source: str


def _revisited(
    method: str,
    source: str,
    oxford: tuple[float, ...],
    paris: tuple[float, ...],
    distractors: bool = False,
    protocol: str = "standard",
) -> list[Anchor]:
    """Two numbers are medium and hard, three easy, medium and hard."""
    return [
        Anchor(name, distractors, protocol, method, dict(zip(SETS[-len(x) :], x, strict=True)), source)
        for name, x in (("roxford5k", oxford), ("rparis6k", paris))
    ]


_CIRTORCH = "cnnimageretrieval-pytorch, README"
_SOLAR = "SOLAR, README"
_DOLG = "DOLG, README, corrected by its authors"
_TOKEN = "Token, README, AAAI 2022"
_LYAKAAP = "Landmark2019-1st-and-3rd-Place-Solution, README"

ANCHORS: list[Anchor] = [
    *_revisited(
        "R-[37]-GeM, the authors' features", "revisitop, example_evaluate", (84.81, 64.67, 38.47), (92.12, 77.20, 56.32)
    ),
    *_revisited("R101-GeM, GLDv1", _CIRTORCH, (67.3, 44.3), (80.6, 61.5)),
    *_revisited("R101-GeM, rSfM-120k", _CIRTORCH, (67.8, 41.7), (77.6, 56.3)),
    *_revisited("R101-GeM, SfM-120k, learned whitening", _CIRTORCH, (65.4, 40.1), (76.7, 55.2)),
    *_revisited("R101-AP-GeM, Landmarks-clean", "deep-image-retrieval, README", (67.1, 42.3), (80.3, 60.9)),
    *_revisited("SOLAR R101, GLDv1", _SOLAR, (85.88, 69.90, 47.91), (92.95, 81.57, 64.45)),
    *_revisited("R50-HOW-ASMK, n=2000", "HOW, README; DOLG, table 1", (79.4, 56.9), (81.6, 62.4)),
    *_revisited("R101-GeM ArcFace, GLDv2-clean, cropping not stated", _LYAKAAP, (77.97, 58.94), (89.1, 78.13)),
    *_revisited("Token R101", _TOKEN, (82.16, 65.75), (89.40, 78.44)),
    *_revisited("DOLG R101", _DOLG, (82.37, 64.93), (90.97, 81.71)),
    *_revisited("SOLAR R101, GLDv1", _SOLAR, (72.04, 53.49, 29.89), (83.35, 59.19, 33.41), True),
    *_revisited("Token R101", _TOKEN, (70.58, 47.46), (77.24, 56.81), True),
    *_revisited("DOLG R101", _DOLG, (73.63, 51.57), (80.44, 62.95), True),
    *_revisited("DOLG R101", _DOLG, (83.22, 64.83), (91.64, 82.56), protocol="compat:uncropped"),
    *_revisited("DOLG R101", _DOLG, (78.96, 57.86), (82.89, 67.34), True, "compat:uncropped"),
    *_revisited("CGD EfficientNet-B3", "CGD, README", (82.38, 64.37), (90.44, 80.19), protocol="compat:uncropped"),
    Anchor("gldv2", False, "standard", "R101 ArcFace, GLDv1 + v2-clean", {PRIVATE: 30.22, PUBLIC: 27.81}, _LYAKAAP),
    Anchor("gldv2", False, "standard", "R101 ArcFace, GLDv2-clean", {PRIVATE: 28.83}, _LYAKAAP),
    Anchor("ilias", True, "standard", "ResNet-101, ImageNet", {"mAP@1000": 1.8}, "ilias-1k.netlify.app"),
]


def published(benchmark: str, distractors: int, protocol: str) -> list[dict[str, Any]]:
    """What was measured on a benchmark under one protocol, as results.json lists it.

    Args:
      benchmark: its name.
      distractors: photographs searched beside its own; nothing was published with a few of them.
      protocol: "standard" or "compat:...".
    """
    million = distractors > FEWEST
    return [
        {"method": a.method, "metrics": a.metrics, "source": a.source}
        for a in ANCHORS
        if (a.benchmark, a.distractors, a.protocol) == (benchmark, million, protocol) and (million or not distractors)
    ]
