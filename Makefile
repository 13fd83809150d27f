# make demo   videos with sound through exported graphs, to masks and names (VIDEO=, PRESET=, WEIGHTS=, CLASSES=, OUT=)
# make test   all tests that need no GPU
# make plugins  the fast attention operator for ONNX Runtime and TensorRT, as far as it can be built here (needs CMake)
# Both set everything up first: they need only Python 3.11 or 3.12, git, make and a compiler.

PRESET  ?= tiny
CLASSES ?=
ENGINES ?= artifacts/$(PRESET)
OUT     ?= demo/$(PRESET)
VIDEO   ?=
PYTHON  ?= python3
UV      ?= $(shell command -v uv || echo .uv/bin/uv)
CMAKE   ?= $(shell command -v cmake || echo $(UV) tool run cmake)
RUN      = UV=$(abspath $(UV)) .venv/bin/

.PHONY: demo test plugins tools setup lint clean

setup: .venv/.complete

demo: .venv/.complete $(ENGINES)/manifest.json
	$(RUN)python -m ovavss.commands.demo --engines "$(ENGINES)" --out "$(OUT)" \
	  $(if $(VIDEO),--video "$(VIDEO)") $(if $(CLASSES),--classes "$(CLASSES)")

test: .venv/.complete
	$(RUN)python -m pytest

plugins: .venv/.complete
	VIRTUAL_ENV="$(abspath .venv)" $(CMAKE) -S . -B build -DCMAKE_BUILD_TYPE=Release
	$(CMAKE) --build build --parallel

# What the plugin's tests use beside a compiler: nvcc, TensorRT's bindings and libraries (the latter through Maven).
tools: .venv/.complete
	$(UV) sync --frozen --group cuda
	touch .venv/.complete
	-$(RUN)python plugins/msdeform_attn/tensorrt/fetch_tensorrt.py

lint: .venv/.complete
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

artifacts/%/manifest.json: .venv/.complete $(wildcard ovavss/models/ov_avss/*.py ovavss/msda/*.py ovavss/export/*.py ovavss/checkpoints/shipped_weights/*)
	$(RUN)python export/build_engines.py --preset $* --out $(@D) $(if $(WEIGHTS),--weights "$(WEIGHTS)")

.venv/.complete: pyproject.toml uv.lock | $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	$(UV) sync --frozen
	touch $@

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

clean:
	rm -rf .venv .uv artifacts build demo
