# Everything happens in $(VENV), inside the checkout by default; every target is safe to repeat.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_OPTIONS := $(if $(PEER),--peer deepmd-kit)
BUILD_INPUTS := pyproject.toml CMakeLists.txt constraints.txt $(wildcard deepmd_lite/kernels/*.cpp deepmd_lite/kernels/*.h)

.PHONY: help quickstart test lint bench install clean

help:
	@echo "make quickstart   install, then train, test, relax and run parallel MD (results: quickstart/)"
	@echo "make test         install, then run the tests"
	@echo "make lint         ruff, mypy, clang-format"
	@echo "make bench        benchmarks of this machine; PEER=1: DeePMD-kit beside it; DATA=FOLDER: training too;"
	@echo "                  RESULTS=FOLDER: write JSON and tables there (see benchmarks/)"
	@echo "make clean        remove the environment and build folders"

quickstart: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/python -m pip install -q ruff mypy clang-format types-PyYAML types-tqdm
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror deepmd_lite/kernels/*.cpp deepmd_lite/kernels/*.h

bench: $(INSTALLED)
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/infer.py $(BENCH_OPTIONS) $(if $(RESULTS),--out $(RESULTS)/infer.json)
	$(BIN)/python benchmarks/memory.py $(BENCH_OPTIONS) $(if $(RESULTS),--out $(RESULTS)/memory.json)
ifneq ($(DATA),)
	$(BIN)/python benchmarks/train.py --data $(DATA) $(BENCH_OPTIONS) $(if $(RESULTS),--out $(RESULTS)/train.json)
endif

install: $(INSTALLED)

$(INSTALLED): $(BUILD_INPUTS)
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing: install Python 3.10 or newer (Debian: apt install python3)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $$($(PYTHON) --version) is too old; Python 3.10 or newer is needed: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: Python's venv is missing (Debian: apt install python3-venv)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "make: a C++ compiler is missing (Debian: apt install g++)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build quickstart
