"""What is known of a measurement, as `results.json` holds it."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sret_jax.storage.artifacts import DamagedError, read_sealed, write_sealed
from sret_jax.storage.provenance import environment

log = logging.getLogger(__name__)

FILE = "results.json"
ABSENT: Any = None  # of a field that does not apply


@dataclass
class Results:
    """The fields of `results.json`. What does not apply is `ABSENT`, and not in the file.

    benchmark          its name
    metrics            percent: `{"mAP", "R@1", "queries", "per_instance"}`, or of benchmarks like "roxford5k` `{"easy",
                       "medium", "hard": {"mAP", "mP@1", "mP@5", "mP@10", "queries"}, "mAP" (medium), "queries",
                       "per_query" (AP, medium)}`
    timings            seconds by name of what was done
    images_per_second  described, compilation left out; 0 when the store had everything
    extracted          photographs described in this evaluation
    photos, instances, skipped   of the database: how many, and files that could not be used
    searched, queries_from       what database and queries are, in words
    index, dim         how was searched, in words, and the dimensions of what was compared
    index_recall       what an approximate index finds of the exact answers, percent; {} of an exact one
    rerank             seconds of each re-ranker, the metrics before all of them, and how well an uncertainty that they
                       found predicts the AP
    localization       metrics and photographs per second of each method
    fingerprint, photo_fingerprint   of the descriptors (of local features, where ASMK searches alone), and the database
    retriever          fingerprint of what described them, whichever photographs they are
    step               of training, whose network it was
    photographs        which version of them it is, as far as anybody has noted
    distractors        how many of each set were searched as well
    protocol, compat   a protocol that deviates, in words and by name; of benchmarks like "roxford5k"
    ground_truth, ranked         which version, and how many photographs were ranked, in words
    anchors            published numbers
    config             of the network and of the evaluation
    rankings, marks, marked      the files that something else made, and how many pairs the marks cover
    commit, versions, device     what computed it
    before_training    mAP and R@1 of these photographs at the start of the run, where they were measured
    """

    benchmark: str
    metrics: dict[str, Any] = ABSENT
    timings: dict[str, float] = ABSENT
    images_per_second: float = ABSENT
    extracted: int = ABSENT
    photos: int = ABSENT
    instances: int = ABSENT
    skipped: int = ABSENT
    searched: str = ABSENT
    queries_from: str = ABSENT
    index: str = ABSENT
    index_recall: dict[str, float] = ABSENT
    rerank: dict[str, Any] = ABSENT
    localization: dict[str, Any] = ABSENT
    dim: int = ABSENT
    fingerprint: str = ABSENT
    photo_fingerprint: str = ABSENT
    retriever: str = ABSENT
    step: int | None = ABSENT
    photographs: str = ABSENT
    distractors: dict[str, int] = ABSENT
    protocol: str = ABSENT
    compat: str = ABSENT
    ground_truth: str = ABSENT
    ranked: str = ABSENT
    anchors: list[dict[str, Any]] = ABSENT
    config: dict[str, Any] = ABSENT
    rankings: str = ABSENT
    marks: str = ABSENT
    marked: str = ABSENT
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    before_training: dict[str, float] = ABSENT

    def __post_init__(self) -> None:
        if not self.versions:
            for name, value in environment().items():
                setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not ABSENT}

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_sealed(folder / FILE, self.to_dict())


def read_results(folder: Path) -> Results | None:
    """The results that were written to `folder`; None where there are none that this version can read.

    Damaged ones are none, which is said in one line.
    """
    try:
        found = Results(**read_sealed(folder / FILE))
        if not isinstance(found.metrics or {}, dict) or not isinstance(found.benchmark, str):
            raise TypeError
    except DamagedError as error:
        log.warning("%s; these results are left out, evaluate again", error)
        return None
    except FileNotFoundError:
        if folder.is_dir():
            log.warning("%s: holds no %s; these results are left out, evaluate again", folder, FILE)
        return None
    except (OSError, TypeError):  # of a version with other fields
        return None
    return found
