# `make demo` and `make test` are all that a fresh machine needs; each installs first.
PYTHON ?= python3
BIN := .venv/bin

# Large arrays in huge pages: on a CPU a training step takes a tenth less (benchmarks/RESULTS.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: install demo search test test-beam lint clean
install: .venv/installed

# The exact pins come first, so that the project's own ranges find them satisfied.
.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# Draws a small data set, trains on it, evaluates: what training on COCO looks like, in minutes.
demo: install
	$(BIN)/python -m demo --output data/scenes --preview data/scenes.png
	$(BIN)/python -m aladin_jax.main --config configs/demo.py --workdir runs/demo
	$(BIN)/python -m aladin_jax.main --config configs/demo.py --workdir runs/demo --mode evaluate
	rm -rf runs/demo-index  # of an earlier demo
	@echo "Look at data/scenes.png (pictures and captions), runs/demo/report.png (R@K) and, for the curves,"
	@echo "  $(BIN)/tensorboard --logdir runs/demo"
	@echo "Then read configs/demo.py, and README.md for training on your own files."

# Searches the demo's test pictures on a page at http://127.0.0.1:8000.
search: install
	test -d runs/demo/best || $(MAKE) demo
	test -d runs/demo-index || $(BIN)/python -m aladin_jax.search index --checkpoint runs/demo --data data/scenes --output runs/demo-index
	$(BIN)/python -m aladin_jax.search serve --index runs/demo-index

lint: install
	$(BIN)/pre-commit run --all-files

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Apache Beam excludes some pins of requirements.txt, so its tests run in an environment of their own.
test-beam: .venv-beam/installed
	.venv-beam/bin/python -m pytest tests/convert/dataset/test_record_beam.py

.venv-beam/installed: requirements.txt pyproject.toml
	test -x .venv-beam/bin/python || $(PYTHON) -m venv .venv-beam
	grep "^torch==" requirements.txt > .venv-beam/constraints.txt
	.venv-beam/bin/python -m pip install --quiet --constraint .venv-beam/constraints.txt --editable ".[beam,convert]" \
	    pytest beartype
	touch $@

clean:
	rm -rf .venv .venv-beam data runs
