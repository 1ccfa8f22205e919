# The index of what one does here. `make run` and `make test` are the two commands of the README.

GO       ?= go
# chunkenc.Iterator has a Seek of its own kind; all other checks of vet are on.
VET      := $(GO) vet -stdmethods=false
BIN      := .cache/bin
FUZZTIME ?= 10s
COUNT    ?= 6
DATA     ?= data

# Every package but the tests of the real binary, which have the machine for themselves.
UNIT = $(shell $(GO) list ./... | grep -v '/bench/e2e$$')

# How many of those tests run beside each other: they mostly wait. Some, which measure, run alone before them.
TOGETHER ?= 4

# Beside them stand tests, TestReal…, that start brokers of Apache Kafka.
REAL := ./internal/kafkatest ./internal/log

.PHONY: run cluster build ui page test unit e2e kafka tools race lint fuzz bench bench-write bench-read check clean

run: build            ## everything in one process, data in ./data
	./sluice all --data-dir $(DATA)

cluster: tools build   ## an installation on this machine: Kafka, S3, two of every stage, two zones
	./sluice bench cluster

build:                ## ./sluice
	$(GO) build -o sluice .

ui:                   ## the web page, from internal/page/app into internal/page/dist; needs Node, and only who changes the page needs it
	cd internal/page/app && npm ci --no-audit --no-fund && npm run build

test: tools           ## everything: vet, packages, real Kafka, and the real binary against real Prometheus and S3
	$(VET) ./...
	./.ci/gotest unit -timeout 10m -skip '^TestReal' $(UNIT)
	$(GO) test -tags failpoints ./internal/failpoint
	./.ci/page
	SLUICE_E2E=1 ./.ci/gotest kafka -timeout 20m -p 1 -run '^TestReal' $(REAL)
	SLUICE_E2E=1 ./.ci/gotest e2e -timeout 45m -parallel $(TOGETHER) ./bench/e2e
	@./.ci/skipped unit kafka e2e

unit:                 ## the packages only, four minutes
	$(GO) test $(UNIT)

e2e: tools            ## the real binary only; make e2e RUN=TestKill SLUICE_KILLS=100
	SLUICE_E2E=1 $(GO) test -count=1 -timeout 60m -parallel $(TOGETHER) -v $(if $(RUN),-run '$(RUN)') ./bench/e2e

page: tools           ## the web page only, in a real browser; make page RUN=TestPageSmooth SLUICE_PAGE_SCREENSHOTS=/tmp/pictures
	./.ci/page
	SLUICE_E2E=1 $(GO) test -count=1 -timeout 15m -v -run '$(or $(RUN),^TestPage)' ./bench/e2e

kafka: tools          ## the tests with real brokers only; make kafka RUN=TestRealJoin
	SLUICE_E2E=1 $(GO) test -count=1 -timeout 30m -p 1 -v -run '$(or $(RUN),^TestReal)' $(REAL)

tools:                ## what the tests run: Prometheus, node_exporter, an S3 server, Apache Kafka, a browser
	./.ci/tools $(BIN)

race:                 ## the packages under the race detector
	$(GO) test -race -short -timeout 20m $(UNIT)

lint:                 ## vet, staticcheck, gofmt
	$(VET) ./...
	$(GO) tool staticcheck ./...
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt -w $$unformatted"; exit 1; fi

fuzz:                 ## every fuzz target for FUZZTIME
	FUZZTIME=$(FUZZTIME) ./.ci/fuzz

bench:                ## every benchmark; compare two runs with `go tool benchstat old new`
	$(GO) test -run '^$$' -bench . -benchmem -count $(COUNT) $(UNIT) | tee bench.out

bench-write: build    ## what a written sample costs, beside Debian's Prometheus and VictoriaMetrics; make bench-write ARGS='--protocol 2'
	./.ci/peers
	./sluice bench write $(ARGS)

bench-read: build     ## what a query costs, beside the same; make bench-read ARGS='--interval 15s'
	./.ci/peers
	./sluice bench read $(ARGS)

check: build          ## hold the log, the catalogue and the bucket of ./data against each other
	./sluice check --data-dir $(DATA) --deep

clean:                ## what was built; never ./data
	rm -rf sluice .cache
