# Everything a contributor types. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := remote,dask,ray,demo,data,features,plot,mlflow,comet,neptune,models,serve,structured,otel,search,torch,ui,tests,docs,bench,dev
# With bytecode: processes of other users, as those of pods, may not write it, and would compile at each start.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
# Without compiled code on disk, each process of pytest compiles all tests.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help venv demo kubernetes test test-all unit soak-campaigns soak-canary soak-causes soak-engines soak-exports soak-faults soak-kubernetes soak-kubernetes-room soak-kubernetes-scale soak-lambda soak-loaders soak-schemas soak-token-laws soak-tokens soak-zero check bench bench-costs docs screenshots clean

# Most tests wait for processes, so more of them run at once than there are cores.
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadgroup --no-loadscope-reorder

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

venv: $(VENV)/.installed-all  ## install Hooke and every extra that tests, checks and docs need

demo: $(VENV)/.installed-demo  ## run the main job on real flights data
	$(BIN)/hooke demo
	@echo "  (hooke is in $(BIN): type '. $(BIN)/activate' first)"

kubernetes: venv  ## build the Kubernetes that tests run on; kept outside the clone
	@$(BIN)/python -m tests.kubernetes.build

unit: venv  ## run the quick tests, in less than a minute
	$(BIN)/python -m pytest -m "not needs and not long" -n 2 --dist loadfile

test: venv  ## run every test that needs only Python packages, but for long ones
	$(PYTEST) -m "not long"

test-all: venv  ## run every test, also those that need more (it says how to get it), and larger samples
	HOOKE_TEST_SIZE=full $(PYTEST)

soak-campaigns: venv  ## run tests of many seeds or trials in their full sizes: hours
	HOOKE_TEST_SIZE=soak $(PYTEST) $(shell grep -rlE --include=test_*.py 'choose_size\(.*soak=|some_of\(' tests)

soak-faults: venv  ## plant 40 faults in copies of the package, have tests look for each, and record what survives: hours (SEED=7)
	$(BIN)/python -m benchmarks.planted_faults --seed $(or $(SEED),7) --record

soak-causes: venv  ## plant ten causes of lost time in real workers, 120 studies, and record what is named
	$(BIN)/python -m benchmarks.causes

soak-engines: venv  ## run vLLM for CPUs, llama.cpp's server and `transformers serve` behind the front, measure what that costs, and record it
	$(BIN)/python -m benchmarks.serving.language_engines --record

soak-exports: venv  ## run the flights on Airflow, Prefect and Kubeflow Pipelines, compare their results with those of a run, and record it
	$(BIN)/python -m benchmarks.exported_flights --record

soak-kubernetes: kubernetes  ## have pods, nodes and the control plane of a cluster fail under a fleet and a run, 20 minutes each, and record it
	$(BIN)/python -m tests.kubernetes.storm --under fleet --seconds 1200 --seed 7 --record
	$(BIN)/python -m tests.kubernetes.storm --under run --seconds 1200 --seed 7 --record

soak-kubernetes-room: kubernetes  ## have a run's pods go from one to twenty to none and back, ten minutes, and record it
	$(BIN)/python -m tests.kubernetes.room --most 20 --record

soak-kubernetes-scale: kubernetes  ## have up to 10,000 pods on 1,000 simulated nodes, count what Hooke asks for, and record it
	rm -f benchmarks/records/kubernetes_scale.json
	$(BIN)/python -m tests.kubernetes.scale --sizes 10:100 10:100 10:100 100:1000 100:1000 1000:10000 --steady 20 --seed 7 --record benchmarks/records/kubernetes_scale.json

soak-lambda: venv  ## play 2,000 histories of a fleet on Lambda Cloud's API with every fault, kill 50 keepers, and record it
	$(BIN)/python -m benchmarks.lambda_fleet --record

soak-loaders: venv  ## measure loaders of shuffled batches beside one another, and record it
	$(BIN)/python -m benchmarks.loaders

soak-schemas: venv  ## answer 5,000 random JSON Schemas with a model of random logits, check each answer, and record it
	$(BIN)/python -m benchmarks.schemas --record

soak-canary: venv  ## roll out good and bad versions of a service with kills in each state, and record it
	$(BIN)/python -m benchmarks.serving.canary --record

soak-token-laws: venv  ## fit laws of tokens on simulated engines and on a real one, count how often their intervals hold, and record it
	$(BIN)/python -m benchmarks.token_laws --record
	$(BIN)/python -m benchmarks.token_laws --record --real

soak-zero: venv  ## go from no replica to one and back 200 times with kills in each state, and record it
	$(BIN)/python -m benchmarks.serving.zero --record

soak-tokens: venv  ## have 200 users of a language model read for ten minutes while replicas come, go and are killed, and record it
	$(BIN)/python -m benchmarks.serving.token_storm --record

check: venv  ## lint, format, types, floors, dependencies, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry .
	$(BIN)/sphinx-build --quiet -W --keep-going -b html docs docs/_build/html

bench: venv  ## measure, beside the installed peers
	$(BIN)/python -m pytest benchmarks --benchmark-only

bench-costs: venv  ## measure what docs/explanation/speed.md says of tasks, graphs, maps and requests, beside their bars
	$(BIN)/python -m benchmarks.costs --record
	$(BIN)/python -m tests.house.test_records

docs: venv  ## build the pages into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

screenshots: venv  ## make the pictures of pages that the docs show
	$(BIN)/python -m tests.pages.screenshots

clean:  ## remove what was built, but not the environment
	rm -rf hooke-demo build dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say what is installed; they are older than what declares it when that has changed.
$(VENV)/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Hooke with every extra into $(VENV): a minute or two"
	@$(BIN)/python -m pip uninstall --yes -qq hooke # the name until 0.1.0, where an old environment has it
	@$(PIP) -e ".[$(EXTRAS)]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Hooke and what the demo needs into $(VENV): about a minute"
	@$(BIN)/python -m pip uninstall --yes -qq hooke # as above
	@$(PIP) -e ".[demo]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hooke needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)."; \
	  echo "next: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed, so there is nowhere to install to."; \
	  echo "next: on Debian or Ubuntu, 'apt-get install python3-venv', then make $(MAKECMDGOALS)"; exit 1; }
