# Everything a developer or a visitor types. `make` alone lists the targets.
#
#   PYTHON=python3.12                              interpreter of the environments, 3.11 or newer
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   take torch from there: the CPU wheels are far smaller
#   TORCH, TORCHVISION, LABEL_STUDIO               requirements, in pip's notation
#   PIP_ARGS                                       further arguments of every `pip install`
#   PYTEST_ARGS                                    arguments of pytest, for example PYTEST_ARGS="-k video -x"
#   TEST_PROCESSES=2                               processes that share the tests
#   LABEL_STUDIO_PORT=8080 BACKEND_PORT=9090       ports of the demo
#   DEMO_EXIT=1                                    verify the demo and stop
#   VARIANT=cpu                                    the container image: for a CPU, or for NVIDIA GPUs (gpu)
#   BUILDAH="buildah --storage-driver vfs"         what builds it; no Docker engine is needed
#   IMAGE_ARGS                                     further arguments of `buildah build`

PYTHON ?= python3
TORCH ?= torch==2.14.1
TORCHVISION ?= torchvision==0.29.1
TORCH_INDEX ?=
LABEL_STUDIO ?= label-studio==1.23.2
PIP_ARGS ?=
PYTEST_ARGS ?=
VARIANT ?= cpu
BUILDAH ?= buildah --storage-driver vfs
IMAGE_ARGS ?=

# Threads that wait sleep: on shared cores, spinning ones cost torch a factor of four to six.
export OMP_WAIT_POLICY ?= PASSIVE

VENV := .venv
LS_VENV := .venv-label-studio
# Written last, so that an interrupted installation is taken up again.
VENV_READY := $(VENV)/.installed
LS_VENV_READY := $(LS_VENV)/.installed
PIP := -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help venv $(VENV) $(LS_VENV) demo test lint docs format image image-test image-lock clean distclean check-python

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV_READY) $(LS_VENV_READY) ## Start Label Studio and the backend with pre-annotated sample videos
	@$(VENV)/bin/python -m ml_backend.demo

# Two processes take the files by turns. Those that need the machine for themselves come last, one by one: a player and
# a real Label Studio in a browser, and campaigns against the server. With PYTEST_ARGS one process runs what they choose.
TEST_PROCESSES ?= 2
ALONE := tests/ml_backend/label_studio/test_player.py tests/e2e tests/adversarial

test: $(VENV_READY) $(LS_VENV_READY) ## Run all tests, the last ones against a real Label Studio in a browser
ifeq ($(PYTEST_ARGS),)
	@status=0; \
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ALONE:%=--ignore=%) || status=$$?; \
	$(VENV)/bin/python -m pytest $(ALONE) || status=$$?; \
	exit $$status
else
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)
endif

lint: $(VENV_READY) docs ## Check style, types, layers, sizes and the documents
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python tools/house.py
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

docs: $(VENV_READY) ## Build the documents in build/docs/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

format: $(VENV_READY) ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

image: ## Build the container image steerseg:cpu, or steerseg:gpu with VARIANT=gpu
	@command -v $(firstword $(BUILDAH)) > /dev/null || { \
	  echo "There is no '$(firstword $(BUILDAH))'. On Debian and Ubuntu: apt-get install buildah" >&2; exit 1; }
	$(BUILDAH) bud --layers=false --isolation chroot --format docker --build-arg VARIANT=$(VARIANT) \
	  $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) $(IMAGE_ARGS) --tag steerseg:$(VARIANT) .

image-test: image ## Build the image, run it, and check what is in it
	$(PYTHON) tools/check_image.py --buildah "$(BUILDAH)" steerseg:$(VARIANT)

image-lock: $(VENV_READY) ## Resolve the image's packages anew and write requirements/image-*.lock
	$(VENV)/bin/python tools/lock_image.py --constraint '$(TORCH)' --constraint '$(TORCHVISION)'

clean: ## Remove caches, builds and the demo's data
	rm -rf .demo artefacts build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -path ./$(LS_VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## Remove the environments as well
	rm -rf $(VENV) $(LS_VENV)

venv: $(VENV_READY) $(LS_VENV_READY) ## Make both environments
$(VENV): $(VENV_READY)
$(LS_VENV): $(LS_VENV_READY)

check-python:
	@command -v $(PYTHON) > /dev/null || { \
	  echo "There is no '$(PYTHON)'. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old; Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "$(PYTHON) lacks the venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# sam2 is built from source against an installed torch: torch first, and no isolated build. Its CUDA extension
# only smooths masks and needs a compiler; it is left out.
$(VENV_READY): pyproject.toml | check-python
	@test -x $(VENV)/bin/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $(TORCH), which is large"
	@$(VENV)/bin/python $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)' '$(TORCHVISION)'
	@echo "Installing SteerSeg and what it needs"
	@$(VENV)/bin/python $(PIP) 'setuptools>=77' wheel
	@SAM2_BUILD_CUDA=0 $(VENV)/bin/python $(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

# An environment of its own: Label Studio pins versions that the models cannot live with.
$(LS_VENV_READY): | check-python
	@test -x $(LS_VENV)/bin/python || { echo "Making $(LS_VENV)"; $(PYTHON) -m venv $(LS_VENV); }
	@echo "Installing $(LABEL_STUDIO)"
	@$(LS_VENV)/bin/python $(PIP) '$(LABEL_STUDIO)'
	@touch $@
