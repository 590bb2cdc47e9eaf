"""A model of transformers whose weights stay on the disk: each is read when an operation needs it, and let go after it.

So the logits of any model take as much memory as its largest single step. Which families there are is not known here:
transformers' own modules compute, and find at the place of each weight a tensor that reads itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from engine.work.imports import without_bitsandbytes
from engine.work.shards import BLOCK, Stored, load, load_rows

OF_NUMBERS = ("mul", "add", "float", "rms_norm", "layer_norm", "addmm")
"""What norms and older linear layers do with a weight. It is read before: torch loads its groups of processes, which
takes half a second, as soon as an operation comes as far as ``__torch_dispatch__``."""


class CannotStream(Exception):
    """What the files call the weights is not what the model calls them: transformers converts them when it loads."""


class OnDisk(torch.Tensor):
    """A weight that looks like a tensor in float32 and holds no number: operations get what they ask for from its file.

    A linear layer is computed some rows of its weight at a time, and an embedding reads only the rows that it looks up.
    Anything else reads the whole tensor, for just that operation.
    """

    stored: Stored

    @staticmethod
    def __new__(cls, stored: Stored, device: str) -> OnDisk:
        made = torch.Tensor._make_wrapper_subclass(cls, stored.shape, dtype=torch.float32, device=device)
        made.stored = stored
        made._is_param = True  # what nn.Parameter says of itself: modules and peft look for parameters
        return made

    def read(self) -> torch.Tensor:
        return load(self.stored).float().to(self.device)

    def rows(self, begin: int, end: int) -> torch.Tensor:
        return load_rows(self.stored, begin, end).float().to(self.device)

    def __repr__(self, **options: Any) -> str:
        return f"OnDisk({self.stored})"

    def __deepcopy__(self, known: dict[int, Any]) -> OnDisk:
        return OnDisk(self.stored, str(self.device))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.detach:  # of every weight, where peft looks through a state_dict
            return OnDisk(args[0].stored, str(args[0].device))
        if function is F.linear and len(args) >= 2 and isinstance(args[1], cls):
            return _linear(*args, **kwargs)
        if function is F.embedding and len(args) >= 2 and isinstance(args[1], cls):
            return _embedding(*args, **kwargs)
        if function.__name__ in OF_NUMBERS:
            args, kwargs = tree_map(_read, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None) -> Any:
        args, kwargs = tree_map(_read, (args, kwargs or {}))
        return function(*args, **kwargs)


def model_on_disk(
    tensors: dict[str, Stored], config: Any, device: str = "cpu", trust_remote_code: bool = False
) -> torch.nn.Module:
    """The model that a configuration describes, in float32 and evaluation mode, with weights that read themselves.

    Raises:
        CannotStream: some weight has no tensor of its name and shape, or some tensor no weight.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    unused = set(tensors)
    for name, module, own, shape in list(_weights(model)):
        found = _name_in(tensors, name, tied, model.base_model_prefix)
        if found is None:
            raise CannotStream(f"{name} is in no file")
        if tensors[found].shape != shape:
            raise CannotStream(f"{name} {shape} is {tensors[found].shape} in its file")
        unused.discard(found)
        module._parameters[own] = OnDisk(tensors[found], device)
    for module in model.modules():
        for own, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                raise CannotStream(f"{type(module).__name__}.{own} has no value")
            module._buffers[own] = buffer if buffer is None else buffer.to(device)
    unused -= _buffers_from_files(model, tensors)
    unused -= {name for name in unused if _name_in(tensors, tied.get(name, ""), {}, "") or name in tied}
    if unused:
        raise CannotStream(f"no weight is called {', '.join(sorted(unused)[:3])}")
    return model.eval()


def with_adapters(model: torch.nn.Module, folders: list[Path]) -> torch.nn.Module:
    """The same model with adapters beside it, by plain peft; several are the sum of their updates.

    The adapters themselves are in memory.
    """
    from peft import PeftModel

    with without_bitsandbytes():
        for number, folder in enumerate(folders):
            if number:
                model.load_adapter(folder, adapter_name=f"adapter_{number}", low_cpu_mem_usage=True)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name="adapter_0", low_cpu_mem_usage=True)
    if len(folders) > 1:
        model.base_model.set_adapter([f"adapter_{number}" for number in range(len(folders))])
    return model.eval()


def _weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str, tuple[int, ...]]]:
    """Every place of a parameter: its full name, its module, its name there, and its shape."""
    for path, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{path}.{own}" if path else own, module, own, tuple(parameter.shape)


def _name_in(tensors: dict[str, Stored], name: str, tied: dict[str, str], prefix: str) -> str | None:
    """Under which name the files hold a weight: its own, that of the one it is tied to, or without the first part."""
    names = [name, tied.get(name, name)]
    names += [each.removeprefix(f"{prefix}.") for each in names]
    return next((each for each in names if each in tensors), None)


def _buffers_from_files(model: torch.nn.Module, tensors: dict[str, Stored]) -> set[str]:
    """Fill the buffers that the files hold; which tensors these are."""
    found = set()
    for path, module in model.named_modules():
        for own, buffer in module._buffers.items():
            name = f"{path}.{own}" if path else own
            if buffer is not None and name in tensors and tensors[name].shape == tuple(buffer.shape):
                module._buffers[own] = load(tensors[name]).to(buffer)
                found.add(name)
    return found


def _read(each: Any) -> Any:
    return each.read() if isinstance(each, OnDisk) else each


def _linear(x: torch.Tensor, weight: OnDisk, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weightᵀ + bias``, some outputs at a time: each is a sum of its own."""
    bias = _read(bias)
    if weight.dim() != 2:
        return F.linear(_read(x), weight.read(), bias)
    count = max(1, BLOCK // weight.shape[1])
    parts = [
        F.linear(_read(x), weight.rows(begin, end), None if bias is None else bias[begin:end])
        for begin in range(0, weight.shape[0], count)
        for end in [min(begin + count, weight.shape[0])]
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _embedding(ids: torch.Tensor, weight: OnDisk, *_: Any, **__: Any) -> torch.Tensor:
    """The rows that are looked up; what else the function knows is for training."""
    wanted, places = torch.unique(ids, return_inverse=True)
    rows = torch.cat([weight.rows(number, number + 1) for number in wanted.tolist()])
    return rows[places]
