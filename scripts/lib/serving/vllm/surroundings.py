"""What a vLLM process finds around it: environment variables and a folder for temporary files, none of them left to chance."""

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
"""Names of the variables that a vLLM process inherits: those that say what the machine is. No other one reaches it, a proxy, a key, a
`VLLM_PORT` of Kubernetes or a forgotten `VLLM_*` included. What changes how the engine works is set in `serving.environment`, and so is
filed with the numbers."""

LONGEST = 60
"""Characters of a path for temporary files above which another is taken: vLLM's sockets lie there, and the path of one holds 107."""


def inherited(around: Mapping[str, str]) -> dict[str, str]:
    """Return those variables of an environment that a vLLM process inherits; none that points to a Kubernetes Service."""
    return {name: value for name, value in around.items() if PASSED.fullmatch(name) and not value.startswith(("tcp://", "udp://"))}


def environment(settings: EngineSettings) -> dict[str, str]:
    """Return the whole environment of a server."""
    from spec_decode_tune_vllm import SWITCH

    threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
    return {
        **inherited(os.environ),
        # Read on CPU only. Servers side by side would all bind themselves to the same first cores; and with the default "1" the worker of
        # a single rank is a third process, which imports everything once more.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        **threads,
        **settings.environment,
        SWITCH: "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # /collective_rpc and /reset_prefix_cache
        "PYTHONSAFEPATH": "1",  # `-m` would import from the working directory
    }


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a new private folder for the temporary files of a server, with a short path."""
    place = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(prefix="vllm-", dir=place if len(place) <= LONGEST else "/tmp")
