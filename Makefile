# make demo    everything at demo scale, on generated data, minutes on 2 cores
# make notebooks    the demo's executed notebooks in JupyterLab; SCALE=small for another scale's
# make test    all tests, in the same environment with the test extras
# make test-cluster    all tests on a Slurm of their own; needs root and Debian's packages of Slurm
# make check-golden    whether the demo's numbers are those of the record; after make demo
# make lock    compile the lock files after a change of envs/*.in

PYTHON ?= python3.11
CORES ?= 2
SCALE ?= demo
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Where it is set, as in some images, each of many hundred processes compiles all that it imports: starting Snakemake takes
# 5 s instead of 2 s, torch and timm 16 s instead of 5 s.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := .venv/bin/uv pip install --quiet --python .venv/bin/python

# An environment remembers the folder that it was made for, and its editable install names the code. Where either is of
# another folder, as after copying or renaming the project, it would run that folder's code, or nothing: it is made anew.
FOREIGN := $(shell test -d .venv && here=$$(pwd -P) && { \
  sed -n 's/^command = .* -m venv //p' .venv/pyvenv.cfg | grep -vxF "$$here/.venv"; \
  cat .venv/lib/python3*/site-packages/__editable__.lska_reproduction-*.pth 2> /dev/null | grep -vxF "$$here/src"; })

.PHONY: demo notebooks test test-cluster check-golden lint lock clean
.DELETE_ON_ERROR:

demo: .venv/runtime
	lska warm snakemake --cores $(CORES) --rerun-incomplete --show-failed-logs --quiet rules -- all
	@lska summary
	@lska verify

# The demo is made first where it has no notebooks; another scale may take days, so its command is named instead.
notebooks: .venv/runtime
	@test $(SCALE) != demo || ls results/demo/notebooks/*.ipynb > /dev/null 2>&1 || $(MAKE) demo
	lska lab --config config/$(SCALE).yaml -- $(LAB)

# Those on a Slurm mostly wait, so they run beside all others; their words come at the end. A failure in one part does not
# keep the others from being seen.
test: .venv/test lint
	@log=$$(mktemp); pytest -m "cluster and not slow" > $$log 2>&1 & cluster=$$!; trap "kill $$cluster" INT TERM; \
	  OMP_NUM_THREADS=1 pytest -n $(CORES) -m "not workflow and not cluster"; unit=$$?; pytest -m workflow; workflow=$$?; \
	  wait $$cluster; cluster=$$?; cat $$log; rm -f $$log; exit $$((unit | workflow | cluster))

# Also the faults that take longest.
test-cluster: .venv/test
	pytest -m cluster

# What a change of the code must leave as it is.
check-golden: .venv/runtime
	python tests/golden.py check

lint: .venv/test
	ruff check src tests bench

lock: .venv/uv
	cd envs && ./lock.sh

clean:
	rm -rf work results/demo checkpoints/demo

# uv installs the lock several times faster than pip; it is itself locked by hash.
.venv/uv: envs/bootstrap.txt $(if $(FOREIGN),foreign)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/bootstrap.txt
	touch $@

.PHONY: foreign
foreign:
	@echo 'The environment .venv is of another folder: it is made anew'
	rm -rf .venv

# The lock is complete, so dependencies are not resolved again (and envs/overrides.txt holds).
.venv/runtime: .venv/uv envs/requirements.txt pyproject.toml
	$(INSTALL) --no-deps --require-hashes -r envs/requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

.venv/test: .venv/runtime envs/requirements-test.txt
	$(INSTALL) --no-deps --require-hashes -r envs/requirements-test.txt
	touch $@
