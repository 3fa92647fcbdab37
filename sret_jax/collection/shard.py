"""A part of a folder's photographs, described by a process that knows nothing of those that describe the others.

A shard is a collection of its own, of the photographs whose names fall to it. It can be killed, described again on
another machine, brought up to date and searched as any other. Its folder lies in that of the collection that it is a
part of: `<workdir>/<name>/shards/<number>-of-<of>`.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from sret_jax.errors import UserError

SHARDS = "shards"  # folder of those of a collection
NOTES = "archives"  # folder with what archives elsewhere hold, see `data.sources`
# Number and count of one process of many, as Slurm's arrays and tasks and Open MPI say them.
PLACES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "", "OMPI_COMM_WORLD_SIZE"),
)


@dataclass(frozen=True)
class Shard:
    """One of `of` parts, from 0 on.

    Which part a photograph falls to depends on its name alone, or on that of its archive, which one part reads whole.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> "Shard":
        """The shard "number/of", or "auto": what Slurm or Open MPI say that this process is.

        Raises `UserError` for another text, or where nothing says it.
        """
        if text == "auto":
            for number, first, of in PLACES:
                if number in environment and of in environment:
                    start = int(environment.get(first, 0)) if first else 0
                    return cls.parse(f"{int(environment[number]) - start}/{environment[of]}")
            raise UserError("--shard=auto: neither Slurm nor Open MPI says which part this is; give --shard=NUMBER/OF")
        number, _, of = text.partition("/")
        if not (number.isascii() and number.isdigit() and of.isascii() and of.isdigit()) or int(number) >= int(of):
            raise UserError(f"--shard={text}: give NUMBER/OF with a number from 0 on, as 0/100 to 99/100, or auto")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        return f"{self.number:0{len(str(self.of - 1))}d}-of-{self.of}"

    def has(self, name: str) -> bool:
        """Whether the file of this name falls to it, a photograph or an archive of many."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number
