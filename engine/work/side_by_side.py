"""Parts of a micro-batch computed at once, each on a core of its own.

The matrix products of a small model are too small for several cores: they wait for each other at every operation. A
part of the rows on each core has nobody to wait for until its gradients are there. For the CPU, and for losses that
are a sum over rows; it knows no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from engine.catalog.memory import TRAINED_IN_PARTS
from engine.work.encode import Encoded

CHANGES_WITH_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary embeddings whose modules remember the longest sequence so far, which is the other part's as well."""


def share_out(examples: Sequence[Encoded], parts: int) -> list[list[Encoded]]:
    """Deal examples out so that all parts have about as many tokens: the longest first, each to the shortest part.

    Returns:
        At most ``parts`` lists, none of them empty, each in the order given.
    """
    totals, chosen = [0] * parts, [[] for _ in range(parts)]
    by_length = sorted(range(len(examples)), key=lambda index: -len(examples[index].input_ids))
    for index in by_length:
        shortest = totals.index(min(totals))
        totals[shortest] += len(examples[index].input_ids)
        chosen[shortest].append(index)
    return [[examples[index] for index in sorted(part)] for part in chosen if part]


def fits_side_by_side(model: Any) -> bool:
    """Whether parts can be computed at once: nothing is random, remembered or large in what they share.

    Every part has gradients of its own until they are added, so what is trained must be an adapter, and a small one.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type")] + [each.get("rope_type") for each in rope.values() if isinstance(each, dict)]
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return (
        hasattr(model, "peft_config")
        and not any(kind in CHANGES_WITH_LENGTH for kind in kinds)
        and trained <= TRAINED_IN_PARTS * sum(each.numel() for each in model.parameters())
        and all(each.is_floating_point() and each.device.type == "cpu" for each in model.parameters())
        and not any(each._post_accumulate_grad_hooks for each in model.parameters())  # these want to see a ``.grad``
    )


class SideBySide:
    """As many threads as there are cores, each of which computes on one core alone."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._threads = ThreadPoolExecutor(cores, thread_name_prefix="part")
        everyone = Barrier(cores)

        def on_one_core() -> None:
            everyone.wait()  # until every thread is there, so that none of them does this twice
            torch.set_num_threads(1)
            torch.get_num_threads()  # what is set is taken up when a thread first asks

        own = torch.get_num_threads()
        for begun in [self._threads.submit(on_one_core) for _ in range(cores)]:
            begun.result()
        torch.set_num_threads(own)  # a thread's setting is also the beginning of those that come after it

    def add_gradients(
        self, parameters: Sequence[torch.nn.Parameter], parts: Sequence[Any], loss_of: Callable[[Any], Tensor]
    ) -> Tensor:
        """Compute the losses of all parts at once and add their gradients to ``parameters``, always in the same order.

        Args:
            parts: at most as many as there are cores.
            loss_of: a part's share of the loss, a scalar; is called in another thread, with this one's autocast.

        Returns:
            The sum of the losses, without a graph.
        """
        dtype, is_on = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def compute(part: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.autocast("cpu", dtype, enabled=is_on):
                loss = loss_of(part)
            return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        begun = [self._threads.submit(compute, part) for part in parts]
        wait(begun)
        found = [each.result() for each in begun]
        for parameter, gradients in zip(parameters, zip(*(each for _, each in found), strict=True), strict=True):
            for gradient in gradients:
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return torch.stack([loss for loss, _ in found]).sum()
