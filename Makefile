# Two commands do everything: `make run` and `make test`. Both install what is missing first.

CARGO ?= cargo
WORKERS ?= 2
ARGS ?=
SOAK_SECONDS ?= 3600
RECYCLES ?= 100
FAULTS_SECONDS ?= 1800
BUDGET_SECONDS ?= 600
FUZZ_SECONDS ?= 60
STORM_CONNECTS ?= 1000000
IDLE_SECONDS ?= 600
SILENCE_SECONDS ?= 60
SCHEDULES ?= 1000000
OWN_SESSIONS ?= 200
CDP_SESSIONS ?= 100
MIXED_SECONDS ?= 600
CHAOS_CLIENTS ?= 20000
SCALE_ROUNDS ?= 1000
PICTURES ?= target/pictures

# What scripts/setup.sh could not leave to Debian.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test check chart setup lint bench overload chaos capacity recycles own mixed soak storm idle simulate scale faults gateway budget scaling pictures fuzz containers clean

help: ## list the targets
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || \
		sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1: \2/p' $(MAKEFILE_LIST)

run: ## a grid on this machine at ws://localhost:8080 (WORKERS=2, ARGS="--listen 0.0.0.0:8080")
	@scripts/setup.sh run
	$(CARGO) build --release --locked
	target/release/playhouse up --workers $(WORKERS) $(ARGS)

test: ## formatting, lints and every test, with real browsers
	@scripts/setup.sh test
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory chart
	$(CARGO) test --locked

chart: ## the Helm chart against the schemas of Kubernetes, alert rules against promtool
	@scripts/setup.sh test
	$(CARGO) build --locked
	.tools/python/bin/python tests/chart/check.py helm promtool target/debug/playhouse

setup: ## install what is missing (the other targets call it)
	@scripts/setup.sh test

check: lint ## format, lints, unit tests, structure and links: no browser, no Redis
	$(CARGO) test --locked --lib --test architecture

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

bench: ## what a session costs, beside HAProxy and nginx (ARGS="--only connects --repeats 9")
	@scripts/setup.sh run
	$(CARGO) bench --locked --bench datapath -- --output benches/results/datapath.txt $(ARGS)
	$(CARGO) bench --locked --bench selection --bench frames -- --warm-up-time 0.5 --measurement-time 1

overload: ## more clients than seats, and what comes after; a million steps of the line: benches/results/overload.txt
	@scripts/setup.sh test
	LINE_STEPS=1000000 $(CARGO) test --locked --release --lib -- admission::line
	$(CARGO) bench --locked --bench overload -- --output benches/results/overload.txt

chaos: ## clients that hang up at any point, with memory and with Redis; every count is zero after them (CHAOS_CLIENTS=20000)
	@scripts/setup.sh test
	CHAOS_CLIENTS=$(CHAOS_CLIENTS) $(CARGO) test --locked --test main -- grid::chaos --nocapture

capacity: ## seats of a worker that recycles, by policy, with real browsers: docs/capacity.svg
	@scripts/setup.sh test
	$(CARGO) bench --locked --bench capacity -- --output docs

recycles: ## recycles in a row, nothing may be left of them (RECYCLES=100)
	@scripts/setup.sh test
	RECYCLES=$(RECYCLES) $(CARGO) test --locked --test main recycles_in_a_row -- --nocapture

own: ## sessions on browsers of their own, nothing may be left of them; the largest messages (OWN_SESSIONS=200 CDP_SESSIONS=100)
	@scripts/setup.sh test
	OWN_SESSIONS=$(OWN_SESSIONS) OWN_AT_ONCE=8 CDP_SESSIONS=$(CDP_SESSIONS) CDP_MIB=100 $(CARGO) test --locked --test main -- \
		--nocapture grid::own::sessions_that_come_at_once grid::cdp::clients_of_all_kinds grid::cdp::large_messages

mixed: ## workers and clients of every kind at once, with recycles, reloads and a death: benches/results/mixed.txt (MIXED_SECONDS=600)
	@scripts/setup.sh test
	MIXED_SECONDS=$(MIXED_SECONDS) MIXED_OUTPUT=benches/results/mixed.txt $(CARGO) test --locked --test mixed -- --nocapture

soak: ## sessions that come and go, every byte verified (SOAK_SECONDS=3600)
	$(CARGO) bench --locked --bench datapath -- soak --seconds $(SOAK_SECONDS)

storm: ## connects as fast as they go, none may be lost (STORM_CONNECTS=1000000)
	$(CARGO) bench --locked --bench datapath -- storm --connects $(STORM_CONNECTS)

idle: ## idle sessions behind what cuts silent connections (IDLE_SECONDS=600 SILENCE_SECONDS=60)
	@scripts/setup.sh test
	PLAYHOUSE_IDLE_SECONDS=$(IDLE_SECONDS) PLAYHOUSE_SILENCE_SECONDS=$(SILENCE_SECONDS) \
		$(CARGO) test --locked --test main -- grid::silence

scale: ## what a grid of up to 50,000 workers and 20 proxies costs Redis, and a model of 100,000 x 100: benches/results/scale.txt
	@scripts/setup.sh test
	$(CARGO) bench --locked --bench scale -- --output benches/results/scale.txt $(ARGS)

simulate: ## the whole protocol under seeded faults in simulated time (SCHEDULES=1000000)
	SIMULATE_SCHEDULES=$(SCHEDULES) $(CARGO) test --locked --release --lib -- simulation --nocapture --test-threads 1

faults: ## real processes, their links cut, slowed and frozen, Redis killed and emptied: benches/results/faults.txt (FAULTS_SECONDS=1800; needs root)
	@scripts/setup.sh faults
	$(CARGO) bench --locked --bench faults -- --seconds $(FAULTS_SECONDS) --output benches/results/faults.txt

gateway: ## what a worker's gateway and seal cost a session: benches/results/gateway.txt
	@scripts/setup.sh test
	$(CARGO) bench --locked --bench worker -- cost --output benches/results/gateway.txt

budget: ## browsers and memory of a worker beside long sessions, and in 720 MiB: benches/results/budget.txt (BUDGET_SECONDS=600; needs root)
	@scripts/setup.sh test
	$(CARGO) bench --locked --bench worker -- budget --seconds $(BUDGET_SECONDS) --output benches/results/budget.txt

scaling: ## scale-in with and without deletion costs, and bursts from no pod at all, simulated: benches/results/scaling.txt
	SCALE_ROUNDS=$(SCALE_ROUNDS) $(CARGO) test --locked --test main -- grid::scale_in --nocapture
	$(CARGO) bench --locked --bench scaling -- --output benches/results/scaling.txt

pictures: ## the dashboard and a live view as PNG files, for people to look at (PICTURES=target/pictures)
	@scripts/setup.sh test
	PLAYHOUSE_PICTURES=$(CURDIR)/$(PICTURES) $(CARGO) test --locked --test main -- grid::dashboard grid::live::operators

fuzz: ## frames, configuration and admin paths against any bytes (FUZZ_SECONDS=60; nightly Rust and cargo-fuzz)
	cd fuzz && for target in frames config routes; do \
		seeds=; test $$target != config || seeds="../tests/fixtures/config/valid ../tests/fixtures/config/invalid"; \
		mkdir -p corpus/$$target; \
		$(CARGO) +nightly fuzz run $$target corpus/$$target $$seeds -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

containers: ## the tutorial of docs/containers.md, on stand-ins for the base images (needs root)
	tests/containers/run.sh

clean: ## remove build output and the downloaded tools, not Debian's packages
	$(CARGO) clean
	rm -rf .tools
