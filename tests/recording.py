"""What a CUDA graph does, on a CPU: operations are recorded with their tensors, and done again on the same tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result


def _tensors(tree):
    return [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


def recorded(call, state):
    """Record a call as a CUDA graph would: nothing happens yet, and numbers that the host knew then stay as they were.

    Args:
        call: to record.
        state: tensors that the call changes; they are put back.
    """
    before = [x.clone() for x in state]
    with _Recorder() as recorder:
        call()
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)

    def replay():
        with torch.inference_mode():
            for function, args, kwargs, result in recorder.operations:
                sources = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
                found = _tensors(result)
                views = all(x.untyped_storage().data_ptr() in sources for x in found)
                if views and not function._schema.is_mutable:
                    continue
                for old, new in zip(found, _tensors(function(*args, **kwargs)), strict=True):
                    if old is not new:
                        old.copy_(new)

    return replay
