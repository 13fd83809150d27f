"""Brings the real TensorRT libraries into ~/.cache/ovavss/tensorrt/<version>, for tests on machines with no SDK.

Usage: python fetch_tensorrt.py [VERSION ...]     (default: every version of the table below)

They come by the ordinary Maven client as org.bytedeco:tensorrt, about 0.5 GB a version. Users of the plugin do not need
this: `pip install tensorrt`, NVIDIA's packages and containers hold the same libraries.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ARTIFACTS = {"10.15": "10.15-1.5.13", "11.2": "11.2-1.5.14"}


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ovavss" / "tensorrt"


def download(version: str, repository: Path) -> Path:
    """The packed libraries of one version. They do not stay in the user's own Maven repository."""
    artifact = f"org.bytedeco:tensorrt:{ARTIFACTS[version]}:jar:linux-x86_64-redist"
    command = ["mvn", "-B", "-q", f"-Dmaven.repo.local={repository}", "dependency:get", f"-Dartifact={artifact}"]
    subprocess.run([*command, "-Dtransitive=false"], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return next((repository / "org" / "bytedeco" / "tensorrt").glob(f"{ARTIFACTS[version]}/*redist.jar"))


def unpack(jar: Path, folder: Path) -> None:
    """Only the libraries, flat; the folder appears when it is complete."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with zipfile.ZipFile(jar) as packed:
        for entry in packed.namelist():
            if ".so" in Path(entry).name:
                with packed.open(entry) as source, (part / Path(entry).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    part.rename(folder)


def main(versions: list[str]) -> int:
    unknown = [version for version in versions if version not in ARTIFACTS]
    if unknown:
        print(f"fetch_tensorrt: unknown version {unknown[0]}; known are {', '.join(ARTIFACTS)}", file=sys.stderr)
        return 2
    cache = cache_folder()
    missing = [version for version in versions or ARTIFACTS if not (cache / version).is_dir()]
    if missing and not shutil.which("mvn"):
        print("fetch_tensorrt: the Maven client mvn is not installed (Debian: apt-get install maven)", file=sys.stderr)
        return 3
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="maven.") as repository:
        for version in missing:
            try:
                unpack(download(version, Path(repository)), cache / version)
            except subprocess.CalledProcessError as error:
                print(f"fetch_tensorrt: mvn failed on TensorRT {version} (exit {error.returncode})", file=sys.stderr)
                return 4
    for version in versions or ARTIFACTS:
        print(cache / version)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
