"""Join the pieces that `pack_gpu.py` wrote, on a machine without a network. Needs Python alone.

    python3 unpack.py INTO [FOLDER]

FOLDER (default: this script's) holds `pack.json` and some or all pieces. Each that fits its hash is kept in
INTO/pieces; the script can be called again with other FOLDERs until all are there. Then INTO gets source/, site/ (the
packages) and, if they were packed, engines/.
"""

import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path


def sha256(path: Path) -> str:
    """The file's hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def collect(folder: Path, into: Path) -> tuple[dict[str, str], list[str]]:
    """Take over the pieces that fit; returns what is expected, and what is still missing.

    SystemExit where a piece differs from its hash.
    """
    kept = into / "pieces"
    kept.mkdir(parents=True, exist_ok=True)
    listed = folder / "pack.json"
    if listed.is_file():
        shutil.copy2(listed, kept / "pack.json")
    if not (kept / "pack.json").is_file():
        raise SystemExit(f"error: {folder} has no pack.json; bring it with the first pieces")
    expected = json.loads((kept / "pack.json").read_text())["pieces"]
    for name, digest in expected.items():
        have, came = kept / name, folder / name
        if have.is_file() and sha256(have) == digest:
            continue
        if came.is_file():
            if sha256(came) != digest:
                raise SystemExit(f"error: {came} was damaged on the way (its SHA-256 differs); bring it again")
            shutil.copy2(came, have)
    return expected, [name for name in expected if not (kept / name).is_file()]


def unpack(into: Path, pieces: list[str]) -> None:
    """Join the pieces and unpack what they hold."""
    whole = into / "pack.tar"
    with whole.open("wb") as file:
        for name in pieces:
            with (into / "pieces" / name).open("rb") as piece:
                shutil.copyfileobj(piece, file)
    for archive, target in ((whole, into), (into / "source.tar", into / "source")):
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()


def main() -> None:
    """Take over what came; unpack when all is there."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python3 unpack.py INTO [FOLDER]")
    into = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).resolve().parent
    expected, missing = collect(folder, into)
    if missing:
        print(f"{len(expected) - len(missing)} of {len(expected)} pieces are here; next: {', '.join(missing[:3])}")
        return
    unpack(into, list(expected))
    command = f"PYTHONPATH={into}/site:{into}/source python3 {into}/source/bench/gpu.py --out figures"
    print(f"all {len(expected)} pieces are here; run: {command}")


if __name__ == "__main__":
    main()
