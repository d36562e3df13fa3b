# `make book` and `make test` are all that a reader needs. Both work in an environment of their own, .venv.
PYTHON ?= python3
BIN := .venv/bin
# As many processes as cores, with one thread each: several threads in each would wait for one another.
export OMP_NUM_THREADS ?= 1
# The processor that is imitated, see tools/processors.py; the chapter of `make check`.
PROCESSOR ?= own
CHAPTER ?= 05
TEST = $(BIN)/python -m pytest -n logical --processor $(PROCESSOR)
BY_FILE = --dist loadfile --no-loadscope-reorder

.PHONY: help book pdf test check lint processor colab notebooks clean

help:  ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.txt
	@touch $@

.venv-colab/installed: tools/colab_requirements.txt
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install -r tools/colab_requirements.txt
	@touch $@

book: .venv/installed  ## render the book into _build/html
	$(BIN)/python tools/vendor_scripts.py
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going
	@for page in $$(sed -n 's/.*\(root\|file\): *//p' _toc.yml); do \
	    test -s _build/html/$$page.html || { echo "The book lacks the page $$page.html"; exit 1; }; done
	@echo "Open $(CURDIR)/_build/html/index.html"

pdf: book  ## the book as one file, _build/book.pdf (needs Chromium)
	$(BIN)/python tools/make_pdf.py

test: .venv/installed  ## lint, unit tests, every notebook, the book with warnings as errors, its pages
	$(MAKE) lint
	$(TEST) $(BY_FILE) --nbval --ignore tests/test_site.py
	$(MAKE) book
	$(TEST) tests/test_site.py

check: .venv/installed  ## while you work: lint, the quick unit tests, one chapter (CHAPTER=05)
	$(MAKE) lint
	$(TEST) $(BY_FILE) --nbval -m "not slow" dmtutor tests book/$(CHAPTER)_*.ipynb

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/python tools/lint_scripts.py

processor: .venv/installed  ## run every notebook on an imitated processor (PROCESSOR=avx2; tools/processors.py)
	$(TEST) $(BY_FILE) --nbval book

colab: .venv-colab/installed  ## run every notebook as Colab does (what is committed)
	.venv-colab/bin/python tools/run_as_colab.py

notebooks: .venv/installed  ## execute every notebook and store its outputs
	$(BIN)/python tools/execute_notebooks.py

clean:  ## remove the book, the vendored scripts and both environments
	rm -rf _build book/_static/vendor .venv .venv-colab *.egg-info .pytest_cache .ruff_cache
