# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

PYTHON ?= python3
COMMAND ?= test

# An environment is made anew when what is to be in it changes: its stamp is named by the content.
stamp = $(1)/made-from-$(shell sha256sum requirements/$(2).txt | cut -c 1-12)
CONTROLLER := $(call stamp,.venv,controller)
DEV := $(call stamp,build/venv,dev)
GALAXY := $(call stamp,build/venv-galaxy,galaxy)

export PATH := $(CURDIR)/build/venv/bin:$(PATH)
export MOLECULE_GLOB := molecule/*/molecule.yml
check test lint sanity unit cluster galaxy molecule: export ANSIBLE_HOME := $(CURDIR)/build/ansible

.PHONY: help
help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# What Ansible keeps goes with the environment, so that the demo leaves nothing in the home directory.
demo demo-down: export PATH := $(CURDIR)/.venv/bin:$(PATH)
demo demo-down: export ANSIBLE_HOME := $(CURDIR)/.venv/ansible
demo demo-down: export XDG_CACHE_HOME := $(CURDIR)/.venv/cache
demo demo-down: export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
demo demo-down: export ANSIBLE_REMOTE_TEMP := $(CURDIR)/.venv/ansible/remote

.PHONY: demo
demo: $(CONTROLLER)  ## A cluster on this machine, and a job on it
	@ansible-playbook -i inventories/local flotilla.dask.site
	@ansible-playbook -i inventories/local examples/wordcount.yml

.PHONY: demo-down
demo-down: $(CONTROLLER)  ## Remove the demo and all that it made
	@ansible-playbook -i inventories/local flotilla.dask.teardown
	@rm -rf .venv

.PHONY: check
check: $(DEV)  ## Lint and unit tests
	@tests/run check

.PHONY: test
test: $(DEV) $(GALAXY)  ## Everything, on hosts too
	@tests/run test

.PHONY: lint sanity unit cluster
lint: $(DEV)  ## Static checks
sanity: $(DEV)  ## ansible-test sanity
unit: $(DEV)  ## Unit and property tests
cluster: $(DEV)  ## Modules against a cluster on this machine
lint sanity unit cluster:
	@tests/run $@

.PHONY: galaxy
galaxy: $(DEV) $(GALAXY)  ## Build the collection and import it as Ansible Galaxy does
	@tests/run galaxy

.PHONY: molecule
molecule: $(DEV)  ## Tests on hosts: SCENARIO=default COMMAND=converge ARGS=...
	@molecule $(COMMAND) $(if $(SCENARIO),--scenario-name $(SCENARIO),--all) $(ARGS)

.PHONY: bench
bench: $(DEV)  ## Measurements
	@PYTHONPATH=collections tests/bench/run

.PHONY: pin
pin:  ## Resolve requirements/dev.in anew
	rm -rf build/pin
	$(PYTHON) -m venv build/pin
	build/pin/bin/pip install --quiet --no-compile --requirement requirements/dev.in
	sed -n '/^#/p; /^$$/p' requirements/dev.txt >build/pin/dev.txt
	build/pin/bin/pip freeze >>build/pin/dev.txt
	mv build/pin/dev.txt requirements/dev.txt

.PHONY: clean
clean:  ## Remove what was built, and stop the Docker Engine that the tests started
	tests/fixtures/docker_engine stop
	rm -rf build .ansible

.venv/made-from-%: export PIP_NO_CACHE_DIR := 1
.venv/made-from-%: | requirements/controller.txt
	$(make-environment)

build/venv/made-from-%: | requirements/dev.txt
	$(make-environment)

build/venv-galaxy/made-from-%: | requirements/galaxy.txt
	$(make-environment)

define make-environment
@rm -rf $(@D)
@$(PYTHON) -m venv $(@D)
@$(@D)/bin/pip install --quiet --disable-pip-version-check --no-compile --requirement $|
@touch $@
endef
