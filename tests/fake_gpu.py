"""A GPU that is not there: the engine runs on fake tensors, which know dtypes, devices and shapes, and no numbers.

Operations between tensors of unlike dtype or device fail as they would on a GPU. Whatever would make the host wait
for the device raises `HostWaits`.
"""

import ctypes
import weakref
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoConfig, AutoModelForCausalLM

from harness.engine.local import passes, transfer
from harness.engine.local.collector import Collector
from harness.engine.local.layers.modules import Parts, find_parts
from harness.engine.local.scorer import Scorer
from tests.models import RANDOM_MODELS, random_model

aten = torch.ops.aten
GPU = torch.device("cuda:0")
ASKING = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
}
"""The size of a result, or what the host does next, depends on numbers that the device has."""

COPYING = {aten._to_copy, aten.copy_}
INDEXING = {aten.index, aten.index_put_}


class HostWaits(AssertionError):
    """The host would wait for the device."""


@cache
def _is_composite(function):
    key = "CompositeImplicitAutograd"
    return function.namespace == "aten" and torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key)


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _is_composite(function):
            with self:  # in inference mode operations arrive before they are taken apart
                return function.decompose(*args, **kwargs)
        packet = function.overloadpacket
        if packet not in ASKING | COPYING | INDEXING:
            return function(*args, **kwargs)
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cuda" for x in tensors):
            by_mask = packet in INDEXING and any(x.dtype == torch.bool for x in tensors[1:])
            if packet in ASKING or by_mask:
                raise HostWaits(str(function))
        if packet in COPYING:
            target = args[0].device if packet is aten.copy_ else torch.device(kwargs.get("device") or args[0].device)
            source = args[1].device if packet is aten.copy_ else args[0].device
            blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            # A number becomes an argument of the kernel; only arrays are copied.
            if blocking and {target.type, source.type} == {"cuda", "cpu"} and tensors[-1].dim():
                raise HostWaits(f"{function} from {source} to {target}")
        return function(*args, **kwargs)


def _guard_nothing():
    """Let torch switch to GPUs that are not there: without a guard of CUDA's, one that does nothing serves."""
    torch._C._ensureCUDADeviceGuardSet()
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14
    if not guards[cuda]:
        guards[cuda] = guards[meta]


class Memory(TorchDispatchMode):
    """Bytes of the tensors on the GPU that are alive, and the most there were.

    Args:
        tensors: that are there already.
    """

    def __init__(self, tensors):
        super().__init__()
        self.seen = WeakIdKeyDictionary()
        self.now = self.most = 0
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor):
        storage = tensor.untyped_storage()
        if tensor.device.type == "cuda" and storage not in self.seen:
            self.seen[storage] = size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, size)

    def drop(self, size):
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result


@contextmanager
def pretended_gpu(monkeypatch):
    """Make tensors on `GPU` and its neighbours, and raise at every wait."""
    monkeypatch.setattr(fake_tensor, "init_gpu_context", lambda device: None)
    monkeypatch.setattr(transfer, "_pinned", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
    _guard_nothing()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode(), _Watch():
        yield


def fake_model(kind, dtype, **settings):
    """A model of `random_model`'s shape that only pretends to lie on the GPU."""
    config = AutoConfig.for_model(kind, **{**RANDOM_MODELS[kind], **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)
                    is_weight = store is module._parameters
                    store[name] = torch.nn.Parameter(there, requires_grad=False) if is_weight else there
    return model


def found_parts(kind, **settings):
    """Names of what `find_parts` finds in a real model of this shape: it looks at numbers, which fakes lack."""
    model = random_model(kind, **settings)
    names = {module: name for name, module in model.named_modules()}
    parts = find_parts(model)
    return {names[m]: n for m, n in parts.by_token.items()}, [names[m] for m in parts.after_attention]


def fake_scorer(monkeypatch, model, parts, tokens_per_pack, kernel):
    """A scorer whose results stay on the device: `finish` is the one place that may wait."""
    by_token, after = parts
    modules = dict(model.named_modules())
    found = Parts({modules[name]: n for name, n in by_token.items()}, [modules[name] for name in after])
    monkeypatch.setattr(passes, "find_parts", lambda model: found)
    monkeypatch.setattr(passes, "logits_are_plain", lambda model, head: True)
    monkeypatch.setattr(Collector, "finish", lambda self: None)
    return Scorer(model, tokens_per_pack, True, kernel)


def split_over_two_gpus(model, layers, last_modules):
    """Move the second half of the layers, and what follows them, to a second GPU, as accelerate does."""
    second = torch.device("cuda:1")

    def bring(module, args, kwargs):
        return torch.utils._pytree.tree_map(
            lambda x: x.to(second) if isinstance(x, torch.Tensor) else x, (args, kwargs)
        )

    for module in [*layers[len(layers) // 2 :], *last_modules]:
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = torch.nn.Parameter(weight.to(second), requires_grad=False)
        module.register_forward_pre_hook(bring, with_kwargs=True)
