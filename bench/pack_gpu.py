"""Pack what a bare machine with a GPU needs for `bench/gpu.py` into pieces that can be carried one by one.

    python bench/pack_gpu.py --out pack [--python 3.12] [--packages av,soxr,...] [--engines DIR]

The machine is expected to have Python, an NVIDIA driver and PyTorch; nothing is fetched there. OUT gets `unpack.py`,
`pack.json` with a SHA-256 for each piece, and the pieces, none larger than `--piece-mib`. They hold this repository at
its commit, our two wheels (the second with the kernels of every architecture) and `--packages`, both installed for that
Python, and, where given, exported graphs of preset tiny. There:

    python3 unpack.py INTO          # checks and resumes; needs Python alone
    PYTHONPATH=INTO/site:INTO/source python3 INTO/source/bench/gpu.py --out figures --engines INTO/engines
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bench.measuring import ROOT, commit
from bench.options import run
from ovavss.errors import UserError
from ovavss.files import sha256, write_json

PACKAGES = "av,ftfy,mlcommons-loadgen,open_clip_torch,polygraphy,pycocotools,soxr,wcwidth"
"""What the machine is not expected to have beside PyTorch; `onnxruntime-gpu`, `deformops`, `tensorrt-rtx-cu13-bindings`
and `tensorrt-rtx-cu13-libs` make their steps run, and are large."""


def main(
    out: Annotated[Path, typer.Option(help="Folder to write; it must be empty or new.")],
    python: Annotated[str, typer.Option(help="Python of that machine.")] = "3.12",
    packages: Annotated[str, typer.Option(help="Packages to carry, joined by commas.")] = PACKAGES,
    engines: Annotated[Path | None, typer.Option(help="Exported graphs of preset tiny.")] = None,
    piece_mib: Annotated[int, typer.Option(min=1, help="Largest piece in MiB.")] = 60,
) -> None:
    """Write the pieces."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        _install(room / "site", python, [name for name in packages.split(",") if name])
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
        (room / "source.tar").write_bytes(archive)
        if engines is not None:
            shutil.copytree(engines, room / "engines", ignore=shutil.ignore_patterns("serve"))
        write_pieces(room, out, piece_mib << 20, {"commit": commit(), "python": python})
    total = sum(path.stat().st_size for path in out.iterdir())
    print(f"wrote {out}: {len(list(out.glob('piece.*')))} pieces, {total / 2**20:.0f} MiB")


def _install(site: Path, python: str, packages: list[str]) -> None:
    """Our wheels and these packages, as that Python would import them, without what they depend on."""
    _run("our wheels could not be built", ["make", "-C", str(ROOT), "wheel"])
    newest: dict[str, Path] = {}
    for wheel in sorted((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime):
        newest[wheel.name.split("-")[0]] = wheel
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise UserError("uv is not installed; pip install uv")
    command = [uv, "pip", "install", "--quiet", "--target", str(site), "--python-version", python,
               "--python-platform", "x86_64-manylinux_2_34", "--no-deps", "--only-binary", ":all:"]  # fmt: skip
    _run(f"packages for Python {python} could not be fetched", [*command, *map(str, newest.values()), *packages])


def _run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no reason given"]
        raise UserError(f"{what}: {reason[0][:200]}")


def write_pieces(content: Path, out: Path, size: int, about: dict[str, str]) -> None:
    """Write the folder `content` as pieces of at most `size` bytes, their list, and the script that joins them."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=6) as tar:
            for path in sorted(content.iterdir()):
                tar.add(path, path.name)
        whole.seek(0)
        hashes: dict[str, str] = {}
        while part := whole.read(size):
            piece = out / f"piece.{len(hashes):03d}"
            piece.write_bytes(part)
            hashes[piece.name] = sha256(piece)
    write_json(out / "pack.json", {**about, "pieces": hashes})
    shutil.copy2(Path(__file__).with_name("unpack_gpu.py"), out / "unpack.py")


if __name__ == "__main__":
    run(main)
