# Everything is installed into .venv, from the hashed lock files. Needs Python 3.11 or newer with pip, and make.
# PYTHON names another interpreter, as python3.13 or by its path; it has an environment of its own, such as .venv-3.13.
PYTHON ?= python3
ifeq ($(PYTHON),python3)
VENV := .venv
else
override PYTHON := $(or $(shell .ci/python '$(PYTHON)'),$(error PYTHON=$(PYTHON) cannot be used))
VENV := .venv-$(shell '$(PYTHON)' -c 'import sys; print("%d.%d%s" % (*sys.version_info[:2], sys.abiflags))')
endif
BIN := $(VENV)/bin
# Byte-compiling several hundred modules at install time costs more than it saves.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-virtualenv

.PHONY: help demo test test-unit test-system test-deploy test-clients coverage check soak bench bench-all bench-profile bench-quick docs screenshot lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    the whole system on this machine, without an account'
	@echo 'make test    the tests, in less than four minutes; make test PYTHON=python3.13 with another Python'
	@echo 'make test-unit, make test-system   a part of them'
	@echo 'make coverage   the tests that run in the process, and how much of the code those of units and contracts cover'
	@echo 'make test-deploy   deploy/, with the tools of its users (needs buildah, mmdebstrap and npm, and root for the image)'
	@echo 'make test-clients   what apps copy out of deploy/clients, in each language that is installed'
	@echo 'make check   ruff, mypy, import-linter'
	@echo 'make soak    the long forms of the tests'
	@echo 'make bench   speed, ours and of others on the same work, half an hour (see tests/bench/README.md)'
	@echo 'make bench-all ONLY=growth   any other row of it (ONLY=list names them); make bench-quick   three ratios in a minute'
	@echo 'make bench-all ONLY=table   the figures by which the daemon is judged, with their goals, a quarter of an hour'
	@echo 'make docs    write the tables of settings and metrics anew from the code'
	@echo 'make screenshot   take the pictures of the status page anew, in twelve minutes (needs chromium); ONLY=screenshots/refusing one of them'
	@echo 'make lock    write the lock files anew from pyproject.toml'

# What the daemon needs.
$(VENV)/runtime: deploy/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "growlytics-forwarder needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ...")'
	@echo 'Installing into $(VENV) ...'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes -r deploy/requirements.txt
	@touch $@

# What the tests need besides, and the project itself, editable.
$(VENV)/dev: tests/requirements.txt $(VENV)/runtime
	@$(PIP_INSTALL) --require-hashes -r tests/requirements.txt
	@$(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

# What the tests of deploy/ need on top: linters, Kubernetes' schemas, Helm as a library.
NODE := $(VENV)/node
$(VENV)/deploy: tests/deploy-requirements.txt tests/deploy/package-lock.json $(VENV)/dev
	@$(PIP_INSTALL) --require-hashes -r tests/deploy-requirements.txt
	@mkdir -p $(NODE) && cp tests/deploy/package.json tests/deploy/package-lock.json $(NODE)
	@if command -v npm >/dev/null; then npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund --silent; fi
	@touch $@

demo: $(VENV)/runtime
	@$(BIN)/python -m forwarder demo

IN_PROCESS := tests/unit tests/contract
# The tests of the command wait much, and each for itself: in four parts, whatever files there are.
SYSTEM_1 := tests/system --ignore-glob='*/test_[d-z]*'
SYSTEM_2 := tests/system --ignore-glob='*/test_[!d-k]*'
SYSTEM_3 := tests/system --ignore-glob='*/test_[!l-o]*'
SYSTEM_4 := tests/system --ignore-glob='*/test_[!p-z]*'
SYSTEM := "$(BIN)/pytest $(SYSTEM_1)" "$(BIN)/pytest $(SYSTEM_2)" "$(BIN)/pytest $(SYSTEM_3)" "$(BIN)/pytest $(SYSTEM_4)"
# Runs commands side by side, shows what each said when it has ended, and fails if one of them did.
BESIDE := .ci/beside

test: $(VENV)/dev
	@$(BESIDE) '$(BIN)/pytest $(IN_PROCESS)' '$(BIN)/pytest tests/integration' $(SYSTEM)

test-unit: $(VENV)/dev
	@$(BIN)/pytest $(IN_PROCESS)

test-system: $(VENV)/dev
	@$(BESIDE) $(SYSTEM)

# Counting takes three times the CPU, so it is done of the unit and contract tests alone, in two parts, whatever files there are.
COVERED_1 := $(IN_PROCESS) --ignore-glob="*/test_[j-z]*"
COVERED_2 := $(IN_PROCESS) --ignore-glob="*/test_[!j-z]*"
coverage: $(VENV)/dev
	@$(BIN)/coverage erase
	@$(BESIDE) '$(BIN)/coverage run -m pytest $(COVERED_1)' '$(BIN)/coverage run -m pytest $(COVERED_2)' '$(BIN)/pytest tests/integration'
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --format=total | sed 's/^/branch coverage of the unit and contract tests, percent: /'

test-deploy: $(VENV)/deploy
	@$(BIN)/pytest tests/deploy

# What apps copy out of deploy/clients, in each language that is installed (python, node, go, java, php with curl, ruby).
test-clients: $(VENV)/dev
	@$(BIN)/pytest tests/deploy/test_python_client.py tests/deploy/test_snippets.py -rs

check: $(VENV)/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

soak: $(VENV)/dev
	@$(BIN)/pytest -m 'soak or hypothesis' --hypothesis-profile=soak --timeout=1800 -s

# What is measured beside us, from the registry; nginx, syslog-ng and Fluent Bit are used where they are installed.
$(VENV)/bench: tests/bench-requirements.txt $(VENV)/dev
	@$(PIP_INSTALL) --require-hashes -r tests/bench-requirements.txt
	@touch $@

# BASE names another checkout, with a .venv of its own: what is to be compared with it is.
COMPARED = $(if $(BASE),--base '$(BASE)')

bench: $(VENV)/bench
	@$(BIN)/python -m tests.bench $(COMPARED) --json tests/bench/results.json --into tests/bench/README.md

ONLY ?= list
bench-all: $(VENV)/bench
	@$(BIN)/python -m tests.bench $(COMPARED) $(if $(filter list,$(ONLY)),--list,--only '$(ONLY)' --json $(VENV)/bench-all.json)

# Where the daemon's time goes: WHEN=flood, or so many events a second.
WHEN ?= flood
bench-profile: $(VENV)/bench
	@$(BIN)/python -m tests.bench.sampled '$(WHEN)'

bench-quick: $(VENV)/dev
	@$(BIN)/python -m tests.bench.quick

# The documents' tables.
docs: $(VENV)/dev
	@$(BIN)/python -m tests.docs

# The status page of a daemon that has been busy for five minutes, and of daemons in other states.
screenshot: $(VENV)/dev
	@$(BIN)/python -m tests.system.screenshot deploy $(filter-out list,$(ONLY))

# The lock files name no download address, so that any index or mirror serves them.
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-emit-index-url \
	--no-header --python-version 3.11

# deploy/requirements.txt is what the image has, so it has `top` too: who looks into a container has only what is in it.
lock: $(VENV)/runtime
	@$(PIP_INSTALL) 'uv>=0.13'
	@$(LOCK) --extra speed --extra zstd --extra top pyproject.toml -o deploy/requirements.txt
	@$(LOCK) --extra speed --extra zstd --extra top --group dev pyproject.toml -o tests/requirements.txt
	@$(LOCK) --extra speed --extra zstd --extra top --group dev --group bench pyproject.toml -o tests/bench-requirements.txt
	@$(LOCK) --group build -o deploy/build-requirements.txt
	@$(LOCK) --extra speed --extra zstd --extra top --group dev --group deploy pyproject.toml -o tests/deploy-requirements.txt
	@npm install --prefix tests/deploy --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --silent
	@$(BIN)/python -m tests.deploy.lock

clean:
	rm -rf .venv .venv-* .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
