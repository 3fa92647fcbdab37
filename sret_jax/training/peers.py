"""Several processes of one run watch each other: the loss of one ends the others soon, with a line that names it.

JAX itself ends a process whose peer is gone by an abort, whose stack names nobody. So it never hears of it: its
coordination service, which runs in process 0, keeps a count of everyone's signs of life, and each process compares. To
that service the others speak through a forwarder in their own process, by which a connection that breaks does not reach
JAX, but the one who can say whose it was.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from jax._src import clusters, distributed

from sret_jax.errors import UserError
from sret_jax.storage.workdir import Workdir, steps_in
from sret_jax.training.stopping import AGAIN, Stopped

BEAT = 1.0  # seconds between two signs of life
SILENCE = 20  # beats without one after which a process counts as lost
GRACE = 3.0  # seconds in which the others hear why process 0, and the service with it, ends
COME = 300  # seconds that all processes have to start
_NEVER = 86_400  # seconds, of JAX's own watch


@contextlib.contextmanager
def together(coordinator: str, processes: int | None, process: int | None, workdir: str | Path) -> Iterator[None]:
    """Joins the processes of a run, and watches them until its end.

    A process that is killed, stopped or cut off ends the others within half a minute, with the exit status `AGAIN` and
    one line: which it was, and how to go on. So does one that a signal ends outside of the steps. One that ends by an
    error ends the others with exit status 1 and that error.

    Args:
      coordinator: HOST:PORT of process 0; or "auto" on a cluster that JAX knows, which also knows the two numbers.
      workdir: of the run, whose last saved step the line names.
    """
    address: str | None = coordinator
    devices: Sequence[int] | None = None
    if coordinator == "auto":
        detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
        address, processes, process, devices = detect(None, None, None, None, None, COME)
    if address is None or processes is None or process is None:
        raise UserError(
            "--coordinator=auto: nothing that JAX knows has started this process, as srun in a job of Slurm, mpirun or "
            "a TPU pod would; give HOST:PORT of process 0, --num_processes and --process_id"
        )
    watch = _Watch(process, processes, address, Path(workdir))
    watch.join(devices)
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        if isinstance(stopped, KeyboardInterrupt) or not stopped.agreed:
            watch.end(str(stopped) or "stopped by SIGINT", AGAIN)
        raise
    except UserError as error:
        watch.end(str(error))
        raise
    except Exception as error:
        time.sleep((SILENCE + 5) * BEAT)  # a connection that broke is how the loss of its other end is noticed first
        watch.end(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        raise
    finally:
        watch.end()


def wait_for_peers(name: str) -> None:
    """Returns when all processes have come to the point called `name`, however long some of them take."""
    client = distributed.global_state.client
    assert client is not None
    client.wait_at_barrier(f"sret_jax {name}", 1000 * _NEVER)


class _Watch:
    """What a process knows of the others."""

    def __init__(self, process: int, processes: int, coordinator: str, workdir: Path):
        self.process, self.processes, self.coordinator, self.workdir = process, processes, coordinator, workdir
        self.names = {other: f"process {other}" for other in range(processes)}
        self.names[0] += f" (coordinator, at {coordinator})"
        self._ended, self._telling = threading.Event(), threading.Lock()
        self._unanswered = 0  # beats since the service has answered last

    def join(self, devices: Sequence[int] | None) -> None:
        """Returns when all processes are there, and begins to watch them."""
        host, _, port = self.coordinator.rpartition(":")
        address, come = self.coordinator, threading.Event()
        if self.process:
            address = f"127.0.0.1:{forwarder((host.strip('[]'), int(port)), self._service_gone)}"
        _in_thread(self._expect, come)
        jax.config.update("jax_enable_preemption_service", False)  # it says what it has not heard, over and over
        jax.distributed.initialize(
            address,
            self.processes,
            self.process,
            devices,
            initialization_timeout=2 * COME,
            coordinator_bind_address=f"[::]:{port}",
            heartbeat_timeout_seconds=_NEVER,
        )
        come.set()
        client = distributed.global_state.client
        assert client is not None
        self._client = client
        client.key_value_set(f"{_NAME}{self.process}", f"pid {os.getpid()} on {socket.gethostname()}")
        for other in self.names:
            self.names[other] = f"process {other} ({client.blocking_key_value_get(f'{_NAME}{other}', 1000 * COME)})"
        _in_thread(self._beat)
        _in_thread(self._listen)

    def _expect(self, come: threading.Event) -> None:
        if not come.wait(COME):
            self._leave(
                f"not all {self.processes} processes have come to {self.coordinator} within {COME} seconds; start each "
                "with the same --coordinator and --num_processes, and its own --process_id",
                1,
            )

    def _beat(self) -> None:
        """Gives signs of life and looks for those of the others; hangs or fails where the service is gone."""
        counts, silent, beat = dict.fromkeys(self.names, ""), dict.fromkeys(self.names, 0), 0
        while not self._ended.wait(BEAT):
            beat += 1
            with contextlib.suppress(Exception):
                self._client.key_value_set(f"{_BEAT}{self.process}", str(beat), allow_overwrite=True)
                found = dict(self._client.key_value_dir_get(_KEYS))
                self._unanswered = 0
                if verdict := found.get(_VERDICT):
                    status, _, said = verdict.partition(" ")
                    self._leave(said, int(status))
                for other, count in counts.items():
                    now = found.get(f"{_BEAT}{other}", "")
                    silent[other] = silent[other] + 1 if now == count and now != _DONE else 0
                    counts[other] = now
                    if silent[other] >= SILENCE:
                        self._lose(other, f"no sign of life for {SILENCE * BEAT:.0f} seconds")

    def _listen(self) -> None:
        """Waits for the service to answer at all. Seconds are counted here: a clock goes on while a process is stopped,
        and whoever is continued would believe that all others were silent."""
        while not self._ended.wait(BEAT):
            self._unanswered += 1
            if self._unanswered > SILENCE:
                self._lose(0, f"no answer for {SILENCE * BEAT:.0f} seconds")

    def _service_gone(self) -> None:
        if not self._ended.wait(GRACE):  # or it has ended because all do
            self._lose(0, "the connection to it broke")

    def _lose(self, other: int, why: str) -> None:
        saved = steps_in(Workdir(self.workdir).checkpoints)
        goes_on = f"after step {saved[-1]}" if saved else "from what is saved"
        line = (
            f"{self.names[other]} is lost: {why}; look at what it said last, end it if it is still there, and start "
            f"all {self.processes} processes again with the same commands: the run goes on {goes_on}"
        )
        self._leave(line, AGAIN, tell=other != 0)

    def _leave(self, line: str, status: int, tell: bool = False) -> None:
        """Ends this process, with everything that waits in it for the others."""
        with self._telling:
            if self._ended.is_set():
                return
            print(f"error: {line}", file=sys.stderr, flush=True)
            if tell:
                self._tell(line, status)
            os._exit(status)

    def _tell(self, line: str, status: int) -> None:
        """Lets the others end with this line and exit status."""
        with contextlib.suppress(Exception):
            self._client.key_value_set(_VERDICT, f"{status} {line}")
        if self.process == 0:
            time.sleep(GRACE)

    def end(self, error: str = "", status: int = 1) -> None:
        """Ends the watch, with the error by which this process ends, if any, and the exit status of the others."""
        with self._telling:
            if self._ended.is_set():
                return
            self._ended.set()
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{_BEAT}{self.process}", _DONE, allow_overwrite=True)
        if error:
            self._tell(f"{self.names[self.process]} ended: {error}", status)


_KEYS = "sret/"
_NAME, _BEAT, _VERDICT, _DONE = f"{_KEYS}name/", f"{_KEYS}beat/", f"{_KEYS}verdict", "done"


def forwarder(address: tuple[str, int], gone: Callable[[], None]) -> int:
    """A local port whose connections lead to `address`.

    Where that end breaks and nobody listens there any more, `gone` is called, and the near end is left open.
    """
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            _in_thread(_relay, listening.accept()[0], address, gone)

    _in_thread(accept)
    return int(listening.getsockname()[1])


def _relay(near: socket.socket, address: tuple[str, int], gone: Callable[[], None]) -> None:
    far = None
    while far is None:
        try:
            far = socket.create_connection(address, timeout=5)
        except OSError:  # process 0 has not begun to listen
            time.sleep(0.2)
            if _is_closed(near):
                near.close()
                return
    far.settimeout(None)
    left = threading.Event()  # whether the near end was the first to go

    def outwards() -> None:
        _pump(near, far)
        left.set()
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)

    _in_thread(outwards)
    _pump(far, near)
    if left.is_set():
        near.close()
        return
    if not _speaks(address):
        gone()
        return
    with contextlib.suppress(OSError):  # only this connection: a new one is made
        near.shutdown(socket.SHUT_RDWR)


def _speaks(address: tuple[str, int]) -> bool:
    """Whether the service is there: of HTTP/2 a server speaks first. A process that dies may still accept."""
    try:
        with socket.create_connection(address, timeout=5) as probe:
            return bool(probe.recv(1))
    except OSError:
        return False


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)


def _is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _in_thread(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()
