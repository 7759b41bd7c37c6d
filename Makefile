# Two commands: `make quickstart` sets up and shows who learns, `make test` sets up and passes all tests but the slow ones.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# The versions that are installed; `make LOCK= test` takes those that pyproject.toml allows.
LOCK := constraints.txt
# Containers often set it. Where no bytecode is kept, every start compiles torch anew and takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

# The programs of the tests in tests/slurm; none of these packages starts a database server.
SLURM_PACKAGES := slurm-wlm slurmdbd munge mariadb-server-core mariadb-client-core
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: quickstart test lint docs slow gpu-check lock slurm-packages browser-packages clean

quickstart: $(READY)
	$(VENV)/bin/python -m sdqn_lab.run sweep=quickstart
	$(VENV)/bin/python -m sdqn_lab.report multirun/quickstart --out multirun/quickstart/report

test slow: export OMP_NUM_THREADS = 1
# Two more than there are CPUs: some tests wait, for a scheduler or a server.
WORKERS := $(shell expr $$(nproc) + 2)

test: $(READY)
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow"

slow: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist loadgroup -m slow

# On a machine with a GPU: its tests, the kernels' tests on it, and its table into speed-cuda.json.
gpu-check: $(READY)
	$(VENV)/bin/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "gpu-check: torch sees no GPU here")'
	$(VENV)/bin/python -m pytest -m gpu
	$(VENV)/bin/python -m pytest tests/spiking/test_gpu.py
	$(VENV)/bin/python -m sdqn_lab.bench --device cuda --json speed-cuda.json

# The site into build/site, then what its pages say is tried: code blocks, commands, tables.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q tests/test_docs.py tests/test_site.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The newest versions that go together, for all platforms and Python 3.11 and later.
lock:
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/lock/bin/uv pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --all-extras \
	  --no-annotate --custom-compile-command 'make lock' --output-file constraints.txt pyproject.toml

# Debian and Ubuntu. Without these packages `make test` skips the tests of tests/slurm and says so.
slurm-packages:
	dpkg --status $(SLURM_PACKAGES) >/dev/null 2>&1 || { $(AS_ROOT) apt-get update && \
	$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SLURM_PACKAGES); }

# For the test that looks at a report; without it `make test` skips that test and says so.
browser-packages:
	dpkg --status chromium >/dev/null 2>&1 || { $(AS_ROOT) apt-get update && \
	$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; }

# Of the packages a tenth is ever imported: compiling all of them would take a minute.
$(READY): pyproject.toml $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sdqn_lab needs Python >= 3.11: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(LOCK:%=-c %) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
