VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: demo test lint docs

demo: $(VENV)/.ham10000
	$(PYTHON) -m examples.ham10000 train

# Whole files go to one of two workers, so that what a file shares is made once.
test: $(VENV)/.dev
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Into site/, to be opened from there; a broken link or an undocumented public name fails.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# What pip reads and compiles.
BUILT := pyproject.toml CMakeLists.txt $(wildcard attnblocks/ops/native/*.cpp attnblocks/ops/native/*.h)

# One file per extra says that it is installed; a change of what is built installs again.
$(VENV)/.%: $(BUILT)
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --editable '.[$*]'
	touch $@
