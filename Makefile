# `make run` trains the demo, `make test` passes the tests; both set themselves up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    ?= topologies/demo.toml
ARGS   ?=

.PHONY: run test check sim install clean
.DEFAULT_GOAL := run

run: $(STAMP)                       ## train the demo (RUN=another.toml ARGS="--resume")
	$(BIN)/realnet run $(RUN) $(ARGS)

test: $(STAMP) check                ## everything: checks, unit tests, simulation, real processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

sim: $(STAMP)                       ## a thousand simulated runs with faults, other ones for each commit
	$(BIN)/python -m realnet.testing.simulate --scenarios 1000 --processes 2 \
		--seed "$$(git rev-parse HEAD 2>/dev/null)" --past tests/sim/seeds.txt $(ARGS)

check: $(STAMP)                     ## style, types, import contracts, bans
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/bans.py

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("realnet needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e ".[train,dev]"
	@touch $@

clean:                              ## the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
