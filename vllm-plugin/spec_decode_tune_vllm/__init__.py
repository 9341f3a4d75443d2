"""What spec-decode-tune adds to vLLM, in every process of a server it starts and in no other.

vLLM loads a `vllm.general_plugins` entry point in the API server, the engine core and every worker. Without `SPEC_DECODE_TUNE=1`
in the environment nothing happens, so an installed plugin leaves anybody else's vLLM as it is.
"""

import os

SWITCH = "SPEC_DECODE_TUNE"


def register() -> None:
    """On CPU, repair the kernels that fail their check. vLLM calls this before it builds a worker."""
    if os.environ.get(SWITCH) != "1":
        return
    from vllm.platforms import current_platform

    from spec_decode_tune_vllm import repairs

    if current_platform.is_cpu():
        repairs.repair_cpu_kernels()
    repairs.checked = True
