"""Will it fit? The bytes of a training at its fullest moment, from a model's shape and the lengths of its rows.

The coefficients are measured ones: ``benchmarks/preflight.py`` compares what is said here with what runs have taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal, NamedTuple

from engine.catalog.devices import Device, Precision, precision
from engine.catalog.optimizers import state_bytes
from engine.catalog.shape import ModelShape, Weight
from engine.options.jobs import TrainJob

Verdict = Literal["fits", "tight", "too_big"]
Moment = Literal["loading", "step", "update", "saving"]
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

PROCESS_BYTES = {"cpu": 640e6, "cuda": 600e6}
"""Interpreter, torch and libraries in main memory; on a GPU its context and the workspaces of cuBLAS."""
LOADING_PROCESS_BYTES = {"cpu": 550e6, "cuda": 500e6}
"""The same before the first step."""
HIDDEN_KEPT = {"lora": 7, "oft": 9, "full": 9, "freeze": 9}
"""Tensors as wide as the residual stream that a layer keeps for the backward pass, for each token. A norm that is
trained keeps its own result as well. Exact for Llama; tests/conformance/test_memory.py counts them."""
HIDDEN_KEPT_BESIDE_HALF = {"lora": 7, "oft": 21, "full": 16, "freeze": 16}
"""The same, in numbers of two bytes, where matrix products are in half precision and what is trained is not: the
residual stream of trained weights is in float32, and each product has an input of its own."""
KEY_VALUE_KEPT = 2
INTERMEDIATE_KEPT = {"cpu": 3, "cuda": 4}
"""Gate, up, and their product; on a GPU the activated gate too (``engine.work.fused`` computes it again)."""
NUMBERS_KEPT = 2
"""Of each norm, one number for each token."""
HIDDEN_WORKING, INTERMEDIATE_WORKING = 4, 3
"""Tensors that come and go while one layer is computed forwards or backwards."""
HEAP = 1.1
"""What the allocator holds for each byte of activations that is asked for."""
LOGIT_COPIES = 3
"""Of each logit: itself, its log-softmax, which becomes its gradient in place, and the piece before; in float32."""
LOGIT_PIECE_BYTES = 48e6
"""So many logits are there at a time, where the output layer is a plain one (``engine.work.head``)."""
WHOLE_LOGIT_COPIES = 3
"""Where it is not: all logits, their log-softmax and their gradient."""
SHARED_FROM = 16
"""Tokens from which on a common beginning of rows is computed once (``engine.work.packed``)."""
TRAINED_IN_PARTS = 0.1
"""Share of a model that an adapter may have at most where each core computes a part of a micro-batch: every part has
gradients of its own until they are added (``engine.work.side_by_side``)."""
ATTENTION_COPIES = 3
"""Of each attention score, where all of them are kept (``flash_attn: disabled``)."""
UPDATE_COPIES = 2
"""Temporary tensors of the size of the weight that is being updated."""
MARGIN = 0.15
"""How far off an estimate may be; what fits with that much to spare *fits*, else it is *tight*."""


class Row(NamedTuple):
    """One row of a dataset: tokens of all its sequences, how many are learned, tokens of its longest sequence."""

    tokens: int
    learned: int
    longest: int

    def cut(self, cutoff: int) -> Row:
        """The same row where no sequence may be longer than so many tokens."""
        if self.longest <= cutoff:
            return self
        return Row(-(-self.tokens * cutoff // self.longest), -(-self.learned * cutoff // self.longest), cutoff)


@dataclass(frozen=True)
class RowLengths:
    """What is known of a dataset's rows.

    Args:
        longest: the longest rows, the longest first.
        rows, tokens: of the whole dataset.
        shared: tokens that the longest rows all begin with.
    """

    longest: tuple[Row, ...]
    rows: int
    tokens: int
    shared: int = 0

    KEPT: ClassVar[int] = 256
    """So many rows are remembered; where a micro-batch takes more, the others are taken to be as long as the last."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> RowLengths:
        ordered = sorted(rows, reverse=True)
        return cls(tuple(ordered[: cls.KEPT]), len(ordered), sum(row.tokens for row in ordered))

    def plain(self) -> dict[str, Any]:
        """Ready for JSON; ``from_plain`` reads it."""
        return {**vars(self), "longest": [list(row) for row in self.longest]}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RowLengths:
        return cls(tuple(Row(*row) for row in plain["longest"]), plain["rows"], plain["tokens"], plain.get("shared", 0))


@dataclass(frozen=True)
class MicroBatch:
    """The largest batch that is computed at once.

    Args:
        tokens: positions that are computed.
        squares: sum of the squared lengths of the sequences, for attention.
        is_assumed: no lengths were known; every row was taken to be ``cutoff_len`` tokens long and learned whole.
    """

    rows: int
    tokens: int
    learned: int
    longest: int
    squares: int
    is_assumed: bool


@dataclass(frozen=True)
class Estimate:
    """What a training needs at its fullest moment, on one device.

    Args:
        parts: name → bytes of what is there at that moment; they add up to ``peak_bytes``.
        free_bytes: what one process may use of the device; 0 where that is not known.
        is_checkpointed: activations are computed again in the backward pass.
    """

    parts: dict[str, int]
    moment: Moment
    batch: MicroBatch
    device: Device
    precision: Precision
    free_bytes: int
    processes: int
    is_checkpointed: bool
    shape: ModelShape

    @property
    def peak_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def verdict(self) -> Verdict | None:
        """None where the device does not say how much memory is free."""
        if not self.free_bytes:
            return None
        if self.peak_bytes * (1 + MARGIN) <= self.free_bytes:
            return "fits"
        return "tight" if self.peak_bytes <= self.free_bytes else "too_big"


def estimate(job: TrainJob, shape: ModelShape, device: Device, lengths: RowLengths | None = None) -> Estimate:
    """The memory of a training.

    Args:
        lengths: of the rows it learns from; None: each is taken to be ``cutoff_len`` tokens long.
    """
    if job.disable_gradient_checkpointing is None:
        needed = needs_checkpointing(job, shape, device, lengths)
        return _estimate(job, shape, device, lengths, needed)
    return _estimate(job, shape, device, lengths, not job.disable_gradient_checkpointing)


def needs_checkpointing(
    job: TrainJob, shape: ModelShape | None, device: Device, lengths: RowLengths | None = None
) -> bool:
    """Whether activations are to be computed again, because they would not fit: what ``train`` does when not told.

    False where nothing is known of the model: on time lost nothing is gained then.
    """
    if shape is None:
        return False
    return _estimate(job, shape, device, lengths, False).verdict in ("tight", "too_big")


def parts_at_once(job: TrainJob, shape: ModelShape, device: Device, is_checkpointed: bool) -> int:
    """Into how many parts a micro-batch is cut that are computed at once, each with logits and gradients of its own."""
    is_alone = device.is_cpu and job.processes_here * job.nnodes == 1 and job.flash_attn in ("auto", "sdpa")
    is_plain = job.finetuning_type in ("lora", "oft") and not job.quantization_bit and not job.lora_dropout
    is_free = job.stage in ("sft", "pt") and not job.weighs_tokens and not job.neftune_noise_alpha
    if is_checkpointed or not (is_alone and is_plain and is_free):
        return 1
    return max(1, min(device.cores, job.per_device_train_batch_size))


def largest_batch(job: TrainJob, lengths: RowLengths | None, parts: int = 1) -> MicroBatch:
    """The longest rows of the dataset in one micro-batch: what the smoke run computes, and no step exceeds.

    Args:
        parts: what its rows have in common is computed once in each of so many.
    """
    rows = job.per_device_train_batch_size
    is_padded = job.flash_attn not in ("auto", "sdpa")
    if lengths is None or not lengths.longest:
        sequences = rows * (2 if job.stage in ("dpo", "rm") else 1)
        tokens = sequences * job.cutoff_len
        return MicroBatch(rows, tokens, tokens, job.cutoff_len, tokens * job.cutoff_len, True)
    known = lengths.longest[:rows]
    further = min(rows, lengths.rows) - len(known)
    taken = [row.cut(job.cutoff_len) for row in (*known, *known[-1:] * further)]
    longest = max(row.longest for row in taken)
    if job.stage == "pt" or job.packing or job.neat_packing:  # joined to cutoff_len tokens each
        longest = job.cutoff_len
        tokens = rows * longest
        learned = ceil(tokens * sum(row.learned for row in taken) / sum(row.tokens for row in taken))
        return MicroBatch(rows, tokens, min(tokens, learned), longest, tokens * longest, False)
    learned = sum(row.learned for row in taken)
    if is_padded:
        tokens = longest * sum(max(1, round(row.tokens / row.longest)) for row in taken)
        return MicroBatch(len(taken), tokens, learned, longest, tokens * longest, False)
    tokens = sum(row.tokens for row in taken)
    is_random = job.lora_dropout or job.neftune_noise_alpha
    if lengths.shared >= SHARED_FROM and not is_random:
        tokens -= max(0, len(taken) - parts) * min(lengths.shared, taken[-1].longest)
    squares = sum(row.tokens * row.longest for row in taken)
    return MicroBatch(len(taken), tokens, learned, longest, squares, False)


def trained_weights(job: TrainJob, shape: ModelShape) -> tuple[Weight, ...]:
    """The tensors that are trained, by the job's method."""
    if job.finetuning_type == "full":
        return shape.weights
    extra = set(job.additional_target)
    if job.trains_vocabulary:
        extra |= {"embed_tokens", "wte"} | (set() if shape.is_tied else {"lm_head"})
    whole = tuple(each for each in shape.weights if extra & set(each.name.split(".")))
    if job.finetuning_type == "freeze":
        layers = trained_layers(job, shape)
        wanted, more = set(job.freeze_trainable_modules), set(job.freeze_extra_modules)
        inside = tuple(
            each for each in shape.weights
            if (each.layer in layers and ("all" in wanted or wanted & set(each.name.split("."))))
            or more & set(each.name.split("."))
        )  # fmt: skip
        return inside + tuple(each for each in whole if each not in inside)
    return tuple(_adapters(job, shape)) + whole


def trained_layers(job: TrainJob, shape: ModelShape) -> range:
    """Numbers of the layers that are trained where layers are chosen; all of them for any other method."""
    if job.finetuning_type != "freeze":
        return range(shape.layers)
    count = max(-shape.layers, min(shape.layers, job.freeze_trainable_layers or shape.layers))
    if job.use_llama_pro and count > 0:
        stride = max(1, shape.layers // count)
        return range(stride - 1, shape.layers, stride)
    return range(shape.layers - count, shape.layers) if count > 0 else range(-count)


def weight_bytes(job: TrainJob, shape: ModelShape, chosen: Precision) -> int:
    """The base model in memory: trained weights in their own format, the others as loaded, in 4 or 8 bits if asked."""
    trained = (
        {each.name for each in trained_weights(job, shape)} if job.finetuning_type in ("full", "freeze") else set()
    )
    total = 0.0
    for each in shape.weights:
        if each.name in trained:
            total += each.count * BYTES[chosen.trained]
        elif job.quantization_bit and each.is_linear:
            total += each.count * _bytes_quantized(job)
        else:
            total += each.count * BYTES[chosen.weights]
    return ceil(total)


def _bytes_quantized(job: TrainJob) -> float:
    """Of one weight, with its share of the scales: one for 64 weights, in 1 byte where they are quantized as well."""
    if job.quantization_bit == "8":
        return 1.0
    return 0.5 + (1 / 64 + 4 / (64 * 256) if job.double_quantization else 4 / 64)


def _adapters(job: TrainJob, shape: ModelShape) -> Iterable[Weight]:
    if job.finetuning_type == "oft":
        for each in shape.linear(job.oft_target):
            block = job.oft_block_size or max(1, each.shape[1] // max(1, job.oft_rank))
            yield Weight(f"{each.name}.oft", (max(1, each.shape[1] // block), block * (block - 1) // 2), each.layer)
        return
    for each in shape.linear(job.lora_target):
        yield Weight(f"{each.name}.lora_A", (job.lora_rank, each.shape[1]), each.layer)
        yield Weight(f"{each.name}.lora_B", (each.shape[0], job.lora_rank), each.layer)
        if job.use_dora:
            yield Weight(f"{each.name}.lora_magnitude", (each.shape[0],), each.layer)


def _estimate(
    job: TrainJob, shape: ModelShape, device: Device, lengths: RowLengths | None, is_checkpointed: bool
) -> Estimate:
    chosen = precision(device, bf16=job.bf16, fp16=job.fp16, pure_bf16=job.pure_bf16)
    processes = max(1, job.processes_here)
    shards = processes * job.nnodes
    at_once = parts_at_once(job, shape, device, is_checkpointed)
    batch = largest_batch(job, lengths, at_once)
    trained = trained_weights(job, shape)
    numbers = sum(each.count for each in trained)
    biggest = max((each.count for each in trained), default=0)
    whole_weights = weight_bytes(job, shape, chosen)
    share = shards if job.parallel in ("fsdp2", "zero3") else 1
    share_of_state = shards if job.parallel != "ddp" else 1
    is_adapter = job.finetuning_type in ("lora", "oft")
    always = {
        "process": PROCESS_BYTES[device.kind],
        "weights": whole_weights * _models(job) / share,
        "adapters": numbers * BYTES[chosen.trained] / share if is_adapter else 0,
    }
    optimizer = state_bytes(job.optimizer_name, trained, BYTES[chosen.trained]) / share_of_state
    gradients = numbers * BYTES[chosen.trained] / share_of_state
    if at_once > 1:
        gradients += at_once * min(numbers, TRAINED_IN_PARTS * shape.parameters) * BYTES[chosen.trained]
    activations = activation_bytes(job, shape, chosen, batch, is_checkpointed)
    if _casts(chosen):
        activations += numbers * BYTES[chosen.autocast]  # what is trained, as the matrix products take it
    if any(each.layer is None and len(each.shape) == 2 for each in trained) and shape.has_plain_head:
        activations += shape.vocabulary * shape.hidden * 4  # the output layer's gradient, kept until it is added
    logits = batch.learned * shape.vocabulary * 4 * WHOLE_LOGIT_COPIES
    if shape.has_plain_head:
        logits = min(batch.learned * shape.vocabulary * 4, at_once * LOGIT_PIECE_BYTES) * LOGIT_COPIES
    temporary = UPDATE_COPIES * biggest * BYTES[chosen.trained]
    step = {"gradients": gradients, "optimizer": optimizer, "activations": activations, "logits": logits}
    moments: dict[Moment, dict[str, float]] = {
        "loading": {
            **always,
            "process": LOADING_PROCESS_BYTES[device.kind],
            "adapters": 0,
            "files": shape.stored_bytes if device.is_cpu else 0,
        },
        "step": {**always, **step},
        "update": {**always, "gradients": gradients, "optimizer": optimizer, "temporary": temporary},
    }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {name: ceil(size) for name, size in moments[moment].items() if size}
    free = device.free_bytes // (processes if device.is_cpu else 1)
    return Estimate(parts, moment, batch, device, chosen, free, processes, is_checkpointed, shape)


def _casts(chosen: Precision) -> bool:
    """Whether trained weights have another format than the matrix products."""
    return BYTES[chosen.autocast] < BYTES[chosen.trained]


def _models(job: TrainJob) -> int:
    """How many models are held: a second one where the first is compared with itself as it began."""
    return 2 if job.needs_reference and (job.ref_model or job.finetuning_type not in ("lora", "oft")) else 1


def activation_bytes(
    job: TrainJob, shape: ModelShape, chosen: Precision, batch: MicroBatch, is_checkpointed: bool
) -> float:
    """What the forward pass keeps for the backward pass, in all layers from the first that is trained on."""
    size = min(BYTES[chosen.autocast], BYTES[chosen.weights])
    layers = shape.layers - min(trained_layers(job, shape), default=0)
    kept = (HIDDEN_KEPT_BESIDE_HALF if _casts(chosen) else HIDDEN_KEPT)[job.finetuning_type] * shape.hidden
    kept += INTERMEDIATE_KEPT["cpu" if chosen.is_cpu else "cuda"] * shape.intermediate
    kept += KEY_VALUE_KEPT * shape.key_value_width + (NUMBERS_KEPT + shape.heads) * BYTES["float32"] / size
    if job.finetuning_type == "lora":
        kept += job.lora_rank * len(shape.linear(job.lora_target)) / shape.layers
    working = HIDDEN_WORKING * shape.hidden + INTERMEDIATE_WORKING * shape.intermediate
    one_layer = batch.tokens * kept * size
    if job.flash_attn == "disabled":
        one_layer += ATTENTION_COPIES * shape.heads * batch.squares * size
    inputs = (layers - 1) * batch.tokens * shape.hidden * size  # of the other layers
    all_layers = inputs + one_layer if is_checkpointed else layers * one_layer
    return HEAP * (all_layers + batch.tokens * working * size)
