#!/usr/bin/env bash
# What `make install` puts into .venv, for the environment of laptop.yaml. Snakemake runs this in the root of the repository.
# Snakemake makes the environment anew when this file changes, and does not look at the lock: hence the lock's digest.
set -euo pipefail
echo "d5f7387ccf8606d1f3b6c60f2abd646ef2cf5ecf08f5fc802abf932c2b2c2f95  envs/laptop.lock" | sha256sum --check --quiet
python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/laptop.lock
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin
