# fanfp needs no build: fanfp.py and fan_fp.bpf.o are what is installed.  See README.md.

PYTHON ?= python3
PREFIX ?= /usr/local
DEBUG ?=
CMD ?=
CLANG ?= clang-19
STRIP ?= llvm-strip-19

# Every test: on this host, in the lab's machine with each of its kernels, the benchmark's harness.
# Ends with one line, 'N passed, N failed, N skipped'.
test:
	@$(PYTHON) lab/testall --python $(PYTHON)

# Only on this host.
check:
	@$(PYTHON) test_fanfp.py

# On this host, with every Python from 3.6 up that is found.
check-pythons:
	@$(PYTHON) lab/testall --pythons

# Only in the lab's machine; DEBUG=1 for a kernel with KASAN and lockdep.
vmtest:
	@lab/vmtest $(if $(DEBUG),--debug)

# The same on every kernel that the lab has, from 5.10 to the newest.
vmtest-all:
	@lab/vmtest --all

# A shell in the lab's machine, or one command: make vm CMD='uname -a'.
vm:
	@lab/vm $(if $(CMD),'$(CMD)')

bench:
	@$(PYTHON) bench/bench.py

# The long tests: random programs of file operations against a model, with each filter that works
# here, and then an hour of all filters at once in the lab's machine.
soak:
	@$(PYTHON) lab/differential.py --operations 100000
	@lab/vm --memory 3G --limit 6000 'python3 lab/soak.py --make'

# Damaged events and objects: the kept ones, then new ones.  By coverage: see lab/fuzz.py.
SEED ?= 1
fuzz:
	@$(PYTHON) lab/fuzz.py --seed $(SEED)

# The places where people run it, set up for real: a row of a table for each.
places:
	@$(PYTHON) lab/places.py

# The object is committed, and the same to the byte wherever it is built.
fan_fp.bpf.o: bpf/fan_fp.bpf.c bpf/trace.h
	$(CLANG) -g -O2 -Wall -Werror -target bpf -mcpu=v3 -fdebug-compilation-dir=. \
		$(patsubst %,-I%,$(wildcard /usr/include/*-linux-gnu)) -c $< -o $@
	$(STRIP) -g -R .rel.BTF -R .rel.BTF.ext $@

# Python compiles a script whenever it starts, but a module once: what is installed starts sooner.
LIB = $(PREFIX)/lib/fanfp
MAN = $(PREFIX)/share/man/man8
BASH_COMPLETIONS = $(PREFIX)/share/bash-completion/completions
ZSH_FUNCTIONS = $(PREFIX)/share/zsh/site-functions
install:
	install -d $(foreach each,$(LIB) $(PREFIX)/sbin $(MAN) $(BASH_COMPLETIONS) $(ZSH_FUNCTIONS), \
		$(DESTDIR)$(each))
	install -m 644 fanfp.py fan_fp.bpf.o $(DESTDIR)$(LIB)
	umask 022; $(PYTHON) -m compileall -q -d $(LIB) $(DESTDIR)$(LIB)
	printf '%s\n' '#!/usr/bin/env python3' 'import sys' 'sys.path.insert(0, "$(LIB)")' \
		'import fanfp' 'sys.exit(fanfp.main())' > $(DESTDIR)$(PREFIX)/sbin/fanfp
	chmod 755 $(DESTDIR)$(PREFIX)/sbin/fanfp
	install -m 644 doc/fanfp.8 $(DESTDIR)$(MAN)
	install -m 644 doc/completions/fanfp.bash $(DESTDIR)$(BASH_COMPLETIONS)/fanfp
	install -m 644 doc/completions/_fanfp $(DESTDIR)$(ZSH_FUNCTIONS)

uninstall:
	rm -rf $(DESTDIR)$(LIB)
	rm -f $(DESTDIR)$(PREFIX)/sbin/fanfp $(DESTDIR)$(MAN)/fanfp.8 \
		$(DESTDIR)$(BASH_COMPLETIONS)/fanfp $(DESTDIR)$(ZSH_FUNCTIONS)/_fanfp

lint:
	$(PYTHON) -m ruff check fanfp.py test_fanfp.py lab bench
	mandoc -T lint -W warning doc/fanfp.8
	shellcheck .ci/run doc/completions/fanfp.bash doc/examples/busybox/fanfp \
		doc/examples/initramfs-tools/fanfp doc/examples/dracut/95fanfp/module-setup.sh

.PHONY: test check check-pythons vmtest vmtest-all vm bench soak fuzz places install uninstall lint
