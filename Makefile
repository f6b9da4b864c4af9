# Three commands do it all: `make run`, `make test` and `make airflow`. Each makes what it needs first and is safe to repeat.
SHELL := /bin/bash
PYTHON ?= python3.11
PRESET ?= quick
DAG ?= fashion_mnist_training
ENVIRONMENT ?= mlapp
CONF ?= {}
HOST ?=
PORT ?=
PASSWORDS ?=
ANNOUNCE ?=
# Shells have variables of these names for purposes of their own (conda sets HOST): only what follows `make` counts.
$(foreach name,HOST PORT PASSWORDS ANNOUNCE,$(if $(filter environment%,$(origin $(name))),$(eval override $(name) :=)))
# Two at a time, each file in one process: what a file prepares is prepared once.
PYTEST_ARGS ?= -n 2 --dist loadfile

# Taken as they were typed, and handed on through the environment: no quote or space of theirs reaches a shell.
override CONF := $(value CONF)
override PRESET := $(value PRESET)
override DAG := $(value DAG)
override ENVIRONMENT := $(value ENVIRONMENT)
override REGION := $(value REGION)
override PROJECT := $(value PROJECT)
override BUCKET := $(value BUCKET)
override HOST := $(value HOST)
override PORT := $(value PORT)
override PASSWORDS := $(value PASSWORDS)
override ANNOUNCE := $(value ANNOUNCE)
export CONF PRESET DAG ENVIRONMENT REGION PROJECT BUCKET HOST PORT PASSWORDS ANNOUNCE

# A stamp is named for the content that it stands for: other requirements, another stamp, another installation.
# pip's own lock comes first: what installs the rest is current and verified too.
REQUIREMENTS := requirements-pip.txt requirements-dev.txt
LOCK := $(shell cat $(REQUIREMENTS) | sha256sum | cut -c1-12)
INSTALLED := .venv/installed-$(LOCK)
# Airflow's homes: one for `make run`, one for `make airflow`. AIRFLOW_HOME is another Airflow's, and left alone.
ifneq ($(words $(MLAPP_AIRFLOW_HOME)),$(if $(MLAPP_AIRFLOW_HOME),1,0))
$(error MLAPP_AIRFLOW_HOME holds a space: give a folder without one)
endif
MIGRATED := $(or $(MLAPP_AIRFLOW_HOME),.airflow)/terminal/migrated-$(LOCK)

# What a lock may hold: nothing that was published later. Versions stay as they are where they fit; UPGRADE=--upgrade takes
# the newest.
BEFORE ?= 2026-08-26
UPGRADE ?=
COMPILE = uv pip compile --quiet --python-version 3.11 --exclude-newer $(BEFORE) $(UPGRADE) --generate-hashes \
  --no-emit-index-url --custom-compile-command 'make lock'

.PHONY: help env lock run airflow lint test fault-test test-container bench bench-quick deploy
.DEFAULT_GOAL := help

help: ## Show what there is to make
	@echo "usage: make TARGET [DAG=fashion_mnist_data] [PRESET=quick] [ANNOUNCE=1] [CONF='{\"training.epochs\": 3}'] [PYTHON=python3.11]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 18

env: $(INSTALLED) $(MIGRATED) ## Create the environment: .venv from the pinned requirements, Airflow's database

lock: env ## Regenerate every lock from pyproject.toml, with hashes: BEFORE=2026-08-26, UPGRADE=--upgrade for newer versions
	@source ./env.sh && $(COMPILE) --group pip -o requirements-pip.txt
	@source ./env.sh && $(COMPILE) --extra airflow pyproject.toml -o requirements.txt
	@source ./env.sh && $(COMPILE) --extra airflow --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	@source ./env.sh && $(COMPILE) -c requirements.txt pyproject.toml -o requirements-training.txt
	@source ./env.sh && $(COMPILE) --extra cuda -c requirements-training.txt pyproject.toml -o requirements-training-cuda.txt

run: env ## Run a whole DAG, by default the training: data, models, verdict, promotion
	@source ./env.sh && exec python plugins/dags_test.py "$$DAG" --preset="$$PRESET" --conf="$$CONF" $${ANNOUNCE:+--announce}

airflow: env ## Start Airflow on this machine: scheduler, web page and a database of its own [PORT=8080 HOST= PASSWORDS=1]
	@source ./env.sh && exec python plugins/laptop_airflow.py --host="$$HOST" --port="$$PORT" $${PASSWORDS:+--passwords}

lint: env ## Check style and types
	@source ./env.sh && ruff check . && ruff format --check . && mypy

test: lint ## Check style and types, run all tests
	@source ./env.sh && exec python -m pytest $(PYTEST_ARGS)

fault-test: env ## Kill stages, promote at once, spoil inputs, and count what does not survive (half an hour)
	@source ./env.sh && PYTHONPATH="$$PYTHONPATH:$$PWD/tests" exec python -m tests.faults

test-container: env ## Build, push, pull and run the training image with real tools (root, Debian; 10 minutes, 15 GB)
	@source ./env.sh && exec python -m pytest -s tests/container/e2e_training_image.py

bench: env ## Measure a preset beside the tutorials' recipe: accuracy, time, throughput, latency (quick: 1 hour)
	@source ./env.sh && exec python bench/frontier.py --preset="$$PRESET"

bench-quick: env ## The same without training: throughput, latency, ETL (5 minutes)
	@source ./env.sh && exec python bench/frontier.py --quick --preset="$$PRESET"

deploy: env ## Bring the DAGs into a Composer environment: REGION=… [ENVIRONMENT=mlapp PROJECT=…], or BUCKET=gs://…
	@source ./env.sh && exec python deploy/sync.py --environment="$$ENVIRONMENT" --region="$$REGION" \
	  --project="$$PROJECT" --bucket="$$BUCKET"

$(INSTALLED):
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) is missing: install Python 3.11 with its venv module" \
	  "(Debian: apt-get install python3.11-venv), or give PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is not Python 3.11 with its venv module: give PYTHON=/path/to/python3.11" \
	  "(Debian: apt-get install python3.11-venv)" >&2; exit 2; }
	@echo "make: installing the pinned requirements into .venv; the first time this takes some minutes"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@rm -f .venv/installed-*
	@for lock in $(REQUIREMENTS); do .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --require-hashes --only-binary=:all: -r "$$lock" || exit; done
	@touch $@

$(MIGRATED): $(INSTALLED)
	@echo "make: preparing Airflow's database in $(@D)"
	@source ./env.sh && python plugins/laptop_homes.py
	@rm -f $(@D)/migrated-* && touch $@
