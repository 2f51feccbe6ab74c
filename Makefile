# make run    install and run the main job: train on the embedded synthetic cube, evaluate at sites held out
# make test   install and pass every notebook and every test
# make bench  time the day loop, its gradient, spin-up, training and compilation (a quarter of an hour; BENCH=--full for the whole matrix)
# make study  the whole study at the real sites, resumable (an hour or two; PARTS="held_out years" for some of it)
# make docs   render the site into _docs (with Quarto where it is installed)
# make hints  have a type checker read the whole package (half a minute)
# Needs Python >= 3.11 and nothing else. PYTHON=/path/to/python chooses one; RUN=folder another run directory.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
RUN ?= runs/default
# the synthetic sites differ by soil and deposition, too; the recipe was chosen at other sites than those it is shown at: cubes of the seeds 1 and 2
SYNTHETIC := --n-sites 288 --years 2 --epochs 50 --features plant_form bioclim site soil deposition --noise 0.2 --weight-decay 1 --dropout 0 --valid-fraction 0.05 --baseline
BIN := .venv/bin

# compiled JAX programs are kept between processes and runs
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2
# bytecode is written, even where the environment says not to: an import of JAX takes 1 s with it and 10 s without
export PYTHONDONTWRITEBYTECODE :=
export PYTHONWARNINGS ?= ignore:Implementing implicit namespace:DeprecationWarning

.PHONY: help bench study run test notebooks unit lint hints export readme docs clean

help:
	@sed -n '1,7s/^# //p' Makefile

run: .venv/run.stamp
	$(BIN)/hybridecosys train --out $(RUN) $(if $(wildcard $(RUN)/options.json),--resume,$(SYNTHETIC))

# notebooks beside tests, these in two processes, a file of tests in one, long ones first (tests/conftest.py); the last line is pytest's count
test: lint
	@$(MAKE) --no-print-directory notebooks & notebooks=$$!; \
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder >.unit.log 2>&1; unit=$$?; \
	wait $$notebooks; notebooks=$$?; cat .unit.log; exit $$((notebooks | unit))

lint: .venv/dev.stamp
	$(BIN)/ruff check .

# uv fetches mypy, which is none of the packages of development; .ci/package runs it, too
hints: .venv/dev.stamp
	$(BIN)/uv tool run mypy --python-executable $(BIN)/python

# one process for all notebooks: parallel workers fork, and JAX does not survive a fork
notebooks: .venv/dev.stamp
	$(BIN)/python .ci/notebooks.py

unit: .venv/dev.stamp
	$(BIN)/pytest

# needs a quiet machine; the yardstick runs beside it where it lies in the data folder
bench: .venv/dev.stamp
	$(BIN)/pytest bench -s --benchmark-json=bench/results.json $(BENCH)
	$(BIN)/python bench/report.py bench/results.json

study: .venv/run.stamp
	$(BIN)/python bench/study.py $(if $(PARTS),--parts $(PARTS))

# write the modules of the package and the README from the notebooks
export: .venv/dev.stamp
	$(BIN)/nbdev_export
	$(MAKE) --no-print-directory readme

readme: .venv/dev.stamp
	$(BIN)/python .ci/readme.py

# the pages of the reference are run, so that they show the code of today; all other notebooks keep the outputs they were committed with
docs: .venv/dev.stamp
	$(BIN)/python .ci/site.py prepare
	@if command -v quarto >/dev/null; then $(BIN)/nbdev_docs --n_workers 0; else $(BIN)/python .ci/site.py render; fi
	$(BIN)/python .ci/site.py finish

clean:
	rm -rf _docs _proc _screens .unit.log build dist .jax_cache .pytest_cache .ruff_cache

# ---- installation: uv where it can be had (seconds), else pip
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; } # on Debian it needs python3-venv
	-@$(BIN)/python -m pip install --quiet uv

define install
	@echo "installing $(1)"
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -e "$(1)" || $(BIN)/python -m pip install --quiet -e "$(1)"
endef

.venv/run.stamp: settings.ini setup.py | .venv/bin/python
	$(call install,.)
	@touch $@

.venv/dev.stamp: settings.ini setup.py | .venv/bin/python
	$(call install,.[dev])
	@touch $@ .venv/run.stamp
