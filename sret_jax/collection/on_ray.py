"""A collection described by many machines through Ray: its shards, given to actors that keep the compiled network.

Every machine has to see the photographs and the folder of the collections by the same names. What is described lies in
that folder and nowhere else: an actor or a machine that is lost costs the photographs that it had not committed, and
its shard is given to another one, which goes on there. Run again, the same command describes what is missing.
"""

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sret_jax.collection.collection import Collection
from sret_jax.collection.place import folder_of, read_about
from sret_jax.collection.shard import SHARDS, Shard
from sret_jax.data.sources import source_of
from sret_jax.errors import UserError
from sret_jax.models.weights.shipped import shipped_names
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import InUseError

log = logging.getLogger(__name__)

SHARDS_OF_AN_ACTOR = 4  # by default: the last ones are not waited for long, and few are described again
TRIES = 5  # of one shard on machines that are lost
BUSY_FOR = 60  # times, a second apart, that a shard is found held by a process that is dying
STARTING = 600  # seconds in which an actor has to start


@dataclass(frozen=True)
class Work:
    """What every actor is to describe shards of, as `Collection.open` and `update` take it.

    Paths are absolute, as all machines see them: actors work in folders of their own.
    """

    root: str
    workdir: str
    name: str = ""
    retriever: str | None = None
    local: str | None = None
    forget: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: `refused` says why it was not described, in one line; `busy` that it is held."""

    shard: str
    photos: int = 0
    added: int = 0
    place: str = ""
    refused: str = ""
    busy: bool = False


Tell = Callable[[Outcome, int, int], None]  # of a shard that is described; how many are, and of how many


class Describer:
    """An actor: a network, loaded and compiled once, that describes one shard after the other."""

    def __init__(self, work: Work):
        self.work = work
        self.given: Retriever | str | None = None
        self.retriever: Retriever | None = None

    def place(self) -> str:
        """Where it runs."""
        return f"process {os.getpid()} on {os.uname().nodename}"

    def describe(self, number: int, of: int) -> Outcome:
        """Brings a shard up to date."""
        shard, work = Shard(number, of), self.work
        try:
            self._load()
            opened = Collection.open(
                work.root,
                workdir=work.workdir,
                name=work.name,
                retriever=self.given,
                local=work.local,
                shard=shard,
            )
            if self.retriever is None:
                self.retriever = opened.retriever
            opened.reuse(self.retriever)
            done = opened.update(forget=work.forget)
        except UserError as error:
            said = " ".join(str(error).split())
            return Outcome(str(shard), refused=said, busy=isinstance(error, InUseError))
        return Outcome(str(shard), len(opened.names), len(done.added), self.place())

    def _load(self) -> None:
        """Loads what describes, where it does not come with the package."""
        given = self.work.retriever
        if self.given is not None or given is None:
            return
        if given in shipped_names() and not Path(given).exists():
            self.given = given
        else:
            self.given = self.retriever = load(given)


def index_on_ray(
    work: Work, address: str = "local", shards: int = 0, actors: int = 0, tell: Tell | None = None
) -> Collection:
    """The collection of a folder, described in shards by the machines of a Ray cluster, and merged.

    Args:
      address: of the cluster, "auto" for the one that this machine belongs to, "local" for this machine alone.
      shards: into how many parts the photographs fall; 0: as many as there are already, or four for each actor.
      actors: that describe; 0: one for each GPU, and one for each machine where there is none.
      tell: called after each shard.

    Raises:
      UserError: Ray is not installed or not there, the folder cannot be read, a shard cannot be described, or was lost
        `TRIES` times; whatever `Collection.open`, `update` and `merge` raise. What is described stays.
    """
    folder = folder_of(source_of(work.root), Path(work.workdir), work.name)
    there = {Shard.parse(read_about(p.parent)["shard"]).of for p in folder.glob(f"{SHARDS}/*/collection.json")}
    if shards and (others := there - {shards}):
        before = min(others)
        raise UserError(
            f"{folder / SHARDS}: shards of {before} are there; give --shards={before} to go on with them, or delete "
            "them"
        )
    with _cluster(address) as ray:
        actors = actors or _places(ray)
        of = shards or min(there, default=SHARDS_OF_AN_ACTOR * actors)
        _describe_all(ray, work, of, min(actors, of), tell or (lambda *_: None))
    return Collection.merge(work.root, workdir=work.workdir, name=work.name)


def _describe_all(ray: Any, work: Work, of: int, actors: int, tell: Tell) -> None:
    """Gives each actor one shard at a time until all are described."""
    crew, waiting = _Crew(ray, work), deque(range(of))
    lost, busy = dict.fromkeys(range(of), 0), dict.fromkeys(range(of), 0)
    for _ in range(actors):
        crew.start()
    done = 0
    while done < of:
        while waiting and crew.idle:
            crew.give(waiting.popleft(), of)
        number, outcome = crew.wait()
        if number is None:
            continue
        if isinstance(outcome, str):
            log.warning("shard %d/%d is given to another actor: %s", number, of, outcome)
            waiting.appendleft(number)
            lost[number] += 1
            if lost[number] >= TRIES:
                raise UserError(f"Ray: shard {number}/{of} was lost {TRIES} times, at last: {outcome}")
        elif outcome.busy and busy[number] < BUSY_FOR:  # by a process of a machine that was lost, which is not gone yet
            busy[number] += 1
            time.sleep(1)
            waiting.append(number)
        elif outcome.refused:
            raise UserError(outcome.refused)
        else:
            done += 1
            tell(outcome, done, of)


class _Crew:
    """The actors; one that is lost is replaced where there is a place for another one.

    Attributes:
      idle: those that have nothing to do.
    """

    def __init__(self, ray: Any, work: Work):
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": "SPREAD", "max_restarts": 0}
        self.ray, self.work, self._describer = ray, work, ray.remote(**options)(Describer)
        self.idle: list[Any] = []
        self._working: dict[Any, tuple[Any, int | None]] = {}  # an answer -> the actor, and its shard; None: it starts
        self._failed = 0

    def start(self) -> None:
        actor = self._describer.remote(self.work)
        self._working[actor.place.remote()] = actor, None

    def give(self, number: int, of: int) -> None:
        """Lets an idle actor describe a shard."""
        actor = self.idle.pop()
        self._working[actor.describe.remote(number, of)] = actor, number

    def wait(self) -> tuple[int | None, Outcome | str]:
        """The next shard that was described, or was lost, with the reason in one line; None for an actor that started.

        Raises `UserError` where no actor can be started, or one fails for another reason than that it was lost.
        """
        errors = self.ray.exceptions
        ready, _ = self.ray.wait(list(self._working), num_returns=1, timeout=STARTING)
        if not ready:
            if all(number is None for _, number in self._working.values()):
                raise UserError("Ray: no actor could be started; the cluster has no free processor, see `ray status`")
            return None, ""
        actor, number = self._working.pop(ready[0])
        try:
            outcome = self.ray.get(ready[0])
        except errors.RayTaskError as error:
            raise UserError(f"Ray: a shard could not be described: {_last_line(error)}") from error
        except errors.RayError as error:  # the actor, its machine, or the way there was lost
            self.start()
            if number is not None:
                return number, _last_line(error)
            self._failed += 1
            if self._failed >= TRIES:
                raise UserError(f"Ray: no actor could be started: {_last_line(error)}") from error
            return None, ""
        self.idle.append(actor)
        return (None, "") if number is None else (number, outcome)


def _places(ray: Any) -> int:
    """How many actors describe by default."""
    there = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return max(1, int(ray.cluster_resources().get("GPU", 0)) or len(there))


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected. Raises `UserError` where it is not installed, or no cluster is at this address."""
    try:
        import ray
    except ImportError as error:
        raise UserError(f'--ray: Ray is not installed: pip install "sret_jax[ray]" ({error})') from None
    mine = not ray.is_initialized()
    if mine:
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--ray={address}: no Ray cluster there ({_last_line(error)}); `ray start --head` starts one, and "
                "--ray=local needs none"
            ) from None
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _last_line(error: BaseException) -> str:
    """What an error of Ray says, of which the reason comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
