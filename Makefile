# make demo    everything at demo scale, on generated data; 10 minutes on 2 cores
# make notebooks    the demo's executed notebooks in JupyterLab; SCALE=small for another scale's
# make test    unit tests, and every rule once on a few images; 7 minutes
# make test-all    also the slow tests: the whole demo, a Slurm with faults, the report in a browser
# make check-golden    compare the demo's numbers with the recorded ones; after make demo
# make lock    compile the lock files after a change of envs/*.in
# All of them first create the environment .venv, with the newest Python from 3.11 to 3.13; PYTHON=python3.12 takes another.

VERSIONS := 3.13 3.12 3.11
PYTHON ?= $(firstword $(foreach one,$(VERSIONS),$(shell python$(one) -c 'import ensurepip' 2> /dev/null && echo python$(one))))
VENV ?= .venv
CORES ?= 2
SCALE ?= demo
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# If it is set, as in some containers, each of many hundred processes compiles its imports again: starting Snakemake then takes
# 5 s instead of 2 s, torch and timm 16 s instead of 5 s.
unexport PYTHONDONTWRITEBYTECODE
# The tests of a file share files, so one process runs them all. Tests of rules take longest, so they start first.
PYTEST := OMP_NUM_THREADS=1 pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python

# An environment belongs to the folder in which it was made. After copying or renaming the project it would run the other
# folder's code, or nothing. So it is made again.
FOREIGN := $(shell test -d $(VENV) && here=$$(pwd -P) && { \
  sed -n 's/^command = .* -m venv //p' $(VENV)/pyvenv.cfg | grep -vxF "$$here/$(VENV)"; \
  cat $(VENV)/lib/python3*/site-packages/__editable__.lska_reproduction-*.pth 2> /dev/null | grep -vxF "$$here/src"; })

.PHONY: demo notebooks test test-all check-golden lint lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/runtime
	lska warm snakemake --cores $(CORES) --rerun-incomplete -- all
	@lska verify
	@lska summary

# Makes the demo first if it has no notebooks. Another scale may take days, so `lska lab` only names the command.
notebooks: $(VENV)/runtime
	@test $(SCALE) != demo || ls results/demo/notebooks/*.ipynb > /dev/null 2>&1 || $(MAKE) demo
	lska lab --config config/$(SCALE).yaml -- $(LAB)

test: $(VENV)/test lint
	$(PYTEST) -m "not slow" tests/rules tests/unit tests/notebooks

# Tests on a Slurm mostly wait, so they run beside the others; their output comes at the end. All parts run, even if one fails.
test-all: test
	@log=$$(mktemp); pytest -m "not slow" tests/cluster > $$log 2>&1 & cluster=$$!; trap "kill $$cluster" INT TERM; \
	  $(PYTEST) -m slow tests/unit tests/notebooks tests/gpu; slow=$$?; \
	  $(PYTEST) tests/workflow; workflow=$$?; \
	  wait $$cluster; cluster=$$?; cat $$log; rm -f $$log; exit $$((slow | workflow | cluster))

# Numbers that a change of the code must not change.
check-golden: $(VENV)/runtime
	python tests/golden.py check

lint: $(VENV)/test
	ruff check src tests bench

lock: $(VENV)/uv
	cd envs && ./lock.sh

clean:
	rm -rf work results/demo checkpoints/demo

# uv installs the lock several times faster than pip; it is itself locked by hash.
$(VENV)/uv: envs/bootstrap.txt $(if $(FOREIGN),foreign)
	@test -n "$(PYTHON)" || { echo "Install Python 3.11, 3.12 or 3.13 with its module venv, or name one: PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/bootstrap.txt
	touch $@

.PHONY: foreign
foreign:
	@echo "The environment $(VENV) belongs to another folder; it is made again"
	rm -rf $(VENV)

# The lock is complete, so dependencies are not resolved again (and envs/overrides.txt holds).
$(VENV)/runtime: $(VENV)/uv envs/requirements.txt pyproject.toml
	$(INSTALL) --no-deps --require-hashes -r envs/requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test: $(VENV)/runtime envs/requirements-test.txt
	$(INSTALL) --no-deps --require-hashes -r envs/requirements-test.txt
	touch $@
