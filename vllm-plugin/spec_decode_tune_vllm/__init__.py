"""The vLLM plugin of spec-decode-tune. It works only in the processes of servers that spec-decode-tune starts.

vLLM loads a `vllm.general_plugins` entry point in the API server, the engine core and every worker. Without `SPEC_DECODE_TUNE=1`
in the environment the plugin does nothing, so other vLLM servers are unaffected.
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
