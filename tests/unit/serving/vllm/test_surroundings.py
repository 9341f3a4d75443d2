"""The environment of the server and the load driver does not depend on the environment of the run."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from lib.serving.engine import EngineSettings
from lib.serving.vllm import driver
from lib.serving.vllm.surroundings import environment, scratch

POISON = {
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "VLLM_API_KEY": "of another",
    "OPENAI_API_KEY": "of another",
    "VLLM_PORT": "tcp://10.0.0.1:80",
    "VLLM_SERVICE_HOST": "10.0.0.1",
    "VLLM_PLUGINS": "none",
    "VLLM_LOGGING_CONFIG_PATH": "/nowhere",
    "VLLM_RPC_BASE_PATH": "/" + "r" * 118,
    "NCCL_PORT": "tcp://10.0.0.1:80",
    "HF_TOKEN": "hf_secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "PYTHONSTARTUP": "/nowhere",
}
"""Variables of an environment that have nothing to do with a server of ours; each of the first has kept one from working."""

KEPT = {
    "CUDA_VISIBLE_DEVICES": "2,3",
    "NCCL_SOCKET_IFNAME": "eth0",
    "HF_HOME": "/caches/hf",
    "LD_LIBRARY_PATH": "/lib",
    "LC_ALL": "C.UTF-8",
}
SETTINGS = EngineSettings("float32", max_model_len=64, max_num_seqs=8, threads=2)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**POISON, **KEPT}.items():
        monkeypatch.setenv(name, value)


def test_a_server_inherits_what_says_what_the_machine_is_and_nothing_else() -> None:
    found = environment(SETTINGS)
    assert not [name for name, value in POISON.items() if found.get(name) == value]
    assert {name: found.get(name) for name in KEPT} == KEPT
    assert found["PATH"] == os.environ["PATH"] and found["OMP_NUM_THREADS"] == "2"
    assert all(value != "of another" for value in found.values())


def test_what_the_configuration_sets_is_added_but_replaces_nothing_of_ours() -> None:
    found = environment(replace(SETTINGS, environment={"VLLM_USE_DEEP_GEMM": "0", "VLLM_SERVER_DEV_MODE": "0"}))
    assert (found["VLLM_USE_DEEP_GEMM"], found["VLLM_SERVER_DEV_MODE"]) == ("0", "1")


@pytest.mark.parametrize("length", [20, 118])
def test_temporary_files_lie_where_a_socket_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    place = tmp_path / ("t" * length)
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with scratch() as folder:
        assert len(folder) + len("/ipc-") + 36 < 107 and Path(folder).stat().st_mode & 0o077 == 0
        assert Path(folder).is_relative_to(place) == (len(str(place)) <= 60)


def test_the_driver_finds_the_same_and_leaves_the_process_as_it_was() -> None:
    before = dict(os.environ)
    with driver._environment({driver.KEY: "of this server"}):
        assert not [name for name, value in POISON.items() if os.environ.get(name) == value]
        assert (os.environ[driver.KEY], os.environ["NETRC"]) == ("of this server", os.devnull)
    assert dict(os.environ) == before
