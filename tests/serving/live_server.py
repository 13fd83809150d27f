"""A Triton server as a child process, started by the command that users call."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@dataclass
class Live:
    """`ovavss serve` as a child process; may be stopped and started again at the same ports."""

    engines: Path
    work: Path
    ports: list[int] = field(default_factory=lambda: free_ports(3))

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.ports[0]}"

    def start(self) -> "Live":
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ovavss", "serve", "--engines", str(self.engines), "--work", str(self.work),
             "--port", str(self.ports[0]), "--http-port", str(self.ports[1]), "--metrics-port", str(self.ports[2])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        first = self.process.stdout.readline()
        assert first.startswith(f"serving at {self.url}"), first + self.process.stderr.read()
        self.told: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append(line)

    def stop(self) -> None:
        memory = self.shared_memory()
        assert list(Path("/dev/shm").glob(memory))
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        assert not self.pids(self.process.pid)
        assert not list(Path("/dev/shm").glob(memory))

    def pids(self, parent: int) -> dict[int, str]:
        """Children of a process that are alive, with their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return {pid: words for pid, words in found.items() if words}

    def server(self) -> tuple[int, str]:
        """Process id and command line of Triton."""
        (found,) = (item for item in self.pids(self.process.pid).items() if "tritonserver" in item[1])
        return found

    def shared_memory(self) -> str:
        """A pattern of the files of this server under /dev/shm; other servers have files of their own."""
        return self.server()[1].split("shm-region-prefix-name=")[1].split()[0] + "*"

    def steps(self) -> dict[str, int]:
        """Process ids of the Python steps, by model."""
        server, _ = self.server()
        repository = f"{self.work.resolve()}/repository/"
        return {
            words.split(repository)[1].split("/")[0]: pid
            for pid, words in self.pids(server).items()
            if repository in words
        }

    def memory(self) -> int:
        """Bytes that the server and its steps hold."""
        server, _ = self.server()
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (server, *self.steps().values()))
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self) -> str:
        return (self.work / "server.log").read_text(errors="replace")


def wait_until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
