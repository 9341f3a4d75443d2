"""How Snakemake was started, which it does not tell a workflow that it reads; and the commands that follow from it."""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

SNAKEMAKE = ".venv/bin/snakemake"

PROFILES, CONFIGFILES = "SPEC_DECODE_TUNE_PROFILES", "SPEC_DECODE_TUNE_CONFIGFILES"
"""Environment variables that tell local jobs the profiles of this run, and the configuration files that these name; words of the shell."""


def read_arguments() -> Namespace:
    """Return the arguments of this Snakemake process, those of its profiles among them."""
    from snakemake.cli import parse_args  # jobs, which import this module as well, need it not

    with redirect_stderr(StringIO()):  # which profiles there are has been said
        arguments: Namespace = parse_args(None)[1]
    return arguments


def executor_settings(arguments: Namespace) -> Any:
    """Return the settings of the executor that runs jobs, before it is there."""
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    return ExecutorPluginRegistry().get_plugin(arguments.executor).get_settings(arguments)


def tell_local_jobs(arguments: Namespace) -> None:
    """Tell the jobs that run in this process' stead what `command` and `configfiles` are to return."""
    told = _told()
    by_profile = arguments.configfile if told.profile and not told.configfile else []
    os.environ |= {PROFILES: shlex.join(told.profile), CONFIGFILES: shlex.join(map(str, by_profile or []))}


def command(words: Iterable[str]) -> str:
    """Return the command of another run by the same profiles, with `words` for `--config`."""
    return _command(shlex.split(os.environ.get(PROFILES, "")), [], words)


def configfiles() -> list[str]:
    """Return the configuration files that `command` takes by its profiles, beside the one that every run takes."""
    return shlex.split(os.environ.get(CONFIGFILES, ""))


def again(words: Iterable[str]) -> str:
    """Return the command that goes on with this run, with more words for `--config`.

    It repeats profiles and configuration. Other options, among which keys might be, it does not.
    """
    told = _told()
    return _command(told.profile, told.configfile, [*told.config, *words])


def _told() -> Namespace:
    """Return what stands on the command line itself."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (["--profile"], ["--configfile", "--configfiles"], ["--config", "-C"]):
        parser.add_argument(*names, nargs="*", default=[])
    return parser.parse_known_args(sys.argv[1:])[0]


def _command(profiles: list[str], files: list[str], words: Iterable[str]) -> str:
    options = {"--profile": profiles, "--configfile": files, "--config": list(words)}
    return shlex.join([SNAKEMAKE, *(word for name, values in options.items() if values for word in (name, *values))])
