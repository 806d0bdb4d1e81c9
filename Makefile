VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME  ?= 60s
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

GO_BUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$(VERSION)"
TOOLS    = .cache/bin

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.* ## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/hourgate
	$(GO_BUILD) -o bin/hourgate ./cmd/hourgate

demo: ## try Hourgate in front of a PostgreSQL of its own
	scripts/install postgresql-15
	$(MAKE) --no-print-directory build
	bin/hourgate demo

test: ## run all tests, on PostgreSQL 13 to 18
	scripts/install
	go test -race -timeout 15m ./...

test-portable: ## run the relay's tests without Linux's own system calls, and check that all builds on macOS
	go test -race -tags portable -timeout 15m -skip TestWithdrawnGrantTellsSlowClients ./internal/burst ./proxy
	GOOS=darwin go vet ./...

clients: ## run real clients and drivers through the gate, and write docs/clients.md and the README's table
	scripts/install && scripts/install-clients
	go test -tags clients -count=1 -parallel 6 -timeout 30m -skip 'TestReadme|TestSuites' ./clients -args -table $(CURDIR)/docs/clients.md
	go test -count=1 -run TestReadme ./clients -args -update
	@cat docs/clients.md

regress: ## run PostgreSQL's own regression and isolation suites, direct and through the gate, on 15 and 18
	scripts/install && scripts/install regress
	go test -tags clients -count=1 -timeout 2h -v -run TestSuites ./clients

bench: ## measure against PgBouncer, HAProxy and a direct connection; BENCH=full for the record
	scripts/install bench
	go run ./bench $(if $(filter full,$(BENCH)),-full -out docs/benchmarks.md) $(BENCHFLAGS)

test-aws: ## test the AWS side against moto, a server that plays AWS
	scripts/install moto
	go test -race -tags moto -run Moto ./secrets

fuzz: ## fuzz everything that reads untrusted bytes; FUZZTIME=60s or 10000000x each, FUZZ=pattern
	scripts/fuzz '$(FUZZTIME)' '$(FUZZ)'

churn: ## make and settle thousands of roles, on PostgreSQL 13 to 18
	scripts/install
	HOURGATE_CHURN=3000 go test -count 1 -run TestChurn -timeout 30m ./roles

crash: ## kill the program before each statement of making and settling a role, on PostgreSQL 13 to 18
	scripts/install
	HOURGATE_CRASH=all go test -count 1 -run TestCrashAnywhere -timeout 30m -v ./roles

lint: $(TOOLS)/tools ## check style and find suspicious code
	@unformatted=$$($(TOOLS)/gofumpt -l .) && test -z "$$unformatted" || \
		{ echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; }
	for script in scripts/* .ci/run; do bash -n $$script || exit; done
	$(TOOLS)/golangci-lint run

fmt: $(TOOLS)/tools ## format all Go files
	$(TOOLS)/gofumpt -l -w .

dist: ## build release binaries for all platforms into dist/
	rm -rf dist
	for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/}; \
		GOOS=$$os GOARCH=$$arch $(GO_BUILD) -o dist/hourgate_$(VERSION)_$${os}_$$arch ./cmd/hourgate || exit; \
	done
	cd dist && sha256sum hourgate_* >SHA256SUMS

image-check: build ## build the container image without a container engine, and check it
	scripts/image-check

clean: ## remove what the other targets built
	rm -rf bin dist .cache

# A stamp, because go install leaves a binary that is up to date as old as it is.
$(TOOLS)/tools: tools/go.mod tools/go.sum
	GOBIN=$(CURDIR)/$(TOOLS) go -C tools install -trimpath tool
	@touch $@

.PHONY: help build demo test test-portable clients regress bench test-aws fuzz churn crash lint fmt dist image-check clean
