"""How Snakemake was started, which Snakemake does not pass to the workflow, and commands derived from it."""

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
"""Environment variables with the profiles of this run and their configuration files for local jobs, as words of the shell."""


def read_arguments() -> Namespace:
    """Return the arguments of this Snakemake process, including those of its profiles."""
    from snakemake.cli import parse_args  # jobs import this module too and do not need it

    with redirect_stderr(StringIO()):  # the profiles were already reported
        arguments: Namespace = parse_args(None)[1]
    return arguments


def executor_settings(arguments: Namespace) -> Any:
    """Return the settings of the executor before Snakemake has created it."""
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    return ExecutorPluginRegistry().get_plugin(arguments.executor).get_settings(arguments)


def tell_local_jobs(arguments: Namespace) -> None:
    """Pass to local jobs the values that `command` and `configfiles` return."""
    told = _told()
    by_profile = arguments.configfile if told.profile and not told.configfile else []
    os.environ |= {PROFILES: shlex.join(told.profile), CONFIGFILES: shlex.join(map(str, by_profile or []))}


def command(words: Iterable[str]) -> str:
    """Return the command of another run with the same profiles and with `words` for `--config`."""
    return _command(shlex.split(os.environ.get(PROFILES, "")), [], words)


def configfiles() -> list[str]:
    """Return the configuration files named by the profiles of `command`, without the default one."""
    return shlex.split(os.environ.get(CONFIGFILES, ""))


def again(words: Iterable[str]) -> str:
    """Return the command that resumes this run, with more words for `--config`.

    It repeats profiles and configuration, but no other options, because those may hold keys.
    """
    told = _told()
    return _command(told.profile, told.configfile, [*told.config, *words])


def _told() -> Namespace:
    """Return the arguments on the command line itself."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (["--profile"], ["--configfile", "--configfiles"], ["--config", "-C"]):
        parser.add_argument(*names, nargs="*", default=[])
    return parser.parse_known_args(sys.argv[1:])[0]


def _command(profiles: list[str], files: list[str], words: Iterable[str]) -> str:
    options = {"--profile": profiles, "--configfile": files, "--config": list(words)}
    return shlex.join([SNAKEMAKE, *(word for name, values in options.items() if values for word in (name, *values))])
