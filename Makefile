# What people and CI run. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

cargo := cargo
debug := $(or $(CARGO_TARGET_DIR),target)/debug/highwater
release := $(or $(CARGO_TARGET_DIR),target)/release/highwater

.PHONY: help build demo demo-kafka check test sim fuzz bench bench-updating install deny

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

build: ## Build the program for development
	@tools/need.sh build
	$(cargo) build --locked

demo: build ## Count words across 2 processes, on Highwater's own broker
	@HIGHWATER=$(debug) tools/demo.sh

demo-kafka: build ## The same on a real Apache Kafka
	@tools/need.sh kafka
	@HIGHWATER=$(debug) tools/demo.sh --kafka

check: ## Format and lints, without running anything
	@tools/need.sh build
	$(cargo) fmt --check
	$(cargo) clippy --locked --all-targets -- -D warnings

test: ## Everything that CI runs
	@tools/test.sh

sim: ## More simulated runs than `make test` has: SEEDS=n of them, or SEED=n to see one again
	@tools/need.sh build
	$(if $(SEED),HIGHWATER_SEED=$(SEED)) $(if $(SEEDS),HIGHWATER_RUNS=$(SEEDS)) \
	  $(cargo) test --locked --test sim -- --nocapture

fuzz: ## Feed a decoder until it fails or you stop it: make fuzz TARGET=log
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2; exit 1; }
	cp Cargo.lock fuzz/Cargo.lock
	cd fuzz && $(cargo) run --bin seeds
	$(cargo) fuzz run --sanitizer none $(or $(TARGET),log) -- -rss_limit_mb=2048 -timeout=5

bench: ## Build for speed and measure this machine
	@tools/need.sh build
	$(cargo) build --locked --release
	@$(release) bench all

bench-updating: ## Results that change beside DataFusion's batch answer over the same rows, and the memory that they take
	@tools/need.sh build
	$(cargo) bench --locked --bench updating

# where a user's own completions and manual are looked for
share := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)

install: ## Build for speed and install `highwater`, its completions and its manual
	@tools/need.sh build
	$(cargo) install --locked --path .
	mkdir -p $(share)/bash-completion/completions $(share)/zsh/site-functions $(share)/fish/vendor_completions.d
	$(release) completions bash > $(share)/bash-completion/completions/highwater
	$(release) completions zsh > $(share)/zsh/site-functions/_highwater
	$(release) completions fish > $(share)/fish/vendor_completions.d/highwater.fish
	$(release) man $(share)/man/man1

deny: ## Licences, sources and advisories of all dependencies
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	$(cargo) deny check
