# make demo      a real video with sound through OpenAVS, a rendered one through exported ONNX graphs, into demo/
#                (VIDEO=, CLASSES= for a video of your own; PRESET=, WEIGHTS= for exported graphs of another model; OUT=)
# make test      the tests that need no GPU and less than about twenty seconds each
# make test-all  all of them, a real Triton server and the slow ones included
# make plugins   the fast attention operator for ONNX Runtime, OpenVINO and TensorRT, as far as it can be built here
# make lint      style, types and the layers of the package
# make docs      the site, into build/site
# Each sets up what it needs first, from Python 3.11 to 3.13, git, make and a C++ compiler.

PRESET  ?=
CLASSES ?=
ENGINES ?= $(if $(PRESET),artifacts/$(PRESET))
OUT     ?= demo$(if $(PRESET),/$(PRESET),$(if $(VIDEO),/open_avs))
VIDEO   ?=
PYTHON  ?= python3
PYTEST  ?=
UV      ?= $(shell command -v uv || echo .uv/bin/uv)
BIN      = $(abspath .venv)/bin
RUN      = PATH="$(BIN):$$PATH" UV=$(abspath $(UV)) $(BIN)/

.PHONY: demo test test-all plugins tools setup lint docs wheel clean

setup: .venv/.complete

DEMO = $(RUN)python -m ovavss.commands.demo
ifeq ($(VIDEO)$(ENGINES),)
# Where nothing can be fetched, the first part ends with a sentence, and the second works all the same.
demo: .venv/.complete
	-$(DEMO) --out "$(OUT)/real_clip"
	$(MAKE) --no-print-directory demo PRESET=tiny OUT="$(OUT)/sounding_shapes" CLASSES=
else
demo: .venv/.complete $(ENGINES:%=%/manifest.json)
	$(DEMO) $(ENGINES:%=--engines "%") --out "$(OUT)" \
	  $(if $(VIDEO),--video "$(VIDEO)") $(if $(CLASSES),--classes "$(CLASSES)")
endif

test: plugins
	$(RUN)python -m pytest -m "not slow and not server" $(PYTEST)

test-all: plugins
	$(RUN)python -m pytest $(PYTEST)

plugins: .venv/.complete
	VIRTUAL_ENV="$(abspath .venv)" $(RUN)cmake -S . -B build -DCMAKE_BUILD_TYPE=Release
	$(RUN)cmake --build build --parallel

# What the plugin's tests use beside a compiler: nvcc, TensorRT's bindings and libraries (the latter through Maven).
tools: .venv/.complete
	$(UV) sync --frozen --group cuda
	touch .venv/.complete
	-$(RUN)python plugins/msdeform_attn/tensorrt/fetch_tensorrt.py

# Files that are no part of a package: mypy takes one at a time, since several have the same name.
SCRIPTS = $(wildcard triton_repo/*/1/model.py plugins/msdeform_attn/*.py plugins/msdeform_attn/python/*/__init__.py \
  plugins/msdeform_attn/tensorrt/*.py)

lint: .venv/.complete
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	for script in $(SCRIPTS); do $(RUN)mypy $$script || exit 1; done
	$(RUN)lint-imports --no-cache

docs: .venv/.complete
	$(UV) sync --frozen --inexact --group docs
	touch .venv/.complete
	$(RUN)mkdocs build --strict --site-dir build/site

# ovavss, pure Python, and ovavss-msda, the operator's libraries as far as they can be built here.
wheel: .venv/.complete
	$(RUN)python -m hatchling build -t wheel -d dist
	VIRTUAL_ENV="$(abspath .venv)" PATH="$(BIN):$$PATH" $(UV) build --wheel --no-build-isolation \
	  --python $(BIN)/python --out-dir dist plugins/msdeform_attn
	$(RUN)twine check dist/*.whl
	$(RUN)check-wheel-contents dist/ovavss-*.whl

artifacts/%/manifest.json: .venv/.complete $(wildcard ovavss/models/ov_avss/*.py ovavss/msda/*.py ovavss/export/*.py ovavss/checkpoints/shipped_weights/*)
	$(RUN)python export/build_engines.py --preset $* --out $(@D) $(if $(WEIGHTS),--weights "$(WEIGHTS)")

.venv/.complete: pyproject.toml uv.lock | $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	$(UV) sync --frozen
	touch $@

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

clean:
	rm -rf .venv .uv artifacts build demo dist
