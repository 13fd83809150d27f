"""The real Triton server of the `nvidia-pytriton` wheel as a child process: start, readiness, dead steps, stop.

For this machine and for tests. The wheel's server is of 2024 and holds only the Python back end; production means the
vendor's container (triton_repo/Dockerfile).
"""

import ctypes
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ovavss.errors import UserError

_HOW = "install it with `uv sync --group serve`, or `pip install --no-deps nvidia-pytriton`"
_SHARED_MEMORY = Path("/dev/shm")
_STOP_SECONDS = 15
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Server:
    """A running server: `with Server(repository, work, ...) as server: server.wait_ready()`.

    `work` receives `backends/` and `server.log`; the last one becomes `server.previous.log`. Models are loaded once and
    cannot be changed from outside: the protocol that could is open only to this process, which uses it to bring back a
    Python step whose process died.
    """

    def __init__(self, repository: Path, work: Path, host: str, http: int, grpc: int, metrics: int) -> None:
        self.repository, self.host, self.grpc, self.log = repository.resolve(), host, grpc, work / "server.log"
        for port in (http, grpc, metrics):
            _check_free(host, port)
        self._key = secrets.token_hex(16)
        installed = _installed()
        backends = _backend_folder(installed, work / "backends")
        self._shared_memory, self._alive = _claim_shared_memory()
        command = [
            str(installed / "bin" / "tritonserver"), f"--model-repository={self.repository}",
            f"--backend-directory={backends}", f"--http-address={host}", f"--grpc-address={host}",
            f"--metrics-address={host}", f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            "--disable-auto-complete-config", "--model-control-mode=explicit", "--load-model=*",
            f"--grpc-restricted-protocol=model-repository,trace,logging:key={self._key}",
            f"--http-restricted-api=model-repository,trace,logging:key={self._key}",
            f"--exit-timeout-secs={_STOP_SECONDS - 5}", "--log-format=ISO8601",
        ]  # fmt: skip
        environment = dict(os.environ)
        # Each step is a process with threads of its own, and several are busy at a time.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
        # The back end's Python is the first on PATH; it needs the interpreter's shared library.
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
        libraries = [sysconfig.get_config_var("LIBDIR"), environment.get("LD_LIBRARY_PATH")]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".previous.log"))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_ready(self, seconds: float = 600, waiting: Callable[[], object] = lambda: None) -> None:
        """Return when every model answers. UserError, with the log's own words, where the server ends or is late."""
        deadline = time.monotonic() + seconds
        while not self._ready():
            if self.process.poll() is not None:
                raise UserError(f"the Triton server ended while it started: {self._reason()}; see {self.log}")
            if time.monotonic() > deadline:
                raise UserError(f"the Triton server was not ready after {seconds:.0f} s; see {self.log}")
            waiting()
            time.sleep(0.1)

    def _ready(self) -> bool:
        with triton.InferenceServerClient(f"{self.host}:{self.grpc}") as client:
            try:
                return bool(client.is_server_ready())
            except InferenceServerException:
                return False

    def _reason(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        told = [line for line in lines if " E " in line[:60] or "error:" in line.lower() or "failed to" in line]
        return (told or lines or ["it said nothing"])[-1].strip()[-300:]

    def watch(self) -> None:
        """Until the server ends: bring back each Python step whose process died. UserError where the server ends."""
        models = self.step_processes()
        while self.process.poll() is None:
            alive = self.step_processes()
            for pid, model in models.items():
                if pid not in alive:
                    self._reload(model)
            models = self.step_processes()
            time.sleep(0.2)
        raise UserError(f"the Triton server ended ({self._reason()}); see {self.log}")

    def step_processes(self) -> dict[int, str]:
        """Model names by process id of the living back end processes."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    path = next((Path(os.fsdecode(word)) for word in words if word.endswith(b"/model.py")), None)
                    if path is not None:  # a dead one has no command line
                        found[int(folder.name)] = path.parents[1].name
            except (OSError, ValueError):
                continue  # ended meanwhile
        return found

    def _reload(self, model: str) -> None:
        # A model is loaded anew, beside the old one, if a file of it looks newer.
        os.utime(self.repository / model / "1" / "model.py")
        with triton.InferenceServerClient(f"{self.host}:{self.grpc}") as client:
            try:
                client.load_model(model, headers={"triton-grpc-protocol-key": self._key})
            except InferenceServerException as error:
                if self.process.poll() is None:
                    print(f"{model} could not be brought back: {error.message()}", file=sys.stderr)
                return
        print(f"the process of {model} died and was started again", file=sys.stderr)

    def stop(self) -> None:
        """End the server and its steps: politely, then not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):  # the server's session: whatever of its steps is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for left in _SHARED_MEMORY.glob(f"{self._shared_memory}*"):  # of steps that were killed
            left.unlink(missing_ok=True)
        self._alive.close()


def _claim_shared_memory() -> tuple[str, IO[bytes]]:
    """The beginning of the names of this server's shared memory, and a file that this process keeps locked.

    A server that was killed leaves its memory behind; its lock is free, so the next server removes what it left.
    """
    for old in _SHARED_MEMORY.glob("ovavss-server-*-alive"):
        with suppress(OSError), old.open("rb") as lock:  # of another user, or locked
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in _SHARED_MEMORY.glob(f"{old.name.removesuffix('alive')}*"):
                left.unlink(missing_ok=True)
    prefix = f"ovavss-server-{secrets.token_hex(6)}-"
    alive = (_SHARED_MEMORY / f"{prefix}alive").open("wb")
    fcntl.flock(alive, fcntl.LOCK_EX)
    return prefix, alive


def _end_with_parent() -> None:
    """Have Linux end the server when this process is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _installed() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"there is no Triton server in this environment; {_HOW}")
    return Path(spec.submodule_search_locations[0]) / "tritonserver"


def _backend_folder(installed: Path, out: Path) -> Path:
    """The Python back end with the stub of this Python beside it, as links."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = installed / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise UserError(f"the Triton server in this environment has no back end for Python {version}; use 3.11 or 3.12")
    shutil.rmtree(out, ignore_errors=True)
    (out / "python").mkdir(parents=True)
    for file in (*(installed / "backends" / "python").iterdir(), stub):
        (out / "python" / file.name).symlink_to(file)
    return out


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} of {host} cannot be used ({error.strerror}); give another port") from error
