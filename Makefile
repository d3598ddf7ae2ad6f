# make          build ./waxseal
# make test     everything: formatting, vet, linters, all tests with the race
#               detector, against a real Postfix and Sendmail. As root on
#               Debian it installs what is missing first; elsewhere it runs
#               what can run, and names what it skipped and why.
# make bench    the benchmarks
# make bench-peers  waxseal beside other milters (contrib/bench/README.md)
# make deb      a package for Debian and its kin, here; make rpm one for Red Hat's
# make install  the binary, below $(DESTDIR)$(PREFIX)

PREFIX ?= /usr/local
DESTDIR ?=
GO ?= go
export CGO_ENABLED ?= 0

all: waxseal

# Go's own build cache decides what is out of date.
.PHONY: all waxseal test bench bench-peers deb rpm install clean
waxseal:
	$(GO) build -trimpath -o waxseal ./cmd/waxseal

test:
	./.ci/prepare
	./.ci/test

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./signer/... ./milter/... ./keystore/...

bench-peers:
	$(GO) run ./contrib/bench

deb rpm:
	./contrib/packages/build . $@

install: waxseal
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 0755 waxseal "$(DESTDIR)$(PREFIX)/bin/waxseal"

clean:
	rm -f waxseal waxseal_*.deb waxseal-*.rpm
