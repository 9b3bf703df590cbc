# All targets run in .venv, which is made when a target first needs it.
PYTHON ?= python3
BIN := .venv/bin
# in this mode Python finds the package also from the folder above the clone, whose name hides it
EDITABLE := --config-settings editable_mode=compat -e

.PHONY: demo compare test test-slow test-gpu test-faults test-onedl lint format bench bench-gpu docs site clean

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is required; name one with PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ctypes; [ctypes.CDLL(n) for n in ("libGL.so.1", "libgthread-2.0.so.0")]' 2>/dev/null || { echo "OpenCV needs two system libraries: apt-get install libgl1 libglib2.0-0"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(EDITABLE) '.[test]'
	@touch $@

demo: .venv/.installed
	$(BIN)/xtra demo

# DATA is cifar10 (downloaded), a folder with train/CLASS and test/CLASS, or a folder with the idx
# files of Fashion-MNIST. CONFIGS are the configs to compare, ARGS are options of xtra compare.
DATA ?= cifar10
BUDGET ?= 2h
CONFIGS ?= $(addprefix mmconfigs/small/cifar10_,xtra.py aim.py mae.py)
compare: .venv/.installed
	$(BIN)/xtra compare $(CONFIGS) --data $(DATA) --budget $(BUDGET) $(ARGS)

test: .venv/.installed lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: .venv/.installed
	$(BIN)/python -m pytest -q -m slow

test-gpu: .venv/.installed
	$(BIN)/python -m pytest -q -m gpu

# Test what is lost by killed processes, signals, copies and damaged files; prints a table.
test-faults: .venv/.installed
	$(BIN)/python -m pytest -q -m faults

# Run the suite and the demo on the maintained forks of MMEngine, MMPretrain and mim (docs/onedl.txt).
test-onedl: .venv-onedl/.installed
	.venv-onedl/bin/python -m pytest -q -n 2 --dist loadfile
	.venv-onedl/bin/xtra demo --out work_dirs/demo-onedl

.venv-onedl/.installed: pyproject.toml docs/onedl.txt
	$(PYTHON) -m venv .venv-onedl
	.venv-onedl/bin/pip install -q $(EDITABLE) '.[test]'
	.venv-onedl/bin/pip uninstall -q -y mmengine mmpretrain openmim
	.venv-onedl/bin/pip install -q --no-deps --force-reinstall -r docs/onedl.txt
	@touch $@

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.installed
	$(BIN)/python tests/bench/run_all.py $(ARGS)

bench-gpu: .venv/.installed
	$(BIN)/python tests/bench/run_all.py --device cuda $(ARGS)

docs: .venv/.installed
	$(BIN)/python docs/make.py

# the pages and an API reference of the docstrings; open build/site/index.html
site: .venv/.installed
	$(BIN)/pip install -q $(EDITABLE) '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site

clean:
	rm -rf .venv .venv-onedl build docs/api work_dirs
