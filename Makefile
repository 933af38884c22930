# Everything a developer and CI do with this project. `make help` lists it.

GO      ?= go
# The linter is heavy to build and is no dependency of the project: it is
# fetched and built at this version when `make lint` asks for it.
LINTER  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# How long one fuzz target runs under `make fuzz`.
FUZZTIME ?= 60s
# The limit of one test package. The whole of `make test` stays well below it.
TIMEOUT ?= 30m
# What `make test` gives to go test beyond the usual.
TESTFLAGS ?=

# The race detector needs cgo: a C compiler and the C library's headers.
# tests/prepare.sh installs them where it may.
RACE = $(shell printf '\043include <stdlib.h>\n' | $$($(GO) env CC) -xc -fsyntax-only - >/dev/null 2>&1 && echo -race)
# Without a C compiler everything is built without cgo.
CGO  = $(if $(RACE),1,0)
# Every Go file of ours; git is not asked, so that an unpacked archive works too.
FILES = $$(find . -name node_modules -prune -o -name '*.go' -print)

.DEFAULT_GOAL := help
.PHONY: help build packages test race shuffle fuzz bench compare lint vet fmt interop check prepare clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/hubd and bin/hubctl as they are released
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/hubd ./cmd/hubd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/hubctl ./cmd/hubctl

packages: ## Make packages, archives, an image, bills of materials and checksums in dist/
	$(GO) run ./internal/release -out dist $(if $(VERSION),-version $(VERSION))

prepare: ## Install what the tests need, or say what is missing
	@sh tests/prepare.sh

vet: ## Run go vet and check the formatting
	@unformatted="$$(gofmt -l $(FILES))"; \
	if [ -n "$$unformatted" ]; then echo "not formatted (run make fmt):"; echo "$$unformatted"; exit 1; fi
	CGO_ENABLED=$(CGO) $(GO) vet ./...

fmt: ## Format every Go file
	gofmt -w $(FILES)

test: prepare vet ## Run every test there is; the last line is "N passed, N failed"
	@if [ -z "$(RACE)" ]; then echo "no C compiler: the race detector is off (install gcc and libc6-dev)"; fi
	CGO_ENABLED=$(CGO) $(GO) run ./tests/internal/tally $(RACE) -shuffle=on -timeout=$(TIMEOUT) $(TESTFLAGS) ./...

race: ## Run the tests with the race detector, the end-to-end daemons included
	HUBD_TEST_RACE=1 CGO_ENABLED=1 $(GO) run ./tests/internal/tally -race -timeout=$(TIMEOUT) $(TESTFLAGS) ./...

shuffle: ## Run the tests three times in random order, on 1, 2 and 8 CPUs
	CGO_ENABLED=$(CGO) $(GO) run ./tests/internal/tally -shuffle=on -count=3 -cpu=1,2,8 -timeout=30m $(TESTFLAGS) ./...

fuzz: ## Run each fuzz target for FUZZTIME (60s)
	@$(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}} {{.ImportPath}}{{end}}' ./... | while read -r dir pkg; do \
		for target in $$(cat "$$dir"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' | sort -u); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) "$$pkg" </dev/null || exit 1; \
		done; \
	done

bench: ## Run the benchmarks into bin/bench.txt, for benchstat
	@mkdir -p bin
	$(GO) test -run='^$$' -bench=. -benchmem ./... | tee bin/bench.txt

compare: prepare ## Measure Cap'n Web beside a Node server, with the same Node client
	HUBD_BENCH=1 $(GO) test ./tests -count=1 -v -run='^TestCompareCapnweb$$'

lint: ## Run golangci-lint (fetched and built at its pinned version)
	$(GO) run $(LINTER) run ./...

interop: ## Run only the tests with clients in other languages
	$(GO) run ./tests/internal/tally -count=1 -run='^TestInterop' ./tests/...

check: lint test ## What CI runs, and the linter

clean: ## Remove what was built
	rm -rf bin dist coverage.out
