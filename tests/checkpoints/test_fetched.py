"""Fetching from package registries, against a small index on the loopback interface."""

import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovavss.checkpoints import fetched
from ovavss.errors import UserError

CONTENT = b"weights " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("thing/model.bin", CONTENT)
        archive.writestr("thing/code.py", "raise SystemExit")
    return buffer.getvalue()


def tar_of(names: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def debian() -> bytes:
    data = tar_of({"./usr/share/pictures/a.png": b"a", "./usr/bin/tool": b"b"}, "w:xz")
    parts = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"x"), ("data.tar.xz", data)):
        parts += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        parts += b"\n" * (len(content) % 2)
    return parts


def package(key: str, registry: str, archive: str, content: bytes, **kept: object) -> fetched.Package:
    sha = hashlib.sha256(content).hexdigest()
    return fetched.Package(key, "a test", registry, "thing", "1.0", archive, sha, "MIT", **kept)  # type: ignore[arg-type]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[str, bytes]]]:
    """Pages of a registry by path; pip and npm are configured for it, and the cache is empty."""
    pages: dict[str, tuple[str, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("npm_config_registry", f"{address}/npm/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield pages
    server.shutdown()
    server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, *known: fetched.Package) -> None:
    monkeypatch.setattr(fetched, "packages", lambda: {entry.key: entry for entry in known})


@pytest.mark.parametrize("page", ["html", "json"])
def test_a_wheel_is_fetched_once_and_only_what_is_kept_stays(
    served: dict[str, tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    name = "thing-1.0-py3-none-any.whl"
    use(monkeypatch, package("weights", "pypi", name, wheel(), files={"thing/model.bin": DIGEST}))
    link = f"../../files/{name}"
    served["/simple/thing/"] = {
        "html": ("text/html", f'<a href="{link}#sha256=0">{name}</a>'.encode()),
        "json": ("application/vnd.pypi.simple.v1+json", json.dumps({"files": [{"url": link}]}).encode()),
    }[page]
    served[f"/files/{name}"] = ("application/zip", wheel())
    folder = fetched.fetch("weights")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["model.bin"]
    assert (folder / "thing/model.bin").read_bytes() == CONTENT
    served.clear()
    assert fetched.fetch("weights") == folder
    (folder / "thing/model.bin").write_bytes(b"damaged")
    with pytest.raises(UserError, match="could not be fetched"):
        fetched.fetch("weights")


def test_an_npm_package_is_fetched_through_the_configured_registry(
    served: dict[str, tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar_of({"package/model.bin": CONTENT, "package/index.js": b"0"})
    use(monkeypatch, package("weights", "npm", "thing-1.0.tgz", archive, files={"package/model.bin": DIGEST}))
    tarball = fetched._npm_registry() + "thing/-/thing-1.0.tgz"
    served["/npm/thing/1.0"] = ("application/json", json.dumps({"dist": {"tarball": tarball}}).encode())
    served["/npm/thing/-/thing-1.0.tgz"] = ("application/octet-stream", archive)
    assert (fetched.fetch("weights") / "package/model.bin").read_bytes() == CONTENT


def test_an_archive_put_into_the_cache_by_hand_needs_no_registry(
    served: dict[str, tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, package("pictures", "debian", "thing.deb", debian(), patterns=("usr/share/*",)))
    fetched.fetched_folder().mkdir(parents=True)
    (fetched.fetched_folder() / "thing.deb").write_bytes(debian())
    folder = fetched.fetch("pictures", offline=True)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == [
        "usr/share/pictures/a.png"
    ]


@pytest.mark.parametrize("offline", [True, False])
def test_an_unreachable_registry_is_one_sentence_and_writes_nothing(
    served: dict[str, tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool
) -> None:
    use(monkeypatch, package("weights", "pypi", "thing.whl", wheel(), files={"thing/model.bin": DIGEST}))
    with pytest.raises(UserError, match=r"thing 1\.0 .* put it into") as caught:
        fetched.fetch("weights", offline)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache/ovavss").exists()


def test_another_archive_than_the_expected_one_is_refused(
    served: dict[str, tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, package("weights", "pypi", "thing.whl", wheel(), files={"thing/model.bin": DIGEST}))
    served["/simple/thing/"] = ("text/html", b"<a href='/files/thing.whl'>thing</a>")
    served["/files/thing.whl"] = ("application/zip", wheel() + b"more")
    with pytest.raises(UserError, match="SHA-256 differs"):
        fetched.fetch("weights")
    assert not fetched.fetched_folder().exists()


def test_the_table_pins_every_package() -> None:
    for entry in fetched.packages().values():
        assert len(entry.sha256) == 64 and entry.license
        assert bool(entry.files) != bool(entry.patterns)
        assert all(len(digest) == 64 for digest in entry.files.values())
