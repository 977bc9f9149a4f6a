# Everything here works on a bare machine with make and Python >= 3.11.5; no compiler is needed.
# Long output goes to reports/, a summary to the screen.

SHELL := /bin/sh
PY := .venv/bin/python
REPORTS := reports
PYTEST := $(PY) -m pytest --no-header
export PYTHON

# $(call quietly,NAME,COMMAND): one line if it succeeds, all it said if it fails
define quietly
@mkdir -p $(REPORTS); if $(2) >$(REPORTS)/$(1).log 2>&1; then echo "ok      $(1)"; \
else cat $(REPORTS)/$(1).log; echo "FAILED  $(1): $(2)"; exit 1; fi
endef

.PHONY: help install check unit test-unit test test-compiled compiled coverage demo bench bar bench-quick profile format clean

help: ## this list
	@echo "dbproxy - make targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@echo
	@echo "  make demo ONCE=1           end after the tour; exit 0 only if every step did what it says"
	@echo "  make demo MYSQL=1          the tour on MariaDB, whose programs must be on this machine"
	@echo "  make test ENGINES=postgres the database engines that must be there (default: all)"
	@echo "  make test ALLOW_MISSING=1  skip the tests whose programs are missing, instead of failing"
	@echo "  make bench ARGS=--quick    options of the measurement: ARGS=--help"
	@echo "  make ... PYTHON=/path      another Python for the virtual environment"

install: ## make .venv with everything that developing and testing needs
	@.ci/venv demo,test,dev

check: install ## static gates: format, lint, types, layers
	$(call quietly,format,$(PY) -m ruff format --check .)
	$(call quietly,lint,$(PY) -m ruff check .)
	$(call quietly,types,$(PY) -m mypy)
	$(call quietly,layers,.venv/bin/lint-imports)

unit: install ## tests that need no server, under 10 seconds; it says how long they took
	@$(PYTEST) -m "not integration and not bench and not slow"

test-unit: unit

test: check ## every gate and every test, on real servers
	@mkdir -p $(REPORTS)
	@PYTHONPATH=tests $(PY) -m support.requirements
	@$(PYTEST) -m "not bench" --junitxml=$(REPORTS)/junit.xml

coverage: install ## every test with branch coverage; HTML in reports/coverage
	@PYTHONPATH=tests $(PY) -m support.requirements
	@$(PYTEST) -m "not bench" --cov --cov-report=term --cov-report=html:$(REPORTS)/coverage

demo: ## the tour on an embedded PostgreSQL (ONCE=1: then end)
	@.ci/venv demo
	@$(PY) -m dbproxy demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(filter-out 0,$(MYSQL)),--mysql)

bench: compiled ## direct, HAProxy, PgBouncer and dbproxy, interleaved, and sysbench on MariaDB; about 30 minutes
	@PYTHONPATH=tests $(PY) -m support.requirements --bench
	@PYTHONPATH=tests $(PY) -m bench.run --json $(REPORTS)/bench.json $(ARGS)
	@PYTHONPATH=tests $(PY) -m bench.mysql --json $(REPORTS)/bench-mysql.json

bench-quick: compiled ## the same, a first impression in about 5 minutes
	@PYTHONPATH=tests $(PY) -m support.requirements --bench
	@PYTHONPATH=tests $(PY) -m bench.run --quick --json $(REPORTS)/bench-quick.json $(ARGS)
	@PYTHONPATH=tests $(PY) -m bench.mysql --quick --json $(REPORTS)/bench-quick-mysql.json

bench-classifier: install ## what the classifier costs: cache hit, miss, start-up, memory, hostile statements; about 2 minutes
	@PYTHONPATH=tests:. $(PY) -m bench.classifier_costs --json $(REPORTS)/bench-classifier.json $(ARGS)

profile: install ## where dbproxy spends the CPU time of one query
	@PYTHONPATH=tests $(PY) -m bench.profile $(ARGS)

suite-asyncpg: install ## asyncpg's own tests, direct and proxied, compared (CHECKOUT=folder, at a release tag)
	@PYTHONPATH=tests:. $(PY) -m suites.asyncpg_suite "$(CHECKOUT)" $(OPTIONS)

suite-postgres-sql: install ## PostgreSQL's regression statements, classifier and grammar compared (CHECKOUT=src/test/regress/sql)
	@PYTHONPATH=tests:. $(PY) -m suites.postgres_regress "$(CHECKOUT)" $(OPTIONS)

suite-mariadb-sql: install ## the SQL of MariaDB's tests, classifier and a real server compared (CHECKOUT=mysql-test/main)
	@PYTHONPATH=tests:. $(PY) -m suites.mariadb_tests "$(CHECKOUT)" $(OPTIONS)

bar: install ## the security bar's tests with their full figures, hours; reports/bar.json (TESTS="-k bar_d": only some)
	@PYTHONPATH=tests $(PY) -m support.requirements
	@BAR=full FUZZ_FRAMES=100000 $(PYTEST) tests/integration tests/protocol/postgres -k "bar_ or fuzz" --timeout=7200 \
		--basetemp=$${TMPDIR:-/tmp}/dbproxy-bar --junitxml=$(REPORTS)/bar.xml $(TESTS)

fuzz-classifier: install ## 200,000 random texts, the classifier and PostgreSQL's grammar compared; about 20 minutes; reports/bar.json
	@BAR=full $(PYTEST) tests/classifiers/test_fuzz_postgres.py --timeout=7200

compiled: install ## the hot path compiled with mypyc, in build/compiled; needs a C compiler and Python's headers
	@rm -rf build && mkdir -p build/src build/compiled
	@cp -R dbproxy protocol classifiers config pyproject.toml README.md LICENSE build/src/
	$(call quietly,compile,(cd build/src && HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(CURDIR)/$(PY) -m hatchling build -t wheel -d ../wheel))
	@$(PY) -m zipfile -e build/wheel/*.whl build/compiled && rm -rf build/wheel build/src
	@echo "run it with: cd build/compiled && $(CURDIR)/$(PY) -m dbproxy serve ..."

test-compiled: compiled ## the tests with real servers and of the protocols, on the compiled build
	@PYTHONPATH=tests $(PY) -m support.requirements
	@DBPROXY_TREE=$(CURDIR)/build/compiled .venv/bin/pytest --no-header -o "pythonpath=build/compiled tests" -m "not bench" \
		tests/protocol tests/integration $(TESTS)

format: install ## format and fix what can be fixed
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

clean: ## remove everything that make made
	@rm -rf .venv .make $(REPORTS) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
	@find dbproxy protocol classifiers config tests -name __pycache__ -prune -exec rm -rf {} +
