#!/usr/bin/env bash
# Resolve requirements/*.txt from pyproject.toml: hashes, no index URL, so that any mirror serves them.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { .venv/bin/uv pip compile -q --no-header --no-emit-index-url --generate-hashes --python-version 3.11 --no-annotate "$@"; }
compile requirements/bootstrap.in -o requirements/bootstrap.txt
compile pyproject.toml --extra operator --extra router --extra worker --extra cli --extra simulator --extra tracing --group lint --group test --group clients -o requirements/dev.txt
compile pyproject.toml --extra worker-cpu --override requirements/worker-cpu.overrides.txt -o requirements/worker-cpu.txt
for plane in operator worker; do
    compile pyproject.toml --extra "$plane" -o "requirements/$plane.txt"
done
compile pyproject.toml --extra router --extra tracing -o requirements/router.txt
