# `make demo` and `make test` do their own set-up; ARGS="..." passes options on; PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
ARGS ?=
CASES ?= 1000000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VENV36 := .venv36

.PHONY: help setup demo test test-compat test-slow test-triton36 fuzz lint format docs bench bench-kernels chaos rl build clean

help:
	@echo "make demo           train on 4 workers of this machine, dense and compressed; ends with report.png"
	@echo "make test           the tests            (ARGS='tests/kernels -q' for some of them)"
	@echo "make test-compat    the tests of accelerate, Trainer, trl, lightning and FSDP2, and of examples/integrations"
	@echo "make test-slow      the slow tests"
	@echo "make test-triton36  the tests of the Triton kernels with the oldest Triton that they run on"
	@echo "make fuzz           bad input for the C++ under sanitizers, a million cases (CASES=100000 SEED=1 for others)"
	@echo "make lint           ruff, mypy, import order"
	@echo "make format         let ruff format and fix"
	@echo "make docs           the documentation as pages in build/site; a warning is an error"
	@echo "make bench          loss against bytes on the wire, a table"
	@echo "make bench-kernels  time of the kernels against the speed of memory and against torch, a table"
	@echo "make chaos          kill, freeze and cut members of a swarm on this machine, then prove that nothing went wrong"
	@echo "make rl             reinforcement learning: a trainer, 2 workers and a verifier on this machine; ends with rl.png"
	@echo "make build          an sdist and a wheel in dist/"
	@echo "make test-wheel     the wheel of dist/ on every Python and torch that can be had; ARGS=--installed downloads no torch"
	@echo "make clean          remove $(VENV), $(VENV36) and everything built"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "thinwire needs Python 3.10 or newer as $(PYTHON); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/torchrun --standalone --nproc-per-node 4 examples/multiregion/train.py $(ARGS)

# `pytest`, never `python -m pytest`: that would put the root first on the path, where kernels/ hides a PyPI package.
# Tests that only compute share the processors; those that start processes, or look at clocks, have them to themselves.
COMPUTE := $(addprefix tests/,attacks compat/test_loops.py compat/test_matrix.py kernels comms/test_codec_is_reference.py comms/test_codec_laws.py comms/verify) \
    $(addprefix tests/comms/swarm/,test_account.py test_driver.py test_envelope.py test_explore.py test_history.py test_invite.py test_machine.py) \
    $(addprefix tests/comms/swarm/,test_messages.py test_offers.py test_simulate.py test_status.py test_streams.py test_verify.py test_ways.py web/test_chronicle.py web/test_track.py) \
    $(addprefix tests/optim/test_,carry.py gate.py late_landing.py limits.py overlap.py overlap_resume.py resume.py robust.py wrapper_rules.py) \
    $(addprefix tests/examples/rl/test_,batches.py buffer.py checks.py config.py curriculum.py generate.py judges.py learner.py loss.py) \
    $(addprefix tests/examples/rl/test_,proposals.py proposer.py ratings.py reputation.py rewards.py rollout.py tasks.py tiny.py warmup.py yuma.py) \
    $(addprefix tests/benchmarks/test_,queueing.py record.py report.py rl.py topology.py verify.py) tests/examples/rl/test_hf.py tests/comms/test_lossless.py tests/comms/test_patch.py tests/test_docs.py
test: $(STAMP)
ifeq ($(strip $(ARGS)),)
	@failed=0; set -x; $(BIN)/pytest -n auto --maxprocesses 4 $(COMPUTE) || failed=1; \
	    $(BIN)/pytest --ignore=tests/compat $(addprefix --ignore=,$(COMPUTE)) || failed=1; exit $$failed
else
	$(BIN)/pytest $(ARGS)
endif

# By themselves: ranks are forked from a process that has imported all frameworks.
test-compat: $(STAMP)
	$(BIN)/pytest $(or $(ARGS),tests/compat --ignore=tests/compat/test_loops.py --ignore=tests/compat/test_matrix.py)

test-slow: $(STAMP)
	$(BIN)/pytest -m slow $(ARGS)

# Triton 3.6, as on cards with torch 2.11, in an environment of its own; thinwire is not installed there but on the path.
test-triton36: $(VENV36)/.installed
	PYTHONPATH=src $(VENV36)/bin/pytest $(or $(ARGS),tests/kernels/test_triton_is_reference.py \
	    tests/kernels/test_triton_compiles.py tests/benchmarks/test_gpu.py)

$(VENV36)/.installed: constraints.txt
	test -x $(VENV36)/bin/pip || $(PYTHON) -m venv $(VENV36)
	grep -v '^triton==' constraints.txt > $(VENV36)/constraints.txt
	$(VENV36)/bin/pip install --quiet --disable-pip-version-check -c $(VENV36)/constraints.txt \
	    triton==3.6.0 torch numpy xxhash hypothesis pytest pytest-timeout
	@touch $@

# No Python: a compiler is enough.
fuzz:
	$(MAKE) --no-print-directory --silent -j$(shell nproc) -C csrc/fuzz
	build/fuzz/tw_fuzz cases=$(CASES) seed=$(SEED)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# docs/ on the path has what the pages use beside Markdown; src/ the docstrings, which are read and not imported.
docs: $(STAMP)
	PYTHONPATH=docs:src $(BIN)/zensical build --clean --strict

bench: $(STAMP)
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-kernels: $(STAMP)
	$(BIN)/python -m benchmarks.kernels $(ARGS)

rl: $(STAMP)
	$(BIN)/python -m examples.rl launch $(ARGS)

chaos: $(STAMP)
	$(BIN)/thinwire chaos $(ARGS)

# The same commit gives the same bytes; the wheel is named after the oldest glibc that it runs on. LIBRARY=PATH saves compiling.
build: export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 315532800))
build: $(STAMP)
	rm -rf dist build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist --sdist --wheel $(if $(LIBRARY),-C cmake.define.TW_BUILT=$(abspath $(LIBRARY)))
	PATH="$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/dist/*.whl
	mv build/dist/*.tar.gz dist

.PHONY: test-wheel
test-wheel: $(STAMP)
	$(BIN)/python -m release $(ARGS)

clean:
	rm -rf $(VENV) $(VENV36) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
