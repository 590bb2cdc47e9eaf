"""The estimate of memory: its terms against numbers known from elsewhere, that it never falls when more is asked for,
and that what is offered as a remedy is one. All of it on devices that are described, not on this machine's."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.catalog.devices import Device, precision
from engine.catalog.memory import (
    MARGIN,
    Row,
    RowLengths,
    activation_bytes,
    estimate,
    largest_batch,
    needs_checkpointing,
    trained_weights,
    weight_bytes,
)  # fmt: skip
from engine.catalog.optimizers import state_bytes
from engine.catalog.shape import from_config, shape_of
from engine.options.jobs import TrainJob

GIGABYTE = 10**9
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA2_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
SMALL, LARGE = from_config(SMOLLM2), from_config(LLAMA2_7B)


def cpu(free: float) -> Device:
    return Device("cpu", "a CPU", int(free), int(free), cores=2)


def t4(free: float = 15 * GIGABYTE) -> Device:
    return Device("cuda", "Tesla T4", 16 * GIGABYTE, int(free), 0, (7, 5))


def a100(free: float = 40 * GIGABYTE) -> Device:
    return Device("cuda", "A100", 40 * GIGABYTE, int(free), 0, (8, 0))


def job(**values) -> TrainJob:
    return TrainJob.from_values({"dataset": "identity", "cutoff_len": 1024, **values})


# --- shapes ---


def test_parameters_are_those_that_the_makers_name():
    assert SMALL.parameters == 134_515_008  # HuggingFaceTB/SmolLM2-135M-Instruct
    assert LARGE.parameters == 6_738_415_616  # meta-llama/Llama-2-7b-hf


def test_a_file_s_header_counts_more_than_the_configuration(tmp_path):
    """Its tensors are taken as they are, with no weight read; the file ends behind the header."""
    tensors = {"model.embed_tokens.weight": [50000, 576], "model.layers.0.self_attn.q_proj.weight": [576, 576]}
    header = json.dumps(
        {"__metadata__": {"format": "pt"}}
        | {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    found = shape_of(str(tmp_path))
    assert (found.source, found.parameters, found.vocabulary) == ("headers", 50000 * 576 + 576 * 576, 50000)
    assert [weight.module for weight in found.linear(("all",))] == ["q_proj"]


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{", b"\xff" * 8])
def test_a_broken_file_is_no_reason_to_fall_over(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    assert shape_of(str(tmp_path)) is None


def test_without_its_files_a_model_is_guessed_from_its_name_and_that_is_said():
    found = shape_of("Qwen/Qwen2.5-7B-Instruct")
    assert found.source == "name"
    assert 7e9 < found.parameters < 8e9
    assert shape_of("somebody/something") is None


# --- terms ---


def test_trained_numbers_of_lora_are_peft_s():
    """peft prints ``trainable params: 2,442,240`` for rank 8 on all linear layers of SmolLM2-135M."""
    assert sum(each.count for each in trained_weights(job(lora_rank=8), SMALL)) == 2_442_240


def test_what_else_is_trained():
    def count(**values):
        return sum(each.count for each in trained_weights(job(**values), SMALL))

    layer = (SMALL.parameters - 49152 * 576 - 576) // 30
    assert count(finetuning_type="full") == SMALL.parameters
    assert count(finetuning_type="freeze", freeze_trainable_layers=2) == 2 * layer
    assert count(finetuning_type="freeze", freeze_trainable_layers=-3) == 3 * layer
    assert count(lora_rank=8, additional_target="embed_tokens") == 2_442_240 + 49152 * 576
    assert count(lora_rank=8, lora_target="q_proj,v_proj") == 30 * 8 * ((576 + 576) + (576 + 192))


def test_adam_keeps_two_numbers_of_each_weight_and_adafactor_rows_and_columns():
    weights = trained_weights(job(finetuning_type="full"), LARGE)
    assert state_bytes("adamw_torch", weights, 4) == 8 * LARGE.parameters
    assert state_bytes("adamw_8bit", weights, 4) == state_bytes("paged_adamw_8bit", weights, 4) == 2 * LARGE.parameters
    assert state_bytes("sgd", weights, 4) == 0
    assert state_bytes("adafactor", weights, 4) < 0.001 * 8 * LARGE.parameters
    assert state_bytes("schedule_free_adamw", weights, 4) == 8 * LARGE.parameters
    assert state_bytes("nobody_knows_it", weights, 4) == 8 * LARGE.parameters


def test_four_bits_are_4_127_of_them():
    """QLoRA, section 3: 0.5 bits a weight for the scales become 0.127 where they are quantized as well."""
    chosen = precision(t4())
    inside = sum(each.count for each in LARGE.linear(("all",)))
    outside = 2 * (LARGE.parameters - inside)

    def bits(**values):
        return 8 * (weight_bytes(job(quantization_bit="4", **values), LARGE, chosen) - outside) / inside

    assert bits() == pytest.approx(4.127, abs=0.001)
    assert bits(double_quantization=False) == pytest.approx(4.5)
    assert weight_bytes(job(quantization_bit="8"), LARGE, chosen) - outside == inside


def test_weights_are_counted_in_the_format_that_the_device_computes_in():
    assert weight_bytes(job(), LARGE, precision(cpu(GIGABYTE))) == 4 * LARGE.parameters
    assert weight_bytes(job(), LARGE, precision(t4())) == 2 * LARGE.parameters
    assert weight_bytes(job(finetuning_type="full"), LARGE, precision(a100())) == 4 * LARGE.parameters
    assert weight_bytes(job(finetuning_type="full", pure_bf16=True), LARGE, precision(a100(), pure_bf16=True)) == (
        2 * LARGE.parameters
    )


def test_a_model_that_is_compared_with_itself_is_there_twice():
    device = a100(free=1000 * GIGABYTE)

    def weights(**values):
        return estimate(job(stage="dpo", **values), LARGE, device).parts["weights"]

    assert weights(finetuning_type="full") == 2 * weights(finetuning_type="full", pref_loss="orpo")
    assert weights() == weights(pref_loss="orpo")  # an adapter is only switched off


# --- the largest micro-batch ---


def test_without_lengths_every_row_is_as_long_as_the_cutoff_and_that_is_said():
    batch = largest_batch(job(per_device_train_batch_size=4, cutoff_len=1000), None)
    assert (batch.rows, batch.tokens, batch.learned, batch.is_assumed) == (4, 4000, 4000, True)
    assert largest_batch(job(stage="dpo", per_device_train_batch_size=4, cutoff_len=1000), None).tokens == 8000


def test_with_lengths_it_is_the_longest_rows_without_padding():
    lengths = RowLengths.of([Row(100, 40, 100), Row(300, 200, 300), Row(50, 10, 50)])
    batch = largest_batch(job(per_device_train_batch_size=2), lengths)
    assert (batch.rows, batch.tokens, batch.learned, batch.longest) == (2, 400, 240, 300)
    assert largest_batch(job(per_device_train_batch_size=8), lengths).rows == 3
    assert largest_batch(job(per_device_train_batch_size=2, flash_attn="disabled"), lengths).tokens == 600
    assert largest_batch(job(per_device_train_batch_size=2, cutoff_len=150), lengths).tokens == 250


def test_a_common_beginning_is_computed_once_where_nothing_is_random():
    lengths = RowLengths((Row(300, 200, 300), Row(100, 40, 100)), 2, 400, shared=30)
    assert largest_batch(job(), lengths).tokens == 370
    assert largest_batch(job(lora_dropout=0.1), lengths).tokens == 400


def test_a_row_is_cut_to_just_the_cutoff():
    for tokens in range(100, 3000):
        assert Row(tokens, tokens // 2, tokens).cut(100) == Row(100, 50, 100)
        assert Row(2 * tokens, tokens, tokens).cut(100) == Row(200, 100, 100)


def test_lengths_survive_a_run_s_folder():
    lengths = RowLengths.of([Row(100, 40, 100), Row(300, 200, 300)])
    assert RowLengths.from_plain(json.loads(json.dumps(lengths.plain()))) == lengths


# --- monotone ---

MORE = {
    "per_device_train_batch_size": (1, 2, 3, 8, 64),
    "gradient_accumulation_steps": (1, 2, 16),
    "cutoff_len": (16, 100, 512, 4096),
    "lora_rank": (1, 8, 64, 512),
    "freeze_trainable_layers": (1, 2, 15, 30),
    "disable_gradient_checkpointing": (False, True),
    "use_dora": (False, True),
    "optim": ("sgd", "adamw_8bit", "adamw_torch"),
    "quantization_bit": ("4", "8", None),
    "flash_attn": ("auto", "disabled"),
}
"""Option → values that ask for more and more memory."""

some_rows = st.lists(st.integers(1, 3000), min_size=1, max_size=40).map(
    lambda tokens: RowLengths.of(Row(each, max(1, each // 2), each) for each in tokens)
)
jobs = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in MORE.items()}
    | {"finetuning_type": st.sampled_from(["lora", "full", "freeze"])}
)


SHORT = {name: values[0] for name, values in MORE.items()} | {
    "finetuning_type": "lora", "per_device_train_batch_size": 2, "disable_gradient_checkpointing": True,
    "quantization_bit": None,
}  # fmt: skip


@example(SHORT, "flash_attn", None, "cpu")
@settings(max_examples=150, deadline=None, database=None)
@given(jobs, st.sampled_from(sorted(MORE)), st.none() | some_rows, st.sampled_from(["cpu", "t4", "a100"]))
def test_asking_for_more_never_takes_less(values, name, lengths, device):
    device = {"cpu": cpu(64 * GIGABYTE), "t4": t4(), "a100": a100()}[device]
    peaks = [estimate(TrainJob.from_values({**values, name: each}), SMALL, device, lengths) for each in MORE[name]]
    sizes = [each.peak_bytes for each in peaks]
    if (
        name == "flash_attn" and device.is_cpu
    ):  # with "auto" its cores compute a part each, and have gradients of their own
        sizes = [size - each.parts["gradients"] for size, each in zip(sizes, peaks, strict=True)]
    assert sizes == sorted(sizes)


@settings(max_examples=50, deadline=None, database=None)
@given(jobs, some_rows, st.integers(1, 3000))
def test_a_further_row_never_takes_less(values, lengths, tokens):
    one_more = RowLengths.of([*lengths.longest, Row(tokens, max(1, tokens // 2), tokens)])
    asked = TrainJob.from_values(values)
    before, after = (estimate(asked, SMALL, cpu(64 * GIGABYTE), each).peak_bytes for each in (lengths, one_more))
    assert before <= after


@settings(max_examples=50, deadline=None, database=None)
@given(jobs)
def test_parts_add_up(values):
    found = estimate(TrainJob.from_values(values), SMALL, cpu(64 * GIGABYTE))
    assert sum(found.parts.values()) == found.peak_bytes
    assert all(size >= 0 for size in found.parts.values())


# --- verdicts ---


def test_verdict_has_a_margin():
    asked = job(disable_gradient_checkpointing=True)
    peak = estimate(asked, SMALL, cpu(GIGABYTE)).peak_bytes

    def verdict(share: float) -> str | None:
        return estimate(asked, SMALL, cpu(peak * share)).verdict

    assert [verdict(share) for share in (0.9, 1.01, 1 + MARGIN + 0.01, 0)] == ["too_big", "tight", "fits", None]


def test_activations_are_computed_again_only_where_memory_needs_it():
    asked = job(cutoff_len=2048, per_device_train_batch_size=4)
    without = estimate(job(cutoff_len=2048, disable_gradient_checkpointing=True), SMALL, cpu(GIGABYTE)).peak_bytes
    assert not needs_checkpointing(asked, SMALL, cpu(2 * without))
    assert needs_checkpointing(asked, SMALL, cpu(without))
    assert not estimate(asked, SMALL, cpu(2 * without)).is_checkpointed
    found = estimate(asked, SMALL, cpu(without))
    assert found.is_checkpointed
    assert found.peak_bytes < without / 2


def test_attention_that_keeps_its_scores_grows_with_the_square():
    def scores(cutoff: int) -> float:
        plain, kept = job(cutoff_len=cutoff), job(cutoff_len=cutoff, flash_attn="disabled")
        both = [
            activation_bytes(each, SMALL, precision(t4()), largest_batch(each, None), False) for each in (plain, kept)
        ]
        return both[1] - both[0]

    assert scores(2048) == pytest.approx(4 * scores(1024))


def test_a_model_that_changes_its_logits_holds_all_of_them():
    capped = from_config({**SMOLLM2, "final_logit_softcapping": 30.0})
    plain, whole = (estimate(job(), shape, cpu(99 * GIGABYTE)).parts["logits"] for shape in (SMALL, capped))
    assert whole == 4 * 1024 * 49152 * 4 * 3
    assert plain == 2 * 48_000_000 * 3  # a piece on each of two cores
    assert estimate(job(lora_dropout=0.1), SMALL, cpu(99 * GIGABYTE)).parts["logits"] == 48_000_000 * 3


def test_parts_that_are_computed_at_once_have_gradients_of_their_own():
    def gradients(**values) -> int:
        return estimate(job(**values), SMALL, cpu(99 * GIGABYTE)).parts["gradients"]

    one = sum(each.count for each in trained_weights(job(), SMALL)) * 4
    assert gradients() == 3 * one
    for alone in ({"per_device_train_batch_size": 1}, {"nproc_per_node": 2}, {"stage": "kto"}, {"use_dft_loss": True}):
        assert gradients(**alone) == one, alone
    assert estimate(job(), SMALL, t4()).parts["gradients"] == one


def test_a_beginning_is_computed_once_in_each_part():
    lengths = RowLengths((Row(300, 200, 300), Row(100, 40, 100), Row(100, 40, 100)), 3, 500, shared=30)
    assert largest_batch(job(), lengths, 2).tokens == 470
    assert largest_batch(job(), lengths, 3).tokens == largest_batch(job(), lengths, 4).tokens == 500


def test_shards_are_shared_out():
    device = a100(free=1000 * GIGABYTE)

    def parts(parallel: str) -> dict[str, int]:
        return estimate(job(finetuning_type="full", nproc_per_node=4, parallel=parallel), LARGE, device).parts

    one, state, all_of_it = parts("ddp"), parts("zero2"), parts("fsdp2")
    assert all_of_it["weights"] == pytest.approx(one["weights"] / 4, abs=4)
    assert state["weights"] == one["weights"]
    assert state["optimizer"] == pytest.approx(one["optimizer"] / 4, abs=4)


def test_processes_share_main_memory_but_not_gpus():
    asked = job(nproc_per_node=4)
    assert estimate(asked, SMALL, cpu(40 * GIGABYTE)).free_bytes == 10 * GIGABYTE
    assert estimate(asked, SMALL, t4(15 * GIGABYTE)).free_bytes == 15 * GIGABYTE
