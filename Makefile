VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME  ?= 60s
SOAK      ?= 1h
SEED      ?= 1
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

GO_BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-X main.version=$(VERSION)"
TOOLS    = .cache/bin

# The race detector looks everywhere but into the arithmetic of SCRAM, TLS and gzip, which shares nothing with anybody: it takes up to
# thirty times as long under it, and was a quarter of what the tests of the gate take. The programs that tests build are built so, too.
UNWATCHED = crypto/ecdh crypto/pbkdf2 $(addprefix crypto/internal/fips140/,edwards25519/field hmac pbkdf2 sha256 sha3) compress/flate
RACE      = -race $(foreach package,$(UNWATCHED),-gcflags=$(package)=-race=false)

# A program that looks for races waits a second before it ends, unless told otherwise.
export GORACE = atexit_sleep_ms=50

CHART     = $(CURDIR)/deploy/helm/hourgate
MANIFESTS = $(CURDIR)/deploy/kubernetes/hourgate.yaml

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.* ## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/hourgate
	$(GO_BUILD) -o bin/hourgate ./cmd/hourgate

demo: ## try Hourgate in front of a PostgreSQL of its own
	scripts/install postgresql-15
	$(MAKE) --no-print-directory build
	bin/hourgate demo

test: ## run all tests, on PostgreSQL 13 to 18
	scripts/install
	GOFLAGS="$(GOFLAGS) $(RACE)" go test -p 2 -parallel 6 -timeout 15m ./roles ./gate ./proxy ./... # the longest ones first

race-flags: # for .ci/run
	@echo $(RACE)

# The tests of proxy that are about the relay; the tag changes nothing else.
RELAY_TESTS = $(shell sed -nE 's/^func (Test[A-Za-z0-9_]+).*/\1/p' proxy/relay_test.go proxy/end_test.go | paste -sd'|')

test-portable: ## run the relay's tests without Linux's own system calls, and check that all builds on macOS
	GOFLAGS="$(GOFLAGS) $(RACE)" go test -tags portable -timeout 15m ./internal/burst ./internal/relay
	GOFLAGS="$(GOFLAGS) $(RACE)" go test -tags portable -timeout 15m -run '^($(RELAY_TESTS))$$' -skip TestWithdrawnGrantTellsSlowClients ./proxy
	go -C tools run ./typecheck darwin $(CURDIR)

clients: ## run real clients and drivers through the gate, and write docs/clients.md and the README's table
	scripts/install && scripts/install clients && scripts/install-clients
	go test -tags clients -count=1 -parallel 6 -timeout 30m -skip 'TestReadme|TestSuites|TestDriverSuites' ./clients -args -table $(CURDIR)/docs/clients.md
	go test -count=1 -run TestReadme ./clients -args -update
	@cat docs/clients.md

regress: ## run PostgreSQL's own suites (15 and 18) and those of Go drivers, direct and through the gate, for docs/suites.md
	scripts/install && scripts/install regress
	go test -tags clients -count=1 -parallel 2 -timeout 2h -v -run 'TestSuites|TestDriverSuites' ./clients -args -suites $(CURDIR)/docs/suites.md

sqlsmith: ## let sqlsmith make up statements for SMITH=1h, and compare what comes of them direct and through the gate; SEED=2
	scripts/install && scripts/install clients
	go test -tags clients -count=1 -v -timeout 3h -run TestSqlsmith ./clients -args -sqlsmith-time $(or $(SMITH),10m) -sqlsmith-seed $(SEED)

latencies: ## measure how long a request, its approval and a revocation take, and log-ins with and without a state
	scripts/install
	go test -tags latency -count=1 -run TestLatencies -v -timeout 10m ./gate

bench: ## measure against PgBouncer, HAProxy and a direct connection; BENCH=full for the record
	scripts/install bench
	go run ./bench $(if $(filter full,$(BENCH)),-full -out docs/benchmarks.md) $(BENCHFLAGS)

test-aws: ## test the AWS side against moto, a server that plays AWS
	scripts/install moto
	GOFLAGS="$(GOFLAGS) $(RACE)" go test -tags moto -run Moto ./secrets ./internal/discover
	go test -tags moto -run 'TestThousandServers|TestMoto' -v ./gate

fuzz: ## fuzz everything that reads untrusted bytes; FUZZTIME=60s or 10000000x each, FUZZ=pattern
	scripts/fuzz '$(FUZZTIME)' '$(FUZZ)'

faults: ## break server, legs, gate and disk at each moment of a session, and write the table of docs/reliability.md
	scripts/install && scripts/install faults
	go test -tags faults -count=1 -parallel 4 -run 'TestFaults|TestTable|TestStop' -timeout 1h ./faults -args -update

soak: ## work under short grants for SOAK=1h while something breaks every few seconds (SEED=1), and print slopes
	scripts/install && scripts/install faults
	HOURGATE_SOAK=$(SOAK) HOURGATE_SEED=$(SEED) go test -tags faults -count=1 -run TestSoak -timeout 24h -v ./faults

roles: ## run the tests of roles on PostgreSQL 13 to 18, of which `make test` runs some on three versions only
	scripts/install
	HOURGATE_MAJORS=all go test -count 1 -timeout 30m ./roles/...

churn: ## make and settle thousands of roles, on PostgreSQL 13 to 18
	scripts/install
	HOURGATE_MAJORS=all HOURGATE_CHURN=3000 go test -count 1 -run TestChurn -timeout 30m ./roles

plots: ## thousands of random plots of tenants who work together, on PostgreSQL 13 to 18
	scripts/install
	HOURGATE_PLOTS=200 HOURGATE_STRICT=1 go test -count 1 -run TestRandomPlots -timeout 60m ./roles

end-faults: ## let each statement of a role's end fail once, in each way, on PostgreSQL 13 to 18
	scripts/install
	HOURGATE_FAULTS=all HOURGATE_STRICT=1 go test -count 1 -run TestEachStatementOfTheEndFailsOnce -timeout 60m -v ./roles

ends: ## let 500 grants end in one second, and 500 to 5,000 roles without a session; and profiles for each lease: figures
	scripts/install
	HOURGATE_ENDS=500 go test -count 1 -run TestManyEnds -v -timeout 30m ./roles
	go test -count 1 -run xxx -bench 'BenchmarkManyRoles' -benchtime 1x -timeout 30m ./roles
	go test -count 1 -run xxx -bench 'BenchmarkProfiles' -benchtime 20x -timeout 30m ./roles

large: ## settle a role with two million large objects: figures
	scripts/install
	HOURGATE_LARGE=2000000 go test -count 1 -run TestManyLargeObjects -v -timeout 60m ./roles

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

dist: ## build release binaries, Debian packages, bills of materials and checksums into dist/
	rm -rf dist
	for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/} && binary=dist/hourgate_$(VERSION)_$${os}_$$arch && \
		GOOS=$$os GOARCH=$$arch $(GO_BUILD) -o $$binary ./cmd/hourgate && \
		go run ./deploy/sbom $$binary '$(VERSION)' >$$binary.cdx.json || exit; \
		test $$os != linux || scripts/deb $$binary '$(VERSION)' $$arch dist || exit; \
	done
	cd dist && sha256sum hourgate_* >SHA256SUMS

deb: build ## build a Debian package of bin/hourgate into dist/
	@scripts/deb bin/hourgate '$(VERSION)' "$$(go env GOARCH)" dist

dist-check: ## check that two builds in two folders give the same bytes
	scripts/dist-check

deploy-check: ## have promtool, Prometheus, logrotate, systemd and Helm read what is in deploy/
	scripts/install deploy
	go -C tools/deploy run ./hcl $(CURDIR)/deploy/terraform/*.tf
	go -C tools/deploy run ./chart $(CHART) $(CHART)/ci/files.yaml $(CHART)/ci/existing.yaml
	$(MAKE) --no-print-directory --silent manifests MANIFESTS=/dev/stdout | diff $(MANIFESTS) -
	go test -tags deploy -count=1 ./deploy

clean-debian: ## do what the documents say on a clean Debian 12: demo, package, init, session, purge; as root
	scripts/clean-debian

manifests: ## render the chart into deploy/kubernetes
	@{ echo '# Made by `make manifests` from deploy/helm/hourgate, with the values in its ci/files.yaml.'; \
		go -C tools/deploy run ./chart -print $(CHART) $(CHART)/ci/files.yaml; } >$(MANIFESTS)

image-check: build ## build the container image without a container engine, and check it
	scripts/image-check

clean: ## remove what the other targets built
	rm -rf bin dist .cache

# A stamp, because go install leaves a binary that is up to date as old as it is.
$(TOOLS)/tools: tools/go.mod tools/go.sum
	GOBIN=$(CURDIR)/$(TOOLS) go -C tools install tool
	@touch $@

.PHONY: help build demo test test-portable clients regress sqlsmith latencies bench test-aws fuzz faults soak churn plots end-faults ends crash roles large lint fmt dist deb dist-check deploy-check clean-debian manifests image-check clean
