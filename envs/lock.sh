#!/usr/bin/env bash
# Compile both lock files; run through `make lock`, which provides uv.
set -euo pipefail
cd "$(dirname "$0")"
flags=(--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet --overrides overrides.txt)
uv pip compile "${flags[@]}" requirements.in -o requirements.txt
uv pip compile "${flags[@]}" -c requirements.txt requirements-test.in -o requirements-test.txt
uv pip compile "${flags[@]}" bootstrap.in -o bootstrap.txt
