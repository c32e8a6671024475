# Two commands: `make reproduce` and `make test`. Needs python3 (3.11 or newer) and make, nothing else.

PYTHON ?= python3
PROFILE ?= demo
VENV := .venv
RUN := $(VENV)/bin/python
PEERS := .venv-bench
# of the benchmarks, which no test runs, only what is called and named is checked
CALLS_ONLY := $(addprefix --disable-error-code ,arg-type assignment func-returns-value method-assign misc return-value \
	union-attr var-annotated unused-ignore)
# two workers share the machine; a file's tests stay together, because they share what is costly to make
TESTS := -n 2 --dist loadfile --no-loadscope-reorder
UV := uv pip compile pyproject.toml --extra dev --extra oracles --extra site --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help reproduce test test-all demo full smoke lab bench html doctor docs site lint format lock environment size release lean clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "  PYTHON=…          the interpreter for $(VENV), when python3 is older than 3.11"

reproduce: demo  ## build .venv if needed, run the demo: every number, table and figure

test: environment lint  ## build .venv if needed, run linters and tests, one small whole run among them (about ten minutes)
	@echo "pytest (unit tests, faults, one small run of all notebooks)"; $(RUN) -m pytest -q $(TESTS)

test-all: test  ## the same, and what takes long: kills and resumes, smoke, the TCGA route, JupyterLab in Chromium, fuzzing
	@echo "pytest (slow tests)"; $(RUN) -m pytest -q $(TESTS) -m slow

demo: environment  ## 180 synthetic slides through every notebook (about fifteen minutes on two cores)
	@$(RUN) -m deeplrhe_utils run demo

full: environment  ## the same slides, every arm trained end to end as well (a night on a CPU, or a GPU)
	@$(RUN) -m deeplrhe_utils run full

smoke: environment  ## a dozen synthetic slides through every notebook (about three minutes)
	@$(RUN) -m deeplrhe_utils run smoke

lab: environment  ## open the notebooks in JupyterLab
	@$(RUN) -m deeplrhe_utils.running.machine.process $(RUN) -m jupyterlab notebooks

bench: environment  ## run every script of benchmarks/, with the peers in an environment of their own
	@$(MAKE) --no-print-directory $(PEERS)/.installed
	@ended=; for script in benchmarks/[a-z]*.py; do echo "$$script"; $(PEERS)/bin/python "$$script" || ended="$$ended $$script"; done; \
		[ -z "$$ended" ] || { echo "Not measured, for the reasons above:$$ended" >&2; exit 1; }

# It sees the packages of $(VENV) by a .pth file; pip installs the peers without what they ask for and replaces nothing.
$(PEERS)/.installed: benchmarks/requirements.txt $(wildcard $(VENV)/.installed)
	@echo "Installing the peers of benchmarks/requirements.txt into $(PEERS)"
	@rm -rf $(PEERS) && $(RUN) -m venv $(PEERS)
	@purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		echo "import site; site.addsitedir('$$($(RUN) -c "$$purelib")')" > "$$($(PEERS)/bin/python -c "$$purelib")/seen.pth"
	@$(PEERS)/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-deps -r benchmarks/requirements.txt
	@touch $@

html:  ## print where the report of PROFILE (default: demo) is, and open it on a desktop
	@page="$(CURDIR)/reports/$(PROFILE)/index.html"; \
	if [ ! -f "$$page" ]; then echo "There is no report yet: run \`make $(PROFILE)\` first." >&2; exit 1; fi; \
	echo "$$page"; \
	if [ "$$(uname)" = Darwin ]; then open "$$page"; \
	elif [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open "$$page"; fi

doctor: environment  ## versions, OpenSlide, GPU, disk, memory, and what each profile needs
	@$(RUN) -m deeplrhe_utils doctor

docs: environment  ## render tables into README.md and data/README.md, codemeta.json and .zenodo.json from CITATION.cff
	@$(RUN) .ci/readme.py
	@$(RUN) .ci/metadata.py

lint: environment  ## linter, formatter check, type checker, who may import whom
	@echo "ruff check";           $(RUN) -m ruff check --quiet .
	@echo "ruff format --check";  $(RUN) -m ruff format --check --quiet .
	@echo "mypy";                 $(RUN) -m mypy --no-error-summary
	@echo "mypy benchmarks";      $(RUN) -m mypy --no-error-summary benchmarks $(CALLS_ONLY)
	@echo "lint-imports";         $(VENV)/bin/lint-imports >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

format: environment  ## lay out the code
	@$(RUN) -m ruff check --fix-only --quiet .
	@$(RUN) -m ruff format .

lock:  ## re-create requirements.lock (LOCK_FLAGS=--upgrade for the newest versions; needs the network)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	echo "Resolving in a throw-away environment" && \
	$(PYTHON) -m venv "$$folder/venv" && "$$folder/venv/bin/pip" install --quiet uv && \
	cp requirements.lock "$$folder/requirements.lock" && \
	"$$folder/venv/bin/"$(UV) $(LOCK_FLAGS) --quiet --output-file "$$folder/requirements.lock" && \
	sed "s|$$folder/||g" "$$folder/requirements.lock" > requirements.lock.part && \
	mv requirements.lock.part requirements.lock && echo "requirements.lock is written"

environment:  ## build .venv from requirements.lock; does nothing when it is up to date
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and 3.11 or newer is needed. Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) .ci/build_venv.py

site: environment  ## notebooks, docs and report of PROFILE (default: demo) as one static site (build/site/html)
	@$(RUN) .ci/pages.py $(PROFILE)

size:  ## lines of code, docstrings and modules, room by room
	@$(PYTHON) .ci/size.py

release:  ## pack the whole folder of PROFILE's run into one archive with checksums (dist/)
	@$(PYTHON) .ci/release.py $(PROFILE)

lean: environment  ## reduce the folder of PROFILE's run to what is committed
	@$(RUN) .ci/lean.py $(PROFILE)

clean:  ## remove runs and caches; the committed files of reports/ stay
	@for folder in reports/*/; do \
		case "$$folder" in reports/demo/|reports/lc25000/|reports/tcga-features/|"reports/*/") ;; *) rm -rf "$$folder" ;; esac; \
	done
	@cd reports/demo 2>/dev/null && rm -rf work stages logs .lock .runner.json models/*-seed-* \
		heatmaps/*_files heatmaps/*.dzi heatmaps/*+* heatmaps/contact_sheet* || true
	@cd reports/tcga-features 2>/dev/null && rm -rf work stages logs models .lock .runner.json tables/*.parquet \
		tables/split_*.json || true
	@cd reports/lc25000 2>/dev/null && find . -mindepth 1 -maxdepth 1 ! -name README.md ! -name results.json ! -name run.json \
		! -name figures ! -name tables -exec rm -rf {} + && git clean -fdXq figures tables 2>/dev/null || true
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis dask-worker-space
	@find . -path './$(VENV)*' -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -print \
		| while IFS= read -r folder; do rm -rf "$$folder"; done
	@echo "Removed runs and caches; what is committed in reports/ is kept, $(VENV) is kept"

distclean: clean  ## the same, and .venv and .venv-bench
	@rm -rf $(VENV) $(PEERS)
	@echo "Removed $(VENV) and $(PEERS)"
