#!/usr/bin/env bash
# What `make install` puts into .venv, for the environment of laptop.yaml. Snakemake runs this in the root of the repository.
# Snakemake makes the environment anew when this file changes, and does not look at the lock: hence the lock's digest.
set -euo pipefail
echo "e81964856486dec153c33530911a3f78be1ada4c295c581a7708a55ee4cd522f  envs/laptop.lock" | sha256sum --check --quiet
python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/laptop.lock
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin ./executor
