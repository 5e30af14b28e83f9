# Everything a newcomer or CI calls. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
READY  := $(VENV)/.ready
PROMETHEUS := .cache/prometheus
PROMTOOL   := $(PROMETHEUS)/usr/bin/promtool

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-grpcio test-compiled compiled compiler check fix bench dashboards vendor browser screenshot e2e-compose proto proto-release clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The virtual environment is made again when what it is made from changes; `.ready` marks success.
$(READY): pyproject.toml constraints.txt
	@echo "==> installing into $(VENV) (torch is large: a minute or more the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "regard needs Python 3.11 or newer, $(PYTHON) is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The page's tests drive a real browser, and check it with axe-core.
AXE := .cache/axe-core/axe.min.js
DEBIAN = command -v apt-get >/dev/null || { echo "install $(1), and put it on the PATH"; exit 1; }; \
	echo "==> installing $(1)"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1)

$(AXE): server/npm.py
	@command -v npm >/dev/null || { $(call DEBIAN,npm); }
	$(PYTHON) server/npm.py axe-core $(@D)
	@touch $@

browser: $(AXE)
	@command -v chromium >/dev/null || { $(call DEBIAN,chromium fonts-dejavu-core); }

vendor:  ## fetch the library that draws the page's charts, by name, version and hash
	$(PYTHON) server/npm.py uplot

screenshot: $(READY) browser  ## make the picture of the page that README shows, under load
	$(BIN)/python tests/e2e/page/screenshot.py

demo: $(READY)  ## start a server, compare the sample photographs through the client, stop it
	@$(BIN)/python deploy/demo.py

serve: $(READY)  ## keep a server in the foreground
	@$(BIN)/regard serve

# Fetched once; the time of what is inside is Debian's.
$(PROMTOOL):
	tests/e2e/monitoring/prometheus.sh $(PROMETHEUS)
	@touch -h $@

# The wheel that deploy/Dockerfile makes, unpacked: on PYTHONPATH it goes before the sources.
COMPILED := .cache/compiled
FIRST    := PYTHONPATH=$(CURDIR)/$(COMPILED)/site
SOURCES  := $(shell find proto/regard_proto models/regard_models server/regard_server client/regard_client \
	-type f -not -path '*/__pycache__/*')
# Of pip's two names for what pins a build's own tools, versions before 25.3 know one, those from 26.2 on the other.
PINNED   := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
HEADER   := import os, sysconfig; print(os.path.join(sysconfig.get_path("include"), "Python.h"))

$(COMPILED)/.ready: $(READY) hatch_build.py $(SOURCES)
	@echo "==> compiling the server (a minute or two)"
	@$(MAKE) --no-print-directory compiler
	rm -rf $(COMPILED)
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(PINNED) $(PIP) wheel --quiet --no-deps --wheel-dir $(COMPILED) .
	$(BIN)/python -m zipfile -e $(COMPILED)/*.whl $(COMPILED)/site
	@touch $@

# For mypyc, and for torch.compile, which one test runs.
compiler: $(READY)
	@command -v g++ >/dev/null || { $(call DEBIAN,g++); }
	@test -e "$$($(BIN)/python -c '$(HEADER)')" || { $(call DEBIAN,python3-dev); }

compiled: $(COMPILED)/.ready  ## compile most of what a call runs through, into .cache/compiled/site

# Nothing of an engine is compiled, nor of the benchmarks' own servers: they would do the same once more, for minutes.
AS_BEFORE := --ignore=tests/unit/server/engine --ignore=tests/integration/test_benchmark_servers.py
test-compiled: $(COMPILED)/.ready
	@$(FIRST) $(BIN)/python -c 'import regard_server.build as b; assert b.this_build().compiled, b.__file__'
	$(FIRST) $(BIN)/pytest tests/unit/proto tests/unit/server tests/integration $(AS_BEFORE)

# The versions that probe.py trusts, and what a test needs to be among those that the direct front end decides.
CHECKED := from regard_server.frontend.direct import probe; \
	print(*(".".join(map(str, each)) for each in (probe.FIRST_CHECKED, probe.LAST_CHECKED)))
THROUGH := direct or test_frontend or test_process
test-grpcio: $(READY)  ## run the direct front end's tests with the first and the last grpcio that it is said to fit
	for version in $$($(BIN)/python -c '$(CHECKED)'); do \
		site=$(CURDIR)/.cache/grpcio/$$version; \
		test -d $$site || $(PIP) install --quiet --no-deps --target $$site "grpcio==$$version.*" || exit; \
		export PYTHONPATH=$$site; \
		$(BIN)/python -c 'import grpc; print("==> grpcio", grpc.__version__); assert "'$$site'" in grpc.__file__' || exit; \
		$(BIN)/pytest tests/integration -k "$(THROUGH)" || exit; \
	done

test: $(READY) $(PROMTOOL) browser compiler  ## run every test, and most of the server's once more against the compiled one
	$(BIN)/pytest
	@$(MAKE) --no-print-directory test-compiled

check: $(READY) $(PROMTOOL)  ## everything that can be said without running: style, types, walls, protos, dashboards, rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tests/typing/api.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/python server/npm.py uplot --check
	$(BIN)/python proto/generate.py --check
	$(BIN)/python proto/generate.py --descriptors build/regard.binpb
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf lint build/regard.binpb --config buf.yaml --path regard_proto
	$(BIN)/buf breaking build/regard.binpb --against proto/released.binpb --config buf.yaml --path regard_proto
	$(BIN)/python deploy/grafana/generate.py --check
	$(BIN)/python tests/typing/grafana/dashboards.py
	$(PROMTOOL) check rules --lint=all --lint-fatal deploy/prometheus/rules/*.yml
	$(PROMTOOL) check config --lint=all --lint-fatal deploy/prometheus/prometheus.yml

fix: $(READY)  ## let the tools mend what they can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write proto

dashboards: $(READY)  ## make the Grafana dashboards from deploy/grafana
	$(BIN)/python deploy/grafana/generate.py

e2e-compose: $(READY)  ## docker-compose.yml for real: up, called, scaled, killed, watched, down (starts an engine if none runs)
	PYTHONPATH=tests/fixtures:tests/e2e $(BIN)/python tests/e2e/compose/run.py

# Some ten minutes on two free cores, more the first time: engines are chosen, and Mosec is installed.
# Each prints a table and writes bench-results/NAME.json; of a quiet machine, and with longer runs, are the figures of
# tests/benchmarks/README.md. Mosec is the one peer that comes from elsewhere; where it cannot be had it is left out.
MEASURE := $(BIN)/python tests/benchmarks
PEERS   := --seconds 1.5 --rounds 1 --servers regard mosec
bench: $(READY)  ## measure all that has a target, and tell how far off each is
	$(MEASURE)/peers.py --install --servers mosec
	$(MEASURE)/peers.py --case null --callers 32 64 $(PEERS) grpc_aio
	$(MEASURE)/peers.py --case small --mode same --callers 1 32 $(PEERS) grpc_sync
	$(MEASURE)/peers.py --case resnet50 --callers 8 $(PEERS) grpc_aio
	$(MEASURE)/serving.py --cases small resnet50 --callers 32 64 --seconds 2 --rounds 1
	$(MEASURE)/overload.py --cases small --loads 2 5 --seconds 4 --rounds 1
	$(MEASURE)/frontend.py --callers 1 32 --seconds 1 --rounds 2
	$(MEASURE)/metrics_cost.py --cases null --seconds 1 --pairs 2
	$(MEASURE)/startup.py --rounds 1
	@echo && $(MEASURE)/summary.py

proto: $(READY)  ## make the generated code from the .proto files
	$(BIN)/python proto/generate.py

proto-release: $(READY)  ## freeze today's API as the one that `buf breaking` compares with
	$(BIN)/python proto/generate.py --descriptors proto/released.binpb

clean:  ## remove everything that these targets made
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis bench-results
