"""Where a run keeps what: every path in a workdir is named here and nowhere else.

config.json  metrics.jsonl  tensorboard/       what was run, and how it went
curve.png                                      the same as a picture
checkpoints/<step>/                            everything needed to go on exactly
data/                                          prepared photographs, and maps that training keeps of them
descriptors/<photos>/  index/<database>/       global descriptors and the index over them
local/<photos>/<source>/                       local features
local/<photos>/words/                          or, where ASMK alone reads them, the words and signs they amount to
asmk/codebook/  asmk/<database>/               visual words and inverted files
maps/<photos>/<source>/                        feature maps, for localization
rerank/                                        what re-rankers compute before the first query
eval/<benchmark>/                              results, rankings, report
"""

from dataclasses import dataclass
from pathlib import Path

RECORD = "record.json"  # in a checkpoint: its config, its position in the data, its devices
UNTRAINED = "-untrained"
COLLECTIONS = Path("runs/collections")  # each in a folder of its own: `collection/store.py`


@dataclass(frozen=True)
class Workdir:
    """The paths of one run.

    tag     ends the names of what a second network, measured in the same workdir, leaves there: `UNTRAINED`, or ""
    shared  of a run that may only be read: what it has stored is used, and what it lacks is kept here; or None
    """

    root: Path
    tag: str = ""
    shared: Path | None = None

    def in_shared(self, path: Path) -> Path | None:
        """Where the run that is shared has what is here at `path`."""
        return self.shared / path.relative_to(self.root) if self.shared else None

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def curve(self) -> Path:
        return self.root / "curve.png"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / str(step)

    @property
    def data(self) -> Path:
        return self.root / "data"

    def descriptors(self, photos: str) -> Path:
        return self.root / "descriptors" / (photos + self.tag)

    def index(self, database: str) -> Path:
        return self.root / "index" / (database + self.tag)

    def local_features(self, photos: str, source: str) -> Path:
        return self.root / "local" / (photos + self.tag) / source

    def visual_words(self, photos: str) -> Path:
        return self.root / "local" / (photos + self.tag) / "words"

    @property
    def codebook(self) -> Path:
        return self.root / "asmk" / f"codebook{self.tag}"

    def inverted_file(self, database: str) -> Path:
        return self.root / "asmk" / (database + self.tag)

    def maps(self, photos: str, source: str) -> Path:
        return self.root / "maps" / (photos + self.tag) / source

    @property
    def reranking(self) -> Path:
        return self.root / f"rerank{self.tag}"

    def evaluation(self, benchmark: str) -> Path:
        return self.root / "eval" / (benchmark + self.tag)


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the folder of one step, not a workdir."""
    return (path / RECORD).exists()


def steps_in(checkpoints: Path) -> list[int]:
    """The steps in a folder of checkpoints, rising."""
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdigit())
