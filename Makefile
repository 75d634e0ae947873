# make evaluate   install what is missing, then evaluate checkpoints/mini on data/demo.csv
# make test       install what is missing, then run the tests
# make test-slow  run the tests that inject faults, start second processes or train
# make test-oldest, make test-newest
#                 the tests of `make test` with the oldest or the newest versions that pyproject.toml admits, in .venv/oldest or
#                 .venv/newest; PYTHON=python3.12 chooses the Python, UV_TORCH_BACKEND=cpu the small build of torch
# make lock       write requirements/hashes.txt anew, after constraints.txt has changed
# make licences   write docs/licences.md anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# processes that share the fast tests
WORKERS ?= auto
# programs that look at the packages stand apart from them
TOOLS := $(VENV)/tools
FETCH := $(TOOLS)/bin/python -m pip install --quiet --retries 1 --timeout 15
AUDIT := pip-audit==2.10.1
UV := uv==0.13.9
FAST := -m "not slow" --numprocesses $(WORKERS) --maxprocesses 4 --dist loadscope

.PHONY: evaluate test test-slow test-oldest test-newest checks audit licences lock install clean

evaluate: $(STAMP)
	$(BIN)/python evaluate.py

test: $(STAMP)
	$(BIN)/python -m pytest $(FAST)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow or inputs"

# hashes are of constraints.txt's versions; these others come as the index has them
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest: test-%: $(TOOLS)
	$(FETCH) $(UV)
	$(PYTHON) -m venv --clear $(VENV)/$*
	$(TOOLS)/bin/uv pip install --quiet --python $(VENV)/$*/bin/python --resolution $(RESOLUTION) --editable '.[dev]'
	$(VENV)/$*/bin/python -m pytest $(FAST)

checks: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory audit

# fails where a vulnerability is known; where the index cannot be asked, says so and passes
audit: $(STAMP) $(TOOLS)
	-@test -x $(TOOLS)/bin/pip-audit || $(FETCH) $(AUDIT)
	$(BIN)/python requirements/audit.py $(TOOLS)/bin/pip-audit

licences: $(STAMP)
	$(BIN)/python requirements/licences.py

# torch is left out: which build of it suits a machine, and where it comes from, is the user's to say
lock: $(TOOLS)
	$(FETCH) $(UV)
	$(TOOLS)/bin/uv pip compile --quiet constraints.txt requirements/build.txt --no-deps --no-emit-package torch --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" --output-file requirements/hashes.txt

install: $(STAMP)

$(TOOLS):
	$(PYTHON) -m venv $@

# First all that has hashes, checked against them; then torch, what its build needs, and this package
$(STAMP): pyproject.toml constraints.txt requirements/hashes.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12 install"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements/hashes.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
