# make demo, make test, make install: each sets up .venv by itself. README.md says what is downloaded.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help install demo test lint debian-packages image-test wheels-test lock clean

PYTHON ?= python3
OUT ?= runs/demo
BIN := .venv/bin
TORCH := 2.13.0
CPU_WHEELS := https://download.pytorch.org/whl/cpu
DEBIAN_PACKAGES := ismrmrd-tools orthanc orthanc-dicomweb orthanc-webviewer chromium dcmtk openssl gcc libc6-dev docker-compose prometheus systemd

help:
	@echo "make demo     set up, simulate an accelerated brain scan, reconstruct and flag it; results in $(OUT)"
	@echo "make test     set up, check style and types, run all tests"
	@echo "make install  set up .venv alone"
	@echo "make image-test  build the container without an engine, and run it (root)"
	@echo "make wheels-test  install the wheel with each extra in an environment of its own, and try it"
	@echo "make lock     write requirements.lock"

install: .venv/installed

demo: .venv/installed
	$(BIN)/steadymr demo --out "$(OUT)"

test: .venv/installed-test debian-packages lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry plugin gadgets
	$(BIN)/hadolint docker/Dockerfile docker/*/Dockerfile

# Without a GPU the CPU build of torch is asked for by its exact version: whichever index is asked, a build that pulls
# CUDA can't answer to that name. A machine with a GPU takes the default build.
.venv/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "steadymr needs Python 3.10 or newer; make PYTHON=/path/to/python names another one" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "no venv in this Python: installing Debian's python3-venv" >&2; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else sudo apt-get update -qq && sudo apt-get install -y -qq python3-venv; fi; $(PYTHON) -m venv .venv; }
	if nvidia-smi -L >/dev/null 2>&1; then \
	  echo "torch==$(TORCH)" >.venv/constraints.txt; $(BIN)/pip install "torch==$(TORCH)"; \
	else \
	  echo "torch==$(TORCH)+cpu" >.venv/constraints.txt; \
	  $(BIN)/pip install "torch==$(TORCH)+cpu" 2>/dev/null || $(BIN)/pip install "torch==$(TORCH)+cpu" --extra-index-url $(CPU_WHEELS); \
	fi
	touch $@

.venv/installed: .venv/torch pyproject.toml
	$(BIN)/pip install --quiet -c .venv/constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet -c .venv/constraints.txt -e '.[test]'
	touch $@

# Peers that the tests run against: installed where we may, named where we may not.
debian-packages:
	@missing=""; for package in $(DEBIAN_PACKAGES); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing Debian packages for the tests:$$missing"; \
	  if [ "$$(id -u)" = 0 ]; then sudo=""; elif sudo -n true 2>/dev/null; then sudo=sudo; \
	  else echo "please run: sudo apt-get install -y$$missing" >&2; exit 1; fi; \
	  $$sudo apt-get update -qq; $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  for service in orthanc prometheus prometheus-node-exporter; do \
	    case "$$missing" in *" $${service%%-*}"*) $$sudo systemctl disable --now $$service >/dev/null 2>&1 || true;; esac; done; \
	fi

# Builds the container without a container engine and runs it; needs root, and 15 minutes on a fresh machine.
image-test:
	docker/image-test.sh

# With [gpu] this downloads CUDA, about 3 GB.
wheels-test:
	$(PYTHON) bench/wheels/run.py --torch $(TORCH) --cpu-index $(CPU_WHEELS)

# Every version that the file already names stays, so that without a change in pyproject.toml the file stays as it is. To
# take newer versions, delete it first. Always for the CPU, whatever .venv was set up for.
LOCK = $(BIN)/uv pip compile pyproject.toml --all-extras -c .venv/lock-constraints.txt --python-version 3.11 \
  --generate-hashes --quiet --custom-compile-command "make lock" --output-file requirements.lock
lock: .venv/torch
	$(BIN)/pip install --quiet uv==0.13.9
	echo "torch==$(TORCH)+cpu" >.venv/lock-constraints.txt
	$(LOCK) >/dev/null 2>&1 || $(LOCK) --torch-backend cpu >/dev/null

clean:
	rm -rf .venv runs
