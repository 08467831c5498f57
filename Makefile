# The manual of this project: `make` prints what there is to do.

GO      ?= go
BIN     := bin/catraca
CACHE   := $(CURDIR)/.cache
TOOLS   := $(CACHE)/bin
FUZZTIME ?= 10m
BENCH   ?=
CRASH   ?=
# No debug tables: a fifth less to ship, and panics and profiles keep their names.
LDFLAGS ?= -s -w
# A build knows its commit when it is made in a checkout, and says (devel) when it is not.
VCS     := $(shell git rev-parse --is-inside-work-tree >/dev/null 2>&1 && echo true || echo false)

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/catraca, one static binary
	$(GO) build -trimpath -buildvcs=$(VCS) -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/catraca

.PHONY: run
run: build ## start Catraca with a stand-in upstream, a demo tenant and a key to try
	$(BIN) serve --demo

.PHONY: test
test: ## every test, on a real Postgres and Redis (found, started and, as root on Debian, installed), then the SDKs
	@mkdir -p $(CACHE)
	$(GO) run ./internal/testenv/start -- $(GO) run ./internal/testcount -summary $(CACHE)/tests . $(wildcard e2e) -- -timeout 8m

.PHONY: sim
sim: ## the simulations of the meter and of budgets, 100,000 lives full of accidents each; `make test` runs 2,000
	$(GO) test ./metering -run '^TestSimulation$$' -seeds 100000 -timeout 2h -v
	$(GO) test ./budget -run '^TestBudgetSimulation$$' -budget.seeds 100000 -timeout 4h -v

.PHONY: race
race: ## the tests of the product under the race detector; needs a C compiler
	CGO_ENABLED=1 $(GO) run ./internal/testenv/start -- $(GO) run ./internal/testcount . -- -race

.PHONY: lint
lint: $(TOOLS)/staticcheck $(TOOLS)/gofumpt ## go vet, staticcheck, gofumpt and the rules of the tree
	$(GO) vet ./...
	$(if $(wildcard e2e/go.mod),cd e2e && $(GO) vet ./...)
	$(TOOLS)/staticcheck ./...
	$(if $(wildcard e2e/go.mod),cd e2e && $(TOOLS)/staticcheck ./...)
	@bad=$$(find . -name '*.go' -not -path './.cache/*' -not -path '*/node_modules/*' -exec $(TOOLS)/gofumpt -l {} +); \
	if [ -n "$$bad" ]; then echo "not formatted; run 'make fmt':"; echo "$$bad"; exit 1; fi
	$(GO) test ./internal/tidy

.PHONY: fmt
fmt: $(TOOLS)/gofumpt ## format every Go file
	find . -name '*.go' -not -path './.cache/*' -not -path '*/node_modules/*' -exec $(TOOLS)/gofumpt -w {} +

# The tools are built once for each of their versions.
$(TOOLS)/staticcheck $(TOOLS)/gofumpt &: tools/go.mod tools/go.sum
	cd tools && GOBIN=$(TOOLS) $(GO) install tool
	@touch $(TOOLS)/staticcheck $(TOOLS)/gofumpt

.PHONY: fuzz
fuzz: ## every fuzz target in turn, FUZZTIME (10m) each
	@grep -roE --include='*_test.go' --exclude-dir=.cache --exclude-dir=node_modules -H '^func Fuzz[A-Za-z0-9_]+' . | sort | \
	while IFS=: read -r file func; do \
		echo "== $${func#func } in $$(dirname $$file), $(FUZZTIME)"; \
		$(GO) test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) "./$$(dirname $$file)" </dev/null || exit 1; \
	done

.PHONY: bench
bench: build ## CPU and memory per request beside a bare proxy; flags in BENCH, as in BENCH='-rounds 9 -phases plain'
	$(GO) run ./bench/run -catraca $(BIN) $(BENCH)

.PHONY: bench-shared
bench-shared: build ## the same of the proxy alone: on Postgres and Redis, with the ledger in a second process
	$(GO) run ./internal/testenv/start -- $(GO) run ./bench/run -catraca $(BIN) -shared -foreign 0.9 $(BENCH)

.PHONY: crash
crash: build ## kills and outages on real processes, half an hour; flags in CRASH, as in CRASH='-run redis -seed 7'
	$(GO) run ./internal/crash -catraca $(BIN) $(CRASH)

.PHONY: large
large: ## what takes a fleet: 100 000 tenants in one proxy, 1 000 proxies on one control plane
	CATRACA_TEST_LARGE=1 $(GO) run ./internal/testenv/start -- $(GO) test -count=1 -v -run 'ManyTenants|AFleetFollows' ./cmd/catraca ./internal/link

.PHONY: sdk
sdk: $(CACHE)/venv/.installed ## the SDK tests with the Python clients too
	E2E_PYTHON=$(CACHE)/venv/bin/python $(GO) run ./internal/testcount e2e -- -count=1

$(CACHE)/venv/.installed: e2e/python/requirements.txt
	@python3 -c 'import ensurepip, venv' || { echo "the Python clients need venv: apt-get install python3-venv"; exit 1; }
	python3 -m venv $(CACHE)/venv
	$(CACHE)/venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: clean
clean: ## remove what was built and downloaded here; ./data stays
	rm -rf bin .cache e2e/node/node_modules
