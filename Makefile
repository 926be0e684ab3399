# netdump-bench. `make` by itself tells what there is.
#
# Whatever needs Python makes a virtual environment in .venv first, from constraints.txt, and again
# whenever pyproject.toml or constraints.txt has changed. PYTHON=... chooses the interpreter.

SHELL    := /bin/bash
VENV     := .venv
BENCH    := $(VENV)/bin/python -m bench
SETUP    := scripts/make-venv $(VENV)
INPUTS   := pyproject.toml constraints.txt scripts/make-venv

# What the user wrote reaches the commands through the environment: no quote in it is the shell's.
export PYTHON NAME TIER SEED PROFILE NIC SERVER CLIENT KERNEL MODULES
# Hundreds of processes start in a run of the tests: the modules are compiled once, not in each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help scenario list doctor parts test lint bench shootout soak serve clean

help:
	@echo 'make scenario NAME=promisc-panic [TIER=tap|qemu|sim] [SEED=1] [PROFILE=netdump2]'
	@echo '                 play a scenario and print its verdict'
	@echo '                 [NIC=... SERVER=... CLIENT=...]  a part of yours: NAME, FILE.py:NAME, FILE.toml'
	@echo '                 [KERNEL=/boot/vmlinuz-... [MODULES=/lib/modules/...]]  its Linux guest'
	@echo 'make list        the scenarios that there are'
	@echo 'make parts       NICs, machines, servers and clients, and which of them play here'
	@echo 'make doctor      what this machine can play, and what it lacks'
	@echo 'make serve ARGS="--bind 0.0.0.0 --dumpdir DIR"'
	@echo '                 the dump server by itself, for a real network'
	@echo 'make test        all tests        make lint    ruff, mypy, import-linter'
	@echo 'make bench       MB/s of each tier and profile, next to tftpd-hpa'
	@echo 'make shootout    netdump, netdump2 and TFTP side by side: docs/protocol-shootout.md, written anew'
	@echo 'make soak        100,000 random steps on our NIC and on QEMU: do they agree? [ARGS="--nic NAME"]'
	@echo 'make clean       remove run folders, caches and the virtual environment'

# What a scenario needs, and what development and plots need besides: one environment, three stages.
$(VENV)/.ready: $(INPUTS)
	@$(SETUP)

$(VENV)/.ready-dev: $(INPUTS)
	@$(SETUP) dev

$(VENV)/.ready-plots: $(INPUTS)
	@$(SETUP) plots

scenario: $(VENV)/.ready
	@if [ -z "$$NAME" ]; then \
	    echo 'which one? make scenario NAME=...' >&2; $(BENCH) list >&2; exit 2; \
	fi; \
	parts=($${NIC:+--nic "$$NIC"} $${SERVER:+--server "$$SERVER"} $${CLIENT:+--client "$$CLIENT"} \
	    $${KERNEL:+--kernel "$$KERNEL"} $${MODULES:+--modules "$$MODULES"}); \
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
	    lacks=$$($(BENCH) needs $${TIER:+--tier "$$TIER"} "$${parts[@]}" -- "$$NAME") || exit $$?; \
	    [ -z "$$lacks" ] || scripts/debian-packages $$lacks || exit $$?; \
	fi; \
	$(BENCH) run $${TIER:+--tier "$$TIER"} $${SEED:+--seed "$$SEED"} \
	    $${PROFILE:+--profile "$$PROFILE"} "$${parts[@]}" -- "$$NAME"

list doctor parts: $(VENV)/.ready
	@$(BENCH) $@

serve: $(VENV)/.ready
	@$(BENCH) serve $(ARGS)

bench: $(VENV)/.ready
	@$(VENV)/bin/python -m bench.measure $(ARGS)

shootout: $(VENV)/.ready-plots
	@$(VENV)/bin/python -m bench.shootout $(ARGS)

soak: $(VENV)/.ready
	@$(VENV)/bin/python -m bench.truth --steps 100000 $(ARGS)

# All that the tests need is installed where we may; elsewhere each skip is counted, with its cure.
# Two workers more than there are cores: a third of the time is spent in waiting for a clock.
test: $(VENV)/.ready-dev
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then scripts/debian-packages test; fi
	@$(VENV)/bin/python -m pytest --numprocesses $$(($$(nproc) + 2)) --dist worksteal $(ARGS)

lint: $(VENV)/.ready-dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

clean:
	rm -rf runs $(VENV) build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
