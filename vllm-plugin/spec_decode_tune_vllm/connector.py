"""The connector that writes a target's hidden states to files, vLLM's example with two changes.

The example fails on CPU because it copies by CUDA streams and events, and it writes a file for every request. This one also works on CPU,
and writes files only for requests that name one in `kv_transfer_params`. Where it changes the example it calls the example for the rest.
"""

import fcntl
import os
from functools import partial
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1 import example_hidden_states_connector as example

PATH = "hidden_states_path"
"""Key of `kv_transfer_params` with the file for a request's tokens and hidden states. `<file>.lock` is locked until it is written."""

NAME, MODULE = "HiddenStatesConnector", __name__
"""Values of `kv_connector` and `kv_connector_module_path` in vLLM's `--kv-transfer-config`."""


class _Done:
    """A CUDA event of a copy that has ended."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return


class HiddenStatesConnector(example.ExampleHiddenStatesConnector):
    """Writes `token_ids` [T] and `hidden_states` [T, layers, H] of the requests that ask for it."""

    def build_connector_meta(self, scheduler_output: Any) -> Any:
        """Name the files of new requests, but only those that a request has named itself."""
        meta = super().build_connector_meta(scheduler_output)
        for request in scheduler_output.scheduled_new_reqs:
            extra = request.sampling_params.extra_args if request.sampling_params else None
            if PATH not in ((extra or {}).get("kv_transfer_params") or {}):
                self._request_filenames.pop(request.req_id, None)
                meta.new_req_filenames.pop(request.req_id, None)
        return meta

    def _submit_async_write(self, pending: Any) -> None:
        """Read a finished request's hidden states out of the cache and write them in a thread."""
        if self._kv_cache is None or self._kv_cache.device.type != "cpu":
            super()._submit_async_write(pending)
            return
        slots = torch.tensor(pending.block_ids)[:, None] * self._block_size + torch.arange(self._block_size)
        states = example.extract_from_kv_cache(self._kv_cache, slots.flatten(), len(pending.token_ids))
        tensors = {"hidden_states": states.contiguous(), "token_ids": pending.token_ids.clone()}
        lock = self._lock_fds.pop(pending.req_id, None)
        if lock is None:
            lock = os.open(f"{pending.filename}.lock", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = _Done()
        future = self._executor.submit(self._write_tensors, tensors, done, pending.filename, lock)
        self._req_copy_events[pending.req_id] = done
        self._req_futures[pending.req_id] = future
        future.add_done_callback(partial(self._on_write_done, pending.req_id))
