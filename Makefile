# Two commands do everything on a fresh machine with Python and make:
#   make demo    environment, install, train a small model, score it, translate with it
#   make test    environment, install, every check but the slow ones
# PYTHON=python3.12 chooses the interpreter, VENV=somewhere the environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.vaswani-installed
DEMO := runs/transformer-demo

# Tests and checks are many small processes: one thread each, and nothing from the network.
CHECK_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=

.PHONY: install demo test test-all lint clean

install: $(STAMP)

# A torch that is there is kept, in the environment or in the interpreter it is made from (as in a GPU image);
# else the one constraints.txt names comes first, so that nothing pulled in later chooses another.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || \
	  $(PYTHON) -m venv $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(BIN)/python -m pip install "$$(grep '^torch==' constraints.txt)"
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >> $(VENV)/constraints.txt
	$(BIN)/python -m pip install --constraint $(VENV)/constraints.txt --editable '.[all,test]'
	touch $@

demo: install
	$(BIN)/vaswani train transformer-demo --out $(DEMO)
	$(BIN)/vaswani evaluate-translation $(DEMO) --data transformer-demo --baselines
	$(BIN)/python training/demo.py $(DEMO)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint
	$(CHECK_ENV) $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint
	$(CHECK_ENV) $(BIN)/python -m pytest -n 2

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
