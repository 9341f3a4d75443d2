"""Print a description of target.path and features.dataset for `manifest`. Run by hand where they are mounted."""

import argparse
from pathlib import Path
from typing import Any

from lib.config import parse_config
from lib.controller import refuse
from lib.features.description import describe
from lib.reading import read_yaml


def read_values(files: list[Path]) -> dict[str, Any]:
    """Return the merged keys of configuration files. Later files override. Raises UserError for a file that cannot be read."""
    values: dict[str, Any] = {}
    for file in files:
        values = _merged(values, read_yaml(file, str(file), "name a YAML file of keys"))
    return values


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `values` updated with `changes` section by section, as Snakemake merges configuration files."""
    both = {key for key, value in changes.items() if isinstance(value, dict) and isinstance(values.get(key), dict)}
    return values | changes | {key: _merged(values[key], changes[key]) for key in both}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="+", type=Path, default=[Path("config/config.yaml")], help="configuration, as for snakemake")
    arguments = parser.parse_args()
    with refuse():
        print(describe(parse_config(read_values(arguments.configfile))).model_dump_json(indent=2))
