# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

PYTHON ?= python3
# As the shell finds it, not in an environment which is only being made.
override PYTHON := $(or $(shell command -v $(PYTHON) 2>/dev/null),$(PYTHON))
COMMAND ?= test

# An environment is named by what is to be in it, and never changed once it is complete: another shell may be using it.
environment = $(1)/$(2)-$(shell sha256sum requirements/$(2).txt | cut -c 1-12)
CONTROLLER := $(call environment,.venv,controller)
DEV := $(call environment,build/venv,dev)
GALAXY := $(call environment,build/venv,galaxy)

export VIRTUAL_ENV := $(CURDIR)/$(DEV)
export GALAXY_ENV := $(CURDIR)/$(GALAXY)
export PATH := $(CURDIR)/$(DEV)/bin:$(PATH)
export MOLECULE_GLOB := molecule/*/molecule.yml
# Ansible starts many Python processes: what the first one compiled is kept for the others.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
check test lint sanity unit cluster galaxy molecule stage: export ANSIBLE_HOME := $(CURDIR)/build/ansible

.PHONY: help
help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# What Ansible keeps goes with the environment, so that the demo leaves nothing in the home directory.
demo demo-down: export VIRTUAL_ENV := $(CURDIR)/$(CONTROLLER)
demo demo-down: export PATH := $(CURDIR)/$(CONTROLLER)/bin:$(PATH)
demo demo-down: export ANSIBLE_HOME := $(CURDIR)/.venv/ansible
demo demo-down: export XDG_CACHE_HOME := $(CURDIR)/.venv/cache
demo demo-down: export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
demo demo-down: export ANSIBLE_REMOTE_TEMP := $(CURDIR)/.venv/ansible/remote

.PHONY: demo
demo: $(CONTROLLER)/complete  ## A cluster on this machine, and a job on it
	@ansible-playbook -i inventories/local flotilla.dask.site
	@ansible-playbook -i inventories/local examples/wordcount.yml

.PHONY: demo-down
demo-down: $(CONTROLLER)/complete  ## Remove the demo and all that it made
	@ansible-playbook -i inventories/local flotilla.dask.teardown -e dask_remove=all
	@rm -rf .venv inventories/local/.dask

.PHONY: check
check: $(DEV)/complete  ## Lint and unit tests
	@tests/run check

.PHONY: test
test: $(DEV)/complete $(GALAXY)/complete  ## Everything, on hosts too
	@tests/run test

.PHONY: lint sanity unit cluster
lint: $(DEV)/complete  ## Static checks
sanity: $(DEV)/complete  ## ansible-test sanity
unit: $(DEV)/complete  ## Unit and property tests
cluster: $(DEV)/complete  ## Modules against a cluster on this machine
lint sanity unit cluster:
	@tests/run $@

.PHONY: stage
stage: $(DEV)/complete $(GALAXY)/complete  ## One stage of the tests: STAGE=molecule-default
	@tests/run $(STAGE)

.PHONY: galaxy
galaxy: $(DEV)/complete $(GALAXY)/complete  ## Build the collection and import it as Ansible Galaxy does
	@tests/run galaxy

.PHONY: molecule
molecule: $(DEV)/complete  ## Tests on hosts: SCENARIO=default COMMAND=converge ARGS=...
	@molecule $(COMMAND) $(if $(SCENARIO),--scenario-name $(SCENARIO),--all) $(ARGS)

.PHONY: bench
bench: $(DEV)/complete  ## Measurements
	@PYTHONPATH=collections tests/bench/run

.PHONY: pin
pin: $(DEV)/complete  ## Resolve requirements/dev.in anew
	{ sed '/^[^#]/d' requirements/dev.txt; uv pip compile --quiet --no-header --no-annotate --upgrade requirements/dev.in; } >build/dev.txt
	mv build/dev.txt requirements/dev.txt

.PHONY: clean
clean:  ## Remove what was built, and stop the Docker Engine that the tests started
	tests/fixtures/docker_engine stop
	rm -rf build .ansible

$(CONTROLLER)/complete $(DEV)/complete $(GALAXY)/complete:
	@$(PYTHON) requirements/install $(@D) requirements/$(firstword $(subst -, ,$(notdir $(@D)))).txt
