"""The controlled environment of a vLLM process: its variables and its folder for temporary files."""

import os
import re
import tempfile
from collections.abc import Mapping

from lib.serving.engine import EngineSettings

PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|PWD"  # the user
    r"|LD_LIBRARY_PATH|LD_PRELOAD|PYTHONPATH|PYTHONHASHSEED|VIRTUAL_ENV|CONDA_PREFIX|CC|CXX|CPATH|LIBRARY_PATH"  # programs and libraries
    r"|(CUDA|NVIDIA|NV|HIP|ROCR|ROCM|HSA|GPU|ONEAPI|ZE)_\w+"  # devices and their drivers
    r"|(NCCL|RCCL|NVSHMEM|UCX|GLOO|FI|OFI|IBV|RDMAV|MLX5)_\w+"  # network between devices
    r"|(OMP|KMP|GOMP|MKL|OPENBLAS|MALLOC)_\w+|PYTORCH_\w*ALLOC_CONF|TORCH_CUDA_ARCH_LIST"  # threads and memory
    r"|HF_HOME|HF_HUB_CACHE|HF_MODULES_CACHE|XDG_CACHE_HOME|TORCH_HOME|(TORCHINDUCTOR|TRITON)_CACHE_DIR|TRITON_HOME"  # caches
    r"|FLASHINFER_(CUBIN_DIR|WORKSPACE_BASE)"
)
"""Names of the variables that a vLLM process inherits. They describe the machine. All others are removed, such as proxies, keys,
`VLLM_PORT` of Kubernetes or a forgotten `VLLM_*`. Variables that change the engine belong in `serving.environment`, which is filed with
the numbers."""

LONGEST = 60
"""Longest path of a folder for temporary files. vLLM's sockets are in it, and the path of a socket has at most 107 characters."""


def inherited(around: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that a vLLM process inherits, without those of Kubernetes Services."""
    return {name: value for name, value in around.items() if PASSED.fullmatch(name) and not value.startswith(("tcp://", "udp://"))}


def environment(settings: EngineSettings) -> dict[str, str]:
    """Return the whole environment of a server."""
    from spec_decode_tune_vllm import SWITCH

    threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
    return {
        **inherited(os.environ),
        # Read on CPU only. Parallel servers would all bind to the same first cores. With the default "1" the worker of a single rank is a
        # third process, which imports everything again.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if settings.data_parallel_size == 1 else "1",
        **threads,
        **settings.environment,
        SWITCH: "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # /collective_rpc and /reset_prefix_cache
        "PYTHONSAFEPATH": "1",  # otherwise `-m` imports from the working directory
    }


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a new private folder for the temporary files of a server, with a short path."""
    place = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(prefix="vllm-", dir=place if len(place) <= LONGEST else "/tmp")
