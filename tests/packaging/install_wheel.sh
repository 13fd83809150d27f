#!/usr/bin/env bash
# Installs the wheel with all that it asks for into a new environment, and uses it from an empty folder. Downloads
# several gigabytes, most of them PyTorch's. Usage: install_wheel.sh WHEEL [EXTRAS]      for example: dist/*.whl openvino
set -euo pipefail
wheel=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet "$wheel${2:+[$2]}"
echo "size of the environment: $(du -sh environment | cut -f1)"
# Whose wish the packages for GPUs were: ovavss and what it asks for, PyTorch aside, must ask for none.
environment/bin/python - <<'PY'
import importlib.metadata as metadata
import re

def requirements(name):
    for line in metadata.requires(name) or []:
        if "extra ==" not in line:
            yield re.match(r"[\w.-]+", line)[0].lower().replace("_", "-").replace(".", "-")

seen, todo = set(), ["ovavss"]
while todo:
    name = todo.pop()
    if name in seen or name in ("torch", "torchvision"):
        continue
    seen.add(name)
    try:
        todo += requirements(name)
    except metadata.PackageNotFoundError:
        pass
gpu = re.compile(r"nvidia|cuda|-gpu|tensorrt|triton")
everything = {d.metadata["Name"].lower() for d in metadata.distributions()}
print("for GPUs, asked for by ovavss:", sorted(filter(gpu.search, seen)) or "none")
print("for GPUs, asked for by PyTorch:", sorted(name for name in everything - seen if gpu.search(name)) or "none")
PY
mkdir empty && cd empty
../environment/bin/ovavss export --preset tiny --out E
../environment/bin/python -c "
from pathlib import Path
from ovavss.datasets.sounding_shapes.disk import write_mp4
from ovavss.datasets.sounding_shapes.scenes import sample_scene
write_mp4(sample_scene(1000, 10), Path('clip.mp4'), fps=25)"
../environment/bin/ovavss segment clip.mp4 --engines E --out out
../environment/bin/python -c "
import ovavss
result = ovavss.load('E').segment('clip.mp4')
print(sorted({track.name for track in result.tracks}))
result.save('saved')"
