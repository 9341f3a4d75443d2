#!/usr/bin/env bash
# What `make install` puts into .venv, for the environment of laptop.yaml. Snakemake runs this in the root of the repository.
# Snakemake makes the environment anew when this file changes, and does not look at the lock: hence the lock's digest.
set -euo pipefail
echo "6e6fbedfac272562b292087ad1b9c710fe0fd7b73fdbdcb9275d9313ebe42338  envs/laptop.lock" | sha256sum --check --quiet
python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/laptop.lock
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin ./executor
