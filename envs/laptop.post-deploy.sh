#!/usr/bin/env bash
# Installs into the environment of laptop.yaml what `make install` puts into .venv. Snakemake runs this in the root of the repository.
# Snakemake rebuilds the environment when this file changes, but does not check the lock. Therefore the lock's digest is in this file.
set -euo pipefail
echo "6e6fbedfac272562b292087ad1b9c710fe0fd7b73fdbdcb9275d9313ebe42338  envs/laptop.lock" | sha256sum --check --quiet
python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/laptop.lock
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin ./executor
