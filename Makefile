# The loop. Every target makes its own environment and installs what it needs.
#   make demo    the whole way on this machine, with a real model: about a minute after set-up
#   make quick   unit and property tests: about a minute
#   make test    all checks and tests, campaigns at a tenth: 13 to 15 minutes on two cores
#   make nightly the same with everything in full
#   make faults  all faults of delivery, and what came of them in counts
#   make soak    the same for long: make soak SECONDS=3600, with other random choices each time
#   make fuzz    100,000 hostile inputs for the server and the parsers, and what came of them in counts
#   make check   ruff, mypy, import contracts
#   make fix     format, and fix what ruff can
#   make docs    generate docs/ from the tables in the code
#   make bench   the README's figures and how they came about, in one report; QUICK=1 shows in a minute that it works
#   make dist    wheel and sdist in dist/, checked as the package index would

# docs/testing.md has more on tests.

PYTHON ?= python3
# Processes that run tests at the same time.
WORKERS ?= 6
VENV   := .venv
RUN    := $(VENV)/bin
CLIENTS := .venv-clients
READY  := $(VENV)/.ready
DEBIAN := mosquitto:mosquitto pg_ctlcluster:postgresql mosquitto_passwd:mosquitto qemu-x86_64-static:qemu-user-static sshd:openssh-server ssh:openssh-client mkfs.ext4:e2fsprogs chromium:chromium curl:curl openssl:openssl wrk:wrk zstd:zstd bsdiff:bsdiff espeak-ng:espeak-ng node:nodejs npm:npm
# Modules are compiled when they are first imported: most of them never are.
PIP := python -m pip install --quiet --no-compile
PARALLEL = --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder
# Prerequisites that don't need each other are made at the same time.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=3
endif
# Nothing of the caller's environment leaks into ours. Python keeps what it has compiled: hundreds of short processes run.
export PYTHONPATH :=
export PYTHONDONTWRITEBYTECODE :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

.PHONY: all python setup demo test quick nightly faults soak fuzz check fix docs dist bench clean debian need
.DEFAULT_GOAL := all

all: check test

setup: $(READY)

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgeml needs Python 3.11 or newer: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory need PACKAGES=python3-venv

$(READY): pyproject.toml constraints.txt | python
	$(PYTHON) -m venv $(VENV)
	$(RUN)/$(PIP) --upgrade pip
	@# torch by itself first: a plain requirement on it would take a build with gigabytes of CUDA.
	$(RUN)/$(PIP) --constraint constraints.txt torch==2.13.0
	$(RUN)/$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(RUN)/edgeml demo

# Other people's clients call the agent from an environment of their own, without edgeml.
$(CLIENTS)/.ready: tests/clients/requirements.txt tests/clients/package-lock.json | python debian
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/$(PIP) --requirement $<
	npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-timeout=30000 --fetch-retries=1
	@touch $@

# First the tests that measure time, alone; then all others, several at a time.
test: check debian $(CLIENTS)/.ready
	$(RUN)/python -m pytest $(LIMIT) -m timing $$(grep --recursive --files-with-matches --include='*.py' 'mark\.timing' tests)
	$(RUN)/python -m pytest $(LIMIT) -m "not timing" $(PARALLEL)

nightly: export EDGEML_NIGHTLY := 1
nightly: DEBIAN += rabbitmqctl:rabbitmq-server
nightly: LIMIT := --timeout=7200
nightly: test

# Each worker imports all tests first, which takes 10 CPU-seconds: for short tests three do better than six.
quick: WORKERS = 3
quick: setup
	$(RUN)/python -m pytest tests/unit tests/property $(PARALLEL)

faults: setup debian
	EDGEML_NIGHTLY=1 $(RUN)/python -m pytest tests/faults

soak: setup debian
	@export EDGEML_NIGHTLY=1 EDGEML_FAULTS_SECONDS=$(or $(SECONDS),600) EDGEML_FAULTS_SEED=$${EDGEML_FAULTS_SEED:-$$(date +%s)}; \
	echo "EDGEML_FAULTS_SEED=$$EDGEML_FAULTS_SEED"; $(RUN)/python -m pytest tests/faults --timeout=0

fuzz: setup debian
	EDGEML_NIGHTLY=1 EDGEML_FUZZ_INPUTS=$(or $(INPUTS),100000) $(RUN)/python -m pytest tests/fuzz --timeout=0

check: setup
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy
	$(RUN)/lint-imports

fix: setup
	$(RUN)/ruff check --fix
	$(RUN)/ruff format

docs: setup $(CLIENTS)/.ready
	$(RUN)/python docs/generate.py
	$(RUN)/python benchmarks/tables.py
	EDGEML_WRITE_DOCS=1 $(RUN)/python -m pytest -q tests/integration/test_clients.py

dist: setup
	rm -rf dist
	$(RUN)/python -m build --outdir dist
	$(RUN)/python -m twine check --strict dist/*

# QUICK=1 runs each program for seconds; KEEP=1 keeps the report for the documents' tables. Rivals' environments are made once.
bench: setup debian
	@mkdir -p out
	$(RUN)/python benchmarks $(if $(QUICK),--quick) $(if $(KEEP),--keep) --json out/bench.json --markdown out/bench.md
	$(if $(KEEP),$(RUN)/python benchmarks/tables.py)

# Debian packages that the tests need, each after one of its programs. A missing package is installed as root; other
# users get the command that installs it.
debian: | python
	@export PATH=$$PATH:/usr/sbin; missing=; \
	for pair in $(DEBIAN); do command -v $${pair%:*} >/dev/null || missing="$$missing $${pair#*:}"; done; \
	test -z "$$missing" || $(MAKE) --no-print-directory need PACKAGES="$$missing"

need:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES); \
	else echo "missing: sudo apt-get install $(PACKAGES)"; exit 2; fi

clean:
	rm -rf $(VENV) $(CLIENTS) tests/clients/node_modules .venv-rivals build dist out
