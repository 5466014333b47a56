# The only developer interface. Each target is one command on a fresh machine: it makes what it needs.
PYTHON ?= python3
VENV := .venv/bin
PINS := requirements/dev.txt requirements/bootstrap.txt pyproject.toml
export TANDEM_REQUIRE_CLUSTER ?= 1
export TANDEM_REQUIRE_VLLM ?= 1
# Files of tests at a time: most of their time is waiting for clusters and engines.
TEST_WORKERS ?= 2
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## List every target in a sentence.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.tandem-key: $(PINS) tools/bootstrap.py
	@$(PYTHON) tools/bootstrap.py dev >/dev/null && touch $@

.PHONY: env
env: .venv/.tandem-key ## Make the development environment (.venv) from hash-locked pins.

.PHONY: worker-env
worker-env: ## Install vLLM for CPU (about 6 GB, once per user) and print its python.
	@$(PYTHON) tools/bootstrap.py worker-cpu

.PHONY: cluster-binaries
cluster-binaries: env ## Build Kubernetes, etcd, KWOK and Helm from pinned sources (ten minutes once, then cached).
	@$(VENV)/python -m cluster build

.PHONY: demo
demo: env ## From nothing to tokens: a cluster, the chart, a fleet with real vLLM, and the proof that KV moved.
	@$(VENV)/python -m demo up

.PHONY: demo-down
demo-down: env ## Remove everything that the demo made.
	@$(VENV)/python -m demo down

.PHONY: generate
generate: env ## Write what is generated: CRDs, the chart's copies, RBAC rules, formatting.
	@$(VENV)/python -m tandem_operator.crdgen
	@$(VENV)/python -m tandem_operator.rbac
	@$(VENV)/python tools/reference.py
	@$(VENV)/ruff check -q --fix-only .
	@$(VENV)/ruff format -q .

.PHONY: verify
verify: env lint ## Every static check, and fail when a generated file is stale; under a minute.
	@$(VENV)/python -m tandem_operator.crdgen --check
	@$(VENV)/python -m tandem_operator.rbac --check
	@$(VENV)/python tools/reference.py --check

.PHONY: lint
lint: env ## Ruff, mypy strict and the import contracts.
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check -q .
	@$(VENV)/mypy
	@$(VENV)/lint-imports --no-cache

.PHONY: lock
lock: env ## Resolve the lock files anew from pyproject.toml (hashes, no index URL).
	@tools/lock.sh

.PHONY: test-unit
test-unit: env ## Unit, property, golden and architecture tests; a minute.
	@$(VENV)/pytest tests/unit tests/property tests/golden tests/architecture -q

.PHONY: test
test: env cluster-binaries ## Everything that .ci/run runs: unit to integration on a real API server, and one real P/D pass with vLLM.
	@worker=$$($(PYTHON) tools/bootstrap.py worker-cpu) && TANDEM_WORKER_PYTHON=$$worker $(VENV)/pytest tests -q -m "not long" -n $(TEST_WORKERS) --dist loadfile

.PHONY: test-failed
test-failed: env ## Run once more, alone, what failed in the last run; fails when nothing did.
	@worker=$$($(PYTHON) tools/bootstrap.py worker-cpu) && TANDEM_WORKER_PYTHON=$$worker $(VENV)/pytest tests -q -m "not long" --last-failed --last-failed-no-failures none

# vLLM on CPU comes without NIXL: it lies beside, and is only on the path of those who ask for it.
with_nixl = worker=$$($(PYTHON) tools/bootstrap.py worker-cpu) && nixl=$${TANDEM_CACHE:-$$HOME/.cache/tandem}/nixl \
  && $(VENV)/uv pip install -q -p $$worker --target $$nixl --no-deps --require-hashes -r bench/kv/requirements-nixl.txt \
  && export TANDEM_WORKER_PYTHON=$$worker TANDEM_NIXL_DIR=$$nixl

.PHONY: test-long
test-long: env cluster-binaries ## What make test leaves out for time: more real engines, more faults.
	@$(with_nixl) && $(VENV)/pytest tests -q -m long

.PHONY: e2e
e2e: env cluster-binaries ## User scenarios on a cluster; PROVIDER=source|kind|existing.
	@worker=$$($(PYTHON) tools/bootstrap.py worker-cpu) && TANDEM_WORKER_PYTHON=$$worker $(VENV)/pytest e2e -q -m "not long"

.PHONY: e2e-operator
e2e-operator: env cluster-binaries ## Operators that die, fleets that go, a hundred scale-ins and ten rollouts under load, real workers: no stream is lost (half an hour).
	@worker=$$($(PYTHON) tools/bootstrap.py worker-cpu) && TANDEM_WORKER_PYTHON=$$worker $(VENV)/pytest e2e/test_availability.py e2e/test_drain.py -q -s

.PHONY: e2e-autoscaler
e2e-autoscaler: env cluster-binaries ## Recorded traffic at ten times its speed: pools follow it, as the simulator says (six minutes).
	@$(VENV)/pytest e2e/test_autoscaler.py -q -s

.PHONY: e2e-regions
e2e-regions: env cluster-binaries ## Three regions in three clusters, overloaded, slow, drained, cut off, killed: no request is lost (ten minutes).
	@$(VENV)/python -m regions $(if $(WRITE),--write $(WRITE))

.PHONY: bench-operator
bench-operator: env cluster-binaries ## Spec change to children applied, beside plain kopf handlers and bare applies on one control plane.
	@$(VENV)/python -m bench.operator --churn 500 --write

.PHONY: scale
scale: env cluster-binaries ## 1,000 fleets of 10 workers on nodes that only pretend, against the limits; FLEETS= and WORKERS= for fewer.
	@$(VENV)/python -m scale --fleets $(or $(FLEETS),1000) --workers $(or $(WORKERS),10)

.PHONY: bench-router
bench-router: env ## CPU and latency of the router beside its peers, paired; needs Go, says which peers are missing.
	@$(VENV)/python -m bench.router --write

.PHONY: bench-routing
bench-routing: env ## The routing decision beside round robin and blind push, in simulation; two goals, reached or missed.
	@$(VENV)/python -m bench.routing --write

.PHONY: bench-kv
bench-kv: env ## KV transfer beside a raw socket, gloo and NIXL, in one run; says which are missing.
	@$(with_nixl) && PYTHONPATH=$$nixl $$worker -m bench.kv
	@$(with_nixl) && PYTHONPATH=.:tests $(VENV)/python -m bench.kv.engines

.PHONY: bench-gateway
bench-gateway: env ## CPU that credentials and limits cost a request.
	@$(VENV)/python -m bench.gateway

.PHONY: bench-regions
bench-regions: env ## The choice of a region beside five others on recorded traffic, in the simulator.
	@$(VENV)/python -m bench.regions --write

.PHONY: bench-autoscaler
bench-autoscaler: env ## Every scaling policy on recorded traffic, in the simulator; FULL=1 for the whole grid.
	@$(VENV)/python bench/autoscaler/run.py

.PHONY: bench
bench: bench-operator bench-kv bench-router bench-routing bench-gateway bench-regions bench-autoscaler ## All benchmarks, one after the other.

.PHONY: chaos-kv
chaos-kv: env ## Hurt KV transfer between real engines in every way, as a table that fails on a miss.
	@$(with_nixl) && PYTHONPATH=tests $(VENV)/python -m chaos.kv && PYTHONPATH=tests $(VENV)/python -m chaos.kv --nixl

.PHONY: chaos-router
chaos-router: env ## 10,000 requests while half of either pool dies, hangs, resets or answers garbage, as a table that fails on a miss.
	@PYTHONPATH=tests $(VENV)/python -m chaos.router

.PHONY: chaos
chaos: chaos-kv chaos-router ## All fault suites.

.PHONY: clean
clean: ## Remove this checkout's environment and tool caches (the shared cache stays).
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
