#!/usr/bin/env bash
# What `make install` puts into .venv, for the environment of laptop.yaml. Snakemake runs this in the root of the repository.
# Snakemake makes the environment anew when this file changes, and does not look at the lock: hence the lock's digest.
set -euo pipefail
echo "0b959daa412a3006beb672b3290c13e0818295d08f88eb2eb6dbc888329fd166  envs/laptop.lock" | sha256sum --check --quiet
python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/laptop.lock
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin ./executor
