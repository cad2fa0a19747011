# Everything runs from a checkout. Each target first installs what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin
PROMPT ?= a green tree with the sun on the right above a red hand with five fingers on a snow background
SEED ?= 5
OUT ?= out
SHELL := /bin/bash

# One thread per process. With small models, threads cost more time in waiting for each other than they save.
export OMP_NUM_THREADS ?= 1
# Prevents Python from importing the folders of the checkout (detectors/, pipelines/, ...) as separate packages.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests of every part that take minutes on one core, for `make lowest`, and those among them that do not hold there:
# torchvision 0.22 resizes by other rounding, and torch 2.7 rounds one batch by 5.5e-5 instead of 5e-5.
FAST := $(addprefix tests/,core reports evaluate/test_harness.py evaluate/test_parquet.py demo/test_server.py \
	$(addprefix metrics/test_,bertscore.py hps.py hps_benchmark.py hps_parity.py hps_stream.py) \
	$(addprefix detectors/test_,aligngemini.py baselines.py chat_adapters.py chat_choices.py chat_faults.py \
	chat_local.py conformance.py grounding_sam.py text.py) \
	$(addprefix pipelines/test_,families.py from_pretrained.py laws.py refined.py) \
	$(addprefix training/test_,fit.py recipes.py) \
	$(addprefix cli/test_,detect.py evaluate.py refine.py startup.py train.py))
ROUNDING := $(addprefix --deselect=tests/,\
	detectors/test_grounding_sam.py::test_a_pth_file_draws_what_segment_anything_draws \
	pipelines/test_laws.py::test_a_batch_of_regions_equals_single_calls[KolorsPAGPipeline])

.PHONY: demo test lowest check format types docs bench gallery example micro tree clean

demo: .venv/installed
	$(BIN)/refiner refine "$(PROMPT)" --seed $(SEED) --out $(OUT)

# One process for each core, at most four: each takes up to 3 GB.
test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# With the lowest versions that pyproject.toml allows, in a virtual environment of their own.
lowest: .venv-lowest/installed-dev
	.venv-lowest/bin/python -m pytest -m 'not slow and not gpu' $(FAST) $(addprefix ',$(addsuffix ',$(ROUNDING)))

check: .venv/installed-dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_exports.py

types: .venv/installed-dev tree
	MYPYPATH=build/tree $(BIN)/mypy -p refiner

# The pages of docs/ as a site in build/site.
docs: .venv/installed-docs tree
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/installed-dev
	$(BIN)/refiner micro bench
	$(BIN)/python tests/benchmarks/examples.py
	$(BIN)/python tests/benchmarks/costs.py
	$(BIN)/python tests/benchmarks/decoding.py
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/overhead.py
	$(BIN)/python tests/benchmarks/together.py
	$(BIN)/python tests/benchmarks/projection.py
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/referee.py
	$(BIN)/python tests/benchmarks/localization.py
	$(BIN)/python tests/benchmarks/semap.py
	$(BIN)/python tests/benchmarks/harness.py
	$(BIN)/python tests/benchmarks/detect.py
	$(BIN)/python tests/benchmarks/rank.py
	$(BIN)/python tests/benchmarks/readers.py
	$(BIN)/python tests/benchmarks/hostile.py
	$(BIN)/python tests/benchmarks/hps.py
	$(BIN)/python tests/benchmarks/hps_parity.py
	$(BIN)/python tests/benchmarks/vlm.py --count 100
	$(BIN)/python tests/benchmarks/chat.py
	$(BIN)/python tests/benchmarks/agent.py
	$(BIN)/python tests/benchmarks/anomreason.py
	$(BIN)/python tests/benchmarks/text.py
	$(BIN)/python tests/benchmarks/training.py

# The images in README and docs.
gallery: .venv/installed
	$(BIN)/python tests/benchmarks/gallery.py

# The refined image that the browser demo shows before the first run.
example: .venv/installed
	$(BIN)/python -m refiner.demo.example "$(PROMPT)" $(SEED)

micro: .venv/installed
	$(BIN)/refiner micro build

# mypy does not read the package-dir map of pyproject.toml. This tree of links has the layout of the installed package.
tree:
	rm -rf build/tree && mkdir -p build/tree/refiner
	ln -s $(CURDIR)/refiner/* build/tree/refiner/
	for folder in demo detectors pipelines training; do ln -s $(CURDIR)/$$folder build/tree/refiner/$$folder; done

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -e . -c constraints.txt
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	touch .venv/installed $@

.venv/installed-docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[docs]' -c constraints.txt
	touch $@

.venv-lowest/installed-dev: pyproject.toml
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) tests/support/lowest.py dev > .venv-lowest/pins.txt
	.venv-lowest/bin/pip install --quiet -e '.[dev]' -c .venv-lowest/pins.txt
	touch $@

clean:
	rm -rf build dist out runs *.egg-info .mypy_cache .pytest_cache .ruff_cache
