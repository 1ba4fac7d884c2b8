# Coracle: build, demo, test, install. `make help` lists the targets.

PREFIX     ?= /usr/local
DESTDIR    ?=
CARGO      ?= cargo
LIBEXEC    := $(PREFIX)/libexec/coracle
HOST       := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE    := $(TARGET_DIR)/$(HOST)/release
PROGRAMS   := coracle coracle-wasmc coracle-wasi

export CORACLE_LIBEXEC := $(LIBEXEC)

.PHONY: help setup build vm-image demo test bench bench-syscalls test-faults test-vm install uninstall clean distclean
.DEFAULT_GOAL := help

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 23

setup: ## Install the Debian packages that building, the demo and the tests need
	@scripts/setup build demo test

# One cargo invocation per program: built together, their features would be united, and the runner of modules would
# contain the compiler.
build: ## Release builds of the three programs into bin/: static and stripped
	@scripts/setup build
	@mkdir -p bin
	@set -e; for program in $(PROGRAMS); do \
		echo "== cargo build --release -p $$program"; \
		$(CARGO) build --locked --release -p $$program; \
		install -m 755 "$(RELEASE)/$$program" bin/.new && mv bin/.new bin/$$program; \
	done
	@ls -l $(addprefix bin/,$(PROGRAMS))

vm-image: build ## Release build of bin/coracle-vm-image, which makes images for podman machine
	$(CARGO) build --locked --release -p coracle-vm-image
	install -m 755 "$(RELEASE)/coracle-vm-image" bin/.new && mv bin/.new bin/coracle-vm-image

demo: ## Set up, build, and show native and Wasm containers with podman
	@scripts/setup build demo
	@$(MAKE) --no-print-directory build
	@scripts/demo

test: ## Set up, build, and run all checks and tests
	@scripts/setup build demo test
	@$(MAKE) --no-print-directory build
	@TARGET_DIR="$(TARGET_DIR)" CARGO="$(CARGO)" scripts/test

bench: ## Measure times and memory beside crun and runc, and write docs/benchmarks.md (as root, on an idle machine)
	@scripts/setup build demo test bench
	@$(MAKE) --no-print-directory build
	@$(CARGO) run --locked --quiet -p coracle-bench -- $(PARTS)

bench-syscalls: ## Count the system calls of each command; UPDATE=1 records them as the budget that `make test` checks
	@scripts/setup build demo test
	@$(MAKE) --no-print-directory build
	@$(CARGO) run --locked --quiet -p coracle-bench -- syscalls $(if $(UPDATE),--update)

test-faults: ## Kill and fail every system call of create, start, exec and delete, start containers by the thousand, race longer (as root)
	@scripts/setup build demo test
	@$(MAKE) --no-print-directory build
	@CORACLE_FULL=1 CORACLE_FAULTS="$(abspath $(TARGET_DIR))/faults.md" $(CARGO) test --locked --no-fail-fast \
		-p coracle-integration --test faults --test races --test load --test load_podman --test security
	@sed -i -e '/<!-- faults -->/,/<!-- end -->/{//!d}' -e '/<!-- faults -->/r $(TARGET_DIR)/faults.md' docs/reliability.md

test-vm: ## Run the tests that need cgroup v2, systemd or podman 5 in a virtual machine, and podman machine with our images
	@vm-image/test-vm/run

install: build ## Install into DESTDIR and PREFIX (default /usr/local)
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(LIBEXEC)"
	install -m 755 bin/coracle "$(DESTDIR)$(PREFIX)/bin/coracle"
	ln -sf coracle "$(DESTDIR)$(PREFIX)/bin/coracle-wasm"
	install -m 755 bin/coracle-wasmc bin/coracle-wasi "$(DESTDIR)$(LIBEXEC)"
	install -d "$(DESTDIR)$(PREFIX)/share/bash-completion/completions" \
		"$(DESTDIR)$(PREFIX)/share/zsh/site-functions" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d"
	bin/coracle completion bash > "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/coracle"
	bin/coracle completion zsh > "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_coracle"
	bin/coracle completion fish > "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/coracle.fish"

uninstall: ## Remove what `make install` has installed
	rm -f "$(DESTDIR)$(PREFIX)/bin/coracle" "$(DESTDIR)$(PREFIX)/bin/coracle-wasm" \
		"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/coracle" \
		"$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_coracle" \
		"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/coracle.fish"
	rm -rf "$(DESTDIR)$(LIBEXEC)"

clean: ## Remove bin/
	rm -rf bin

distclean: clean ## Remove bin/ and everything that cargo has built
	$(CARGO) clean
