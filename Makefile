# stasis: what a person types. `make` alone says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Tools that `make deps` installs by cargo land here.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

PREFIX ?= /usr/local
DESTDIR ?=
PROGRAMS := stasis stasis-collector stasis-freezer stasis-dumper stasis-restorer stasis-gateway
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
GENERATED := target/packaging
PACKAGES := -p stasis-cli -p stasis-criu -p stasis-services -p stasis-gateway

# Checkpoints need root; who is not root runs the built programs by sudo, never the compiler.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
ifneq ($(SUDO),)
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER := $(SUDO)
endif

# CRIU is a peer to test against, not a need: the tests that use it are left out, and said to be,
# where there is none that works.
# (Ours, where the built programs are on PATH, is no peer.)
CRIU ?= $(filter-out $(abspath $(RELEASE))/criu,$(shell command -v criu))
CRIU_WORKS := $(shell [ -n "$(CRIU)" ] && $(SUDO) $(CRIU) check >/dev/null 2>&1 && echo yes)
export CRIU
ifeq ($(CRIU_WORKS),yes)
WITHOUT_CRIU :=
else
WITHOUT_CRIU := -E 'not test(/criu_peer/)'
endif

.PHONY: help
help: ## this list
	@echo "stasis: checkpoint and restore for running Linux programs"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: deps
deps: ## install what is missing to build and test (packages by apt, bpf-linker by cargo)
	@.ci/deps

.PHONY: build
build: deps ## release programs in target/release
	cargo build --release --locked $(PACKAGES)

# Together with all others a package may build by what only those ask of a dependency.
.PHONY: check-build
check-build: deps ## whether what `build`, `demo` and `bench` select builds by itself
	cargo check --locked $(PACKAGES)
	cargo check --locked -p stasis-tests --bins

.PHONY: demo
demo: build ## a web server and Redis, checkpointed and restored before your eyes
	cargo build --release --locked -p stasis-tests --bins
	@$(SUDO) .ci/alone $(RELEASE)/stasis-demo $(DEMO_ARGS)

.PHONY: test
test: deps ## all tests: units, and real programs checkpointed and restored
	cargo build --locked --workspace --bins
	@[ -n "$(CRIU_WORKS)" ] || echo "note: no working criu on PATH or in \$$CRIU: tests against CRIU as a peer are left out (its images in tests/data are still read)"
	@.ci/alone cargo nextest run --locked --workspace $(WITHOUT_CRIU) $(NEXTEST_ARGS)

# What needs large packages is marked as ignored.
.PHONY: test-all
test-all: export STASIS_JUPYTER := $(abspath $(or $(CARGO_TARGET_DIR),target)/jupyter)
test-all: export STASIS_SCHEMATHESIS := $(abspath $(or $(CARGO_TARGET_DIR),target)/schemathesis)
test-all: ## all tests, those too that need large packages (MariaDB, Java, Chromium ...), which it installs
	@.ci/deps all
	@$(MAKE) --no-print-directory test NEXTEST_ARGS="$(NEXTEST_ARGS) --run-ignored all"

.PHONY: docs-state
docs-state: deps ## docs/state.md from docs/state.tsv
	UPDATE_DOCS=1 cargo nextest run --locked -p stasis-tests the_page_is_made_from_the_table

.PHONY: docs-openapi
docs-openapi: ## docs/openapi.json from the gateway's handlers and types
	UPDATE_DOCS=1 cargo nextest run --locked -p stasis-gateway the_description_of_the_api

.PHONY: bench
bench: build ## frozen time, dump and restore times, beside CRIU where it is
	cargo build --release --locked -p stasis-tests --bins
	$(SUDO) .ci/alone $(RELEASE)/stasis-bench $(BENCH_ARGS)

.PHONY: faults
faults: build ## dumpers, collectors and freezers killed at 1,000 random instants each (FAULTS_ARGS=--help)
	cargo build --release --locked -p stasis-tests --bins
	$(SUDO) .ci/alone $(RELEASE)/stasis-faults $(or $(FAULTS_ARGS),--kills 167)

# What is made of the programs themselves, and is no part of the tree.
.PHONY: packaging
packaging:
	@mkdir -p $(GENERATED)
	$(RELEASE)/stasis config show --template packaging/stasis.toml > $(GENERATED)/stasis.toml
	@rm -rf $(GENERATED)/share
	@$(MAKE) --no-print-directory install-manuals DESTDIR= PREFIX=$(GENERATED)

.PHONY: deb
deb: build ## a Debian package of all programs, and one of their debug symbols, in target/debian
	@.ci/deps deb
	@$(MAKE) --no-print-directory packaging
	cargo deb --locked --no-build -p stasis-cli --separate-debug-symbols --dbgsym $(DEB_ARGS)

# Of the package of this version.
.PHONY: oci
oci: ## an image of the gateway and the services, from the package, by Podman (OCI_ARGS, packaging/oci/Containerfile)
	@deb=$$(ls -t $(or $(CARGO_TARGET_DIR),target)/debian/stasis_*.deb 2>/dev/null | head -1); \
	    [ -n "$$deb" ] || { echo "there is no package: run 'make deb' first" >&2; exit 1; }; \
	    mkdir -p target/oci && cp "$$deb" target/oci/stasis.deb && cp packaging/oci/* target/oci
	$(SUDO) podman build $(OCI_ARGS) -t stasis target/oci

.PHONY: install
install: ## install programs, manual pages and completions under PREFIX (/usr/local), DESTDIR honoured; run `make build` first
	@for p in $(PROGRAMS) criu; do [ -x $(RELEASE)/$$p ] || { echo "$(RELEASE)/$$p is not there: run 'make build' first" >&2; exit 1; }; done
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(addprefix $(RELEASE)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/lib/stasis
	install -m 0755 $(RELEASE)/criu $(DESTDIR)$(PREFIX)/lib/stasis/criu
	@$(MAKE) --no-print-directory install-manuals
	@echo "container engines look for 'criu': where none is installed, ln -s ../lib/stasis/criu $(PREFIX)/bin/criu"

# Each program writes its own.
.PHONY: install-manuals
install-manuals: ## the manual pages and the completions for bash, zsh and fish alone, under PREFIX/share
	install -d $(DESTDIR)$(PREFIX)/share
	set -e; for p in $(PROGRAMS); do $(RELEASE)/$$p --write-manuals $(DESTDIR)$(PREFIX)/share; done
