# Two commands do everything: `make run` and `make test`. Both install what is missing first.

CARGO ?= cargo
WORKERS ?= 2
ARGS ?=

# What scripts/setup.sh could not leave to Debian.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test setup lint bench soak fuzz clean

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
	$(CARGO) test --locked

setup: ## install what is missing (the other targets call it)
	@scripts/setup.sh test

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

bench: ## the criterion benches
	@scripts/setup.sh run
	$(CARGO) bench --locked

soak: ## (reserved)
	@echo "there is no soak test yet" >&2; exit 2

fuzz: ## (reserved)
	@echo "there are no fuzz targets yet" >&2; exit 2

clean: ## remove build output and the downloaded tools, not Debian's packages
	$(CARGO) clean
	rm -rf .tools
