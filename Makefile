# `make demo` and `make test` set up what is missing by themselves.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

DEMO_PICTURES ?= 2000

.PHONY: demo test test-slow check format bench bench-index bench-sources bench-metrics clean help

help:                ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools wheel
	@# torch first and by itself: with it there, nothing else pulls in a build of several gigabytes.
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,dev]'
	@touch $@

demo: $(INSTALLED)   ## draws 2,000 pictures, develops them, searches them, scores the models
	$(BIN)/python scripts/draw_pictures.py demo/photos --count $(DEMO_PICTURES) --seed 7
	$(BIN)/darkroom nightly source.path=demo/photos corpus=demo/corpus experiment=demo
	$(BIN)/python scripts/demo_searches.py demo/photos demo/corpus
	$(BIN)/python scripts/evaluate_pocket.py --count 200 --out demo/held-out

# A process a core, one thread each; then those that share one cluster of Ray, which takes all cores.
SPREAD := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

test: $(INSTALLED)   ## all tests but the slow ones
	$(SPREAD) -m "not slow and not gpu and not ray"
	$(BIN)/pytest -m "ray and not slow and not gpu"

test-slow: $(INSTALLED)  ## the tests that take minutes: kills, nodes that die, thousands of damaged files
	$(SPREAD) -m "slow and not gpu and not ray"
	$(BIN)/pytest -m "slow and ray and not gpu"

check: $(INSTALLED)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## rewrites the files as `make check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## the table of ratios in the README
	$(BIN)/python scripts/bench.py

bench-index: $(INSTALLED)  ## the tables of the index in the README, of 1 and 10 million vectors
	$(BIN)/python -m scripts.bench_index bench/index

bench-sources: $(INSTALLED)  ## listing a million entries, buckets and URLs that are 50 ms away
	$(BIN)/python -m scripts.bench_listing bench/sources
	$(BIN)/python -m scripts.bench_remote
	$(BIN)/python -m scripts.bench_http

bench-metrics: $(INSTALLED)  ## scoring 40,000 captions and 200,000 answers, and ranking
	$(BIN)/python -m scripts.bench_metrics

clean:               ## removes the demo, and what tools left
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache
