# Two commands: `make reproduce` and `make test`. Needs python3 (3.11 or newer) and make, nothing else.

PYTHON ?= python3
PROFILE ?= demo
VENV := .venv
RUN := $(VENV)/bin/python
UV := uv pip compile pyproject.toml --extra dev --extra oracles --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help reproduce test demo smoke lab bench html doctor docs lint format lock environment clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "  PYTHON=…          the interpreter for $(VENV), when python3 is older than 3.11"

reproduce: demo  ## build .venv if needed, run the demo: every number, table and figure

test: environment  ## build .venv if needed, run linter, formatter check, type checker and all tests
	@echo "ruff check";           $(RUN) -m ruff check --quiet .
	@echo "ruff format --check";  $(RUN) -m ruff format --check --quiet .
	@echo "mypy";                 $(RUN) -m mypy --no-error-summary
	@echo "pytest (unit tests, notebooks, faults, one end-to-end run)"; $(RUN) -m pytest -q

demo: environment  ## 180 synthetic slides through every notebook (about an hour on two cores)
	@$(RUN) -m deeplrhe_utils run demo

smoke: environment  ## a dozen synthetic slides through every notebook (about seven minutes)
	@$(RUN) -m deeplrhe_utils run smoke

lab: environment  ## open the notebooks in JupyterLab
	@GOMP_SPINCOUNT=10000 $(RUN) -m jupyterlab notebooks

bench: environment  ## run every script of benchmarks/
	@found=no; for script in benchmarks/[a-z]*.py; do \
		if [ -f "$$script" ]; then found=yes; echo "$$script"; $(RUN) "$$script" || exit 1; fi; \
	done; [ $$found = yes ] || echo "There is no benchmark yet: benchmarks/ holds no script."

html:  ## print where the report of PROFILE (default: demo) is, and open it on a desktop
	@page="$(CURDIR)/reports/$(PROFILE)/index.html"; \
	if [ ! -f "$$page" ]; then echo "There is no report yet: run \`make $(PROFILE)\` first." >&2; exit 1; fi; \
	echo "$$page"; \
	if [ "$$(uname)" = Darwin ]; then open "$$page"; \
	elif [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open "$$page"; fi

doctor: environment  ## versions, OpenSlide, GPU, disk, memory, and what each profile needs
	@$(RUN) -m deeplrhe_utils doctor

docs: environment  ## render tables into README.md and data/README.md
	@$(RUN) .ci/readme.py

lint: environment  ## linter, formatter check, type checker
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

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

clean:  ## remove runs and caches; the committed files of reports/demo stay
	@for folder in reports/*/; do \
		case "$$folder" in reports/demo/|"reports/*/") ;; *) rm -rf "$$folder" ;; esac; \
	done
	@for name in work stages logs html .lock .runner.json; do rm -rf "reports/demo/$$name"; done
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis dask-worker-space
	@find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -print \
		| while IFS= read -r folder; do rm -rf "$$folder"; done
	@echo "Removed runs and caches; reports/demo keeps its committed files, $(VENV) is kept"

distclean: clean  ## the same, and .venv
	@rm -rf $(VENV)
	@echo "Removed $(VENV)"
