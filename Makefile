# Needs Python 3.11 or newer and the package registries; everything is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One set of versions for everybody; a second make installs nothing unless these two have changed.
PINS := pyproject.toml constraints.txt
PYTEST_ARGS ?=
# What JAX computes on: cpu, cuda (NVIDIA GPUs with a driver for CUDA 12; CUDA itself is installed with it) or tpu.
DEVICES ?= cpu
EXTRA_cpu :=
EXTRA_cuda := [cuda]
EXTRA_tpu := [tpu]
$(if $(filter cpu cuda tpu,$(DEVICES)),,$(error DEVICES=$(DEVICES): give cpu, cuda or tpu))
INSTALLED := $(VENV)/installed$(patsubst %,-%,$(filter-out cpu,$(DEVICES)))

.PHONY: demo install test lint prove clean

demo: $(INSTALLED)
	$(BIN)/alpaca-jax recipe experiment=laptop

install: $(INSTALLED)
	@echo "Installed. Once in each shell: source $(VENV)/bin/activate; then: alpaca-jax --help"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run launch/*.sh launch/*.sbatch

# What takes too long for every change: the demo from nothing, the proofs, and every benchmark against its peer (but gpu, which needs one).
prove: $(VENV)/installed-test
	$(BIN)/alpaca-jax recipe experiment=laptop dir=runs/prove-$$(date +%Y%m%d-%H%M%S)
	$(BIN)/python -m pytest --prove
	$(BIN)/python -m tools.prove.loss_parity --output docs/benchmarks
	$(BIN)/python -m tools.prove.kill_loop
	$(BIN)/python -m tools.prove.kill_loop adapter=lora adapter.rank=2 adapter.dropout=0.1
	$(BIN)/python -m tools.prove.kill_loop --teacher objective=distill
	$(BIN)/python -m tools.prove.kill_loop --teacher objective=on_policy objective.max_new_tokens=8 objective.share=0.5
	$(BIN)/python -m tools.prove.kill_loop objective=grpo objective.group=2 objective.max_new_tokens=6 objective.beta=0.1 \
		'objective.rewards={sign: {name: format, pattern: ".*[!-?].*"}}'
	$(BIN)/python -m tools.prove.adapters --records $$(ls -dt runs/prove-*/records | head -1)
	$(BIN)/python -W ignore -m tools.prove.served_adapters
	$(BIN)/python -W ignore -m tools.prove.fuzz
	$(BIN)/python -m tools.prove.million_records
	$(BIN)/python -m tools.benchmark.input
	$(BIN)/python -m tools.benchmark.real_tokens
	$(BIN)/python -m tools.benchmark.train_step
	$(BIN)/python -m tools.benchmark.decode
	$(BIN)/python -m tools.benchmark.score
	$(BIN)/python -m tools.benchmark.convert
	$(BIN)/python -m tools.prove.convert_7b
	$(BIN)/python -m tools.prove.many_hosts

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %s: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes and about 3 GB the first time"
	$(PIP) install --constraint constraints.txt --editable '.$(EXTRA_$(DEVICES))'
	@touch $@

$(VENV)/installed-test: $(INSTALLED)
	@echo "Installing what the tests need (torch is the largest part)"
	$(PIP) install --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@
