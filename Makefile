# `make help` lists the verbs. Everything is made inside the work tree; VENV=PATH uses another environment.

VENV ?= .venv
PYTHON ?= python3
PROFILE ?= release
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
SUITE ?=
SUITE_ARGS ?=

override VENV := $(abspath $(VENV))
PY := $(VENV)/bin/python
BUILD := PYTHONPATH=tools $(PY) -m hybrid_build
REQUIREMENTS := $(VENV)/.containerd-hybrid-requirements
INSTALLED := $(VENV)/.containerd-hybrid-installed
PROTO_STAMP := python/containerd_hybrid/proto/types/__init__.py
PROTOS := $(shell find proto -name '*.proto')

# Programs of the environment first: pip's build looks for maturin and protoc-gen-mypy on PATH.
export PATH := $(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv system-packages dev proto native shim wheel sdist demo test lint fmt rust-test \
	unit contract integration recovery bench shimtest moments runtime-tools fuzz clean \
	like-containerd client-suite

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- build ----------------------------------------------------------------------------------------------

venv: $(REQUIREMENTS) ## the Python environment with what development needs (.venv, or VENV=PATH)

$(REQUIREMENTS): pyproject.toml tools/hybrid_build/requirements.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name it: make PYTHON=...") \
	  if sys.version_info < (3, 11) else None'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) tools/hybrid_build/requirements.py dev | $(PY) -m pip install --quiet --requirement /dev/stdin
	@touch $@

system-packages: ## install missing Debian packages (needs root)
	@scripts/install-system-packages

# The editable install gives the programs and the distribution's metadata; what it built is then kept
# fresh in place, which is quicker than installing anew.
dev: $(INSTALLED) proto native shim ## build in place: protobuf modules, native module, shim and runtime

$(INSTALLED): $(REQUIREMENTS) pyproject.toml Cargo.toml
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

proto: $(PROTO_STAMP) ## generate the protobuf modules

$(PROTO_STAMP): $(PROTOS) $(REQUIREMENTS) tools/hybrid_build/protos.py
	@$(BUILD) proto
	@touch $@

native: $(REQUIREMENTS) ## build the native module into python/ (PROFILE=dev builds quicker, runs slower)
	@PYO3_PYTHON=$(PY) $(BUILD) native $(PROFILE)

shim: $(REQUIREMENTS) ## build the shim and the OCI runtime into python/containerd_hybrid/_bin/
	@$(BUILD) shim $(PROFILE)

wheel: $(REQUIREMENTS) ## build dist/containerd_hybrid-*.whl
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist/*.whl

sdist: $(REQUIREMENTS) ## build dist/containerd_hybrid-*.tar.gz
	$(BUILD) sdist dist
	@ls -l dist/*.tar.gz

clean: ## remove what was built (the environment too)
	rm -rf target dist .venv .pytest_cache .mypy_cache .ruff_cache .benchmarks python/containerd_hybrid/_bin
	rm -f python/containerd_hybrid/*.so
	find python/containerd_hybrid/proto -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
	find python tests benches tools -name __pycache__ -prune -exec rm -rf {} +

# --- see it work ----------------------------------------------------------------------------------------

demo: system-packages dev ## from an image archive to a running container, in one go
	@scripts/demo

# --- test -----------------------------------------------------------------------------------------------

test: system-packages dev lint rust-test ## everything that CI runs: lint, Rust tests, Python tests
	$(PY) -m pytest $(PYTEST_ARGS)

lint: dev ## ruff, mypy, stubtest, rustfmt, clippy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	MYPYPATH=python $(PY) -m mypy.stubtest --concise containerd_hybrid._native
	cargo fmt --all --check
	PYO3_PYTHON=$(PY) cargo clippy --quiet --workspace --all-targets -- -D warnings

fmt: $(REQUIREMENTS) ## format Python and Rust
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	cargo fmt --all

# The native crate is glue without tests of its own, and cannot be linked outside a Python process.
rust-test: ## cargo test
	cargo test --quiet --workspace --exclude containerd-hybrid-native

unit: ## pytest on tests/unit (PYTEST_ARGS="-k NAME")
contract: ## pytest on tests/contract
integration: ## pytest on tests/integration
recovery: ## pytest on tests/recovery
unit contract integration recovery: dev
	$(PY) -m pytest tests/$@ $(PYTEST_ARGS)

like-containerd: dev ## ctr's sub-commands and every call, here and on an installed containerd (CTR2=PATH: of 2.x)
	COMPARE_CTR=1 $(PY) -m pytest tests/contract/wire tests/integration/test_ctr_like_containerd.py $(PYTEST_ARGS)

client-suite: dev ## containerd's client suite (SUITE=FOLDER of a built client.test, SUITE_ARGS=...)
	@test -x "$(SUITE)/client.test" || { echo "SUITE=FOLDER is needed, with a client.test in it" >&2; exit 1; }
	VENV=$(VENV) scripts/client-suite "$(SUITE)" $(SUITE_ARGS)

bench: dev ## benchmarks, beside an installed containerd
	$(PY) -m pytest benches $(PYTEST_ARGS)

shimtest: $(REQUIREMENTS) shim ## containerd's shimtest suite, built elsewhere, against our shim (SUITE=PATH)
	@test -n "$(SUITE)" || { echo "name the built suite: make shimtest SUITE=PATH" >&2; exit 1; }
	$(PY) scripts/shimtest "$(abspath $(SUITE))" $(SUITE_ARGS)

moments: dev ## kill the daemon at a hundred random moments of a pull
	REGISTRY_MOMENTS=100 $(PY) -m pytest tests/recovery/test_registry_moments.py $(PYTEST_ARGS)

runtime-tools: ## opencontainers/runtime-tools' validation, built in SUITE=PATH, on our runtime (needs root)
	@test -n "$(SUITE)" || { echo "name the built suite: make runtime-tools SUITE=PATH" >&2; exit 1; }
	@scripts/runtime-tools "$(SUITE)" $(RUNTIME)

fuzz: ## each fuzz target of the crates for FUZZ_SECONDS (needs cargo-fuzz)
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2; exit 1; }
	for crate in rust/*/fuzz; do \
	  (cd $$crate/.. && for target in $$(cargo fuzz list); do \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	  done) || exit 1; \
	done
