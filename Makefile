# make demo    everything at demo scale, on generated data, minutes on 2 cores
# make notebooks    the demo's executed notebooks in JupyterLab; SCALE=small for another scale's
# make test    the unit tests, and every rule once on a few images
# make test-all    also the whole demo, a Slurm with faults, the report in a browser, and all else that takes long
# make check-golden    whether the demo's numbers are those of the record; after make demo
# All of them make the environment .venv first, of the newest Python that serves; PYTHON=python3.12 takes another one.
# make lock    compile the lock files after a change of envs/*.in

VERSIONS := 3.13 3.12 3.11
PYTHON ?= $(firstword $(foreach one,$(VERSIONS),$(shell python$(one) -c 'import ensurepip' 2> /dev/null && echo python$(one))))
VENV ?= .venv
CORES ?= 2
SCALE ?= demo
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Where it is set, as in some images, each of many hundred processes compiles all that it imports: starting Snakemake takes
# 5 s instead of 2 s, torch and timm 16 s instead of 5 s.
unexport PYTHONDONTWRITEBYTECODE
# A file's tests share what they make, so one process runs them all, those of the rules first, as they take longest.
PYTEST := OMP_NUM_THREADS=1 pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python

# An environment remembers the folder that it was made for, and its editable install names the code. Where either is of
# another folder, as after copying or renaming the project, it would run that folder's code, or nothing: it is made anew.
FOREIGN := $(shell test -d $(VENV) && here=$$(pwd -P) && { \
  sed -n 's/^command = .* -m venv //p' $(VENV)/pyvenv.cfg | grep -vxF "$$here/$(VENV)"; \
  cat $(VENV)/lib/python3*/site-packages/__editable__.lska_reproduction-*.pth 2> /dev/null | grep -vxF "$$here/src"; })

.PHONY: demo notebooks test test-all check-golden lint lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/runtime
	lska warm snakemake --cores $(CORES) --rerun-incomplete -- all
	@lska summary
	@lska verify

# The demo is made first where it has no notebooks; another scale may take days, so its command is named instead.
notebooks: $(VENV)/runtime
	@test $(SCALE) != demo || ls results/demo/notebooks/*.ipynb > /dev/null 2>&1 || $(MAKE) demo
	lska lab --config config/$(SCALE).yaml -- $(LAB)

test: $(VENV)/test lint
	$(PYTEST) -m "not slow" tests/rules tests/unit tests/notebooks

# Tests on a Slurm mostly wait, so they run beside the others; their words come at the end. A failure in one part does not
# keep the others from being seen.
test-all: test
	@log=$$(mktemp); pytest -m "not slow" tests/cluster > $$log 2>&1 & cluster=$$!; trap "kill $$cluster" INT TERM; \
	  $(PYTEST) -m slow tests/unit tests/notebooks tests/gpu; slow=$$?; \
	  pytest tests/workflow; workflow=$$?; \
	  wait $$cluster; cluster=$$?; cat $$log; rm -f $$log; exit $$((slow | workflow | cluster))

# What a change of the code must leave as it is.
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
	@echo "The environment $(VENV) is of another folder: it is made anew"
	rm -rf $(VENV)

# The lock is complete, so dependencies are not resolved again (and envs/overrides.txt holds).
$(VENV)/runtime: $(VENV)/uv envs/requirements.txt pyproject.toml
	$(INSTALL) --no-deps --require-hashes -r envs/requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test: $(VENV)/runtime envs/requirements-test.txt
	$(INSTALL) --no-deps --require-hashes -r envs/requirements-test.txt
	touch $@
