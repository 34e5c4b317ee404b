# make demo    installs, runs the demo study, ends with the path of its report
# make test    installs, runs the tests     make test-slurm   those on a throw-away Slurm (root, Debian)
# make setup   the installation alone          make real   the real scans in ../shared/data
# make scale   what plans, starts of jobs and files of large studies cost -> tests/benchmarks/results/scale.md
# make methods every method on one small problem of each kind -> tests/benchmarks/results/methods.md
# make tasks   DIP beside classical baselines, task by task -> tests/benchmarks/results/tasks.md
# make studies the survey's results in small -> tests/benchmarks/results/study_<name>.md, with figures
# make bench   seconds to the same image; BENCH=short: a part; PEERS="--peer NAME=FOLDER": beside official codes -> results/bench_cpu.md
# make gpu     what a GPU makes of one slice and of many -> tests/benchmarks/results/gpu_<device>.md
# make claims  the demo, and whether what it is to show holds -> tests/benchmarks/results/demo.md
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --quiet rules

.PHONY: setup demo claims methods tasks studies bench test test-slurm real scale gpu lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: envs/requirements.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dipline needs Python 3.11 or newer (found: $$(python3 --version))"; exit 1; }
	@python3 -c 'import ensurepip, venv' 2> /dev/null || { echo "Python's venv is missing: apt install python3-venv"; exit 1; }
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(SNAKEMAKE) --configfile config/demo.yaml
	@echo "the report: results/demo/report.html"

claims: demo
	$(BIN)/python tests/benchmarks/demo.py

methods: setup
	$(BIN)/python tests/benchmarks/methods.py

tasks: setup
	$(BIN)/python tests/benchmarks/tasks.py

studies: setup
	$(BIN)/python tests/benchmarks/studies.py

test: setup
	$(BIN)/python -m pytest -n $(CORES) --dist loadgroup

# The tests mostly wait, so four at a time. Without root or Slurm they skip themselves and say so.
test-slurm: setup
	@command -v slurmctld munged > /dev/null || [ "$$(id -u)" != 0 ] || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends slurm-wlm munge; } || echo "Slurm cannot be installed here"
	$(BIN)/python -m pytest -n 4 -rs tests/slurm

bench: setup
	BENCH=$(BENCH) $(BIN)/python tests/benchmarks/bench.py $(PEERS)

gpu: setup
	$(BIN)/python tests/benchmarks/gpu.py

real: setup
	$(BIN)/python tests/benchmarks/real_mri.py
	$(BIN)/python tests/benchmarks/real_ct.py

scale: setup
	$(BIN)/python tests/benchmarks/scale.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/snakefmt --no-sort --check Snakefile workflow

clean:
	rm -rf results logs .snakemake
