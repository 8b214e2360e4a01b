# make demo   install what the demo needs, train EACL on the demo corpus, print its score and the
#             path of its page
# make test   install everything, run the tests
# make slow lint types   the other checks of CI
# make docs   the documentation as a site, in build/docs
# make results   the leaderboard and the documentation's tables, from the records
# make bench  the speed of training compared with the usual recipe

PYTHON ?= python3
VENV ?= .venv
# One epoch of a few batches with short windows, so that the demo takes less than two minutes on two
# cores.
DEMO ?= epochs=1 max_batches=15 max_len=64 stage2_epochs=3

.PHONY: demo test slow lint types docs results bench

demo: $(VENV)/.small
	$(VENV)/bin/erc-bench run --method eacl --dataset demo --preset small $(DEMO) \
		--wandb off --leaderboard-dir demo
	$(VENV)/bin/erc-bench leaderboard --leaderboard-dir demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile

slow: $(VENV)/.dev
	# Some tests mostly wait for a cluster, so there are more workers than cores.
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "slow and not timed" -n 3 --dist loadfile
	$(VENV)/bin/python -m pytest -m timed

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy erc_bench methods datamodules benchmarks docs

docs: $(VENV)/.dev
	$(VENV)/bin/sphinx-build -q -E -W --keep-going -b html docs build/docs

results: $(VENV)/.dev
	$(VENV)/bin/python -m docs.tables

bench: $(VENV)/.small
	$(VENV)/bin/python -m benchmarks

$(VENV)/.%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable ".[$*]"
	touch $@
