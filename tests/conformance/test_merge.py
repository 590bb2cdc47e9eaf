"""Merging, against peft: the same logits as base + adapter, the same weights as ``merge_and_unload``."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested
from engine.work import export, verify_logits
from engine.work.shards import model_tensors
from engine.work.streamed import CannotStream
from engine.work.unfinished import unfinished

INPUT_IDS = torch.arange(1, 25).reshape(2, 12)
SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 6},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {r"layers\.0\..*\.k_proj": 3, "v_proj": 32},
    },
    "dora": {"use_dora": True},
    "norms_saved": {"modules_to_save": ["input_layernorm", "norm"]},
    "embedding_saved": {"modules_to_save": ["embed_tokens"]},
    "head_saved": {"modules_to_save": ["lm_head"]},
    "both_saved": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "both_saved_tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "head_lora": {"target_modules": ["q_proj", "lm_head"]},
    "embedding_lora": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding_dora": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "head_and_embedding_lora_tied": {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
    "new_token_rows": {"trainable_token_indices": [3, 7, 90]},
}
CONV1D = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
MORE_ADAPTERS: dict[str, dict[str, Any]] = {
    "lora_bias": {"lora_bias": True, "target_modules": ["q_proj", "k_proj", "v_proj"]},
    "conv1d": CONV1D,
    "conv1d_dora": {**CONV1D, "use_dora": True},
    "conv1d_bias": {**CONV1D, "lora_bias": True, "target_modules": ["c_attn"]},
}
"""For layers with a bias, and for those that GPT-2 has the other way round."""
UNTIES = {
    "embedding_saved", "head_saved", "both_saved", "head_lora", "embedding_lora", "embedding_dora",
}  # fmt: skip


def base_model(folder: Path, is_tied: bool, kind: str = "llama", dtype: torch.dtype = torch.float32, **saving: Any):
    """Save a tiny random model in ``folder`` and return it in float32."""
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "gpt2": (GPT2Config, GPT2LMHeadModel),
    }[kind]  # fmt: skip
    torch.manual_seed(1)
    made = model(config(**SIZES, tie_word_embeddings=is_tied)).to(dtype)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    made.save_pretrained(folder, **saving)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_adapter(model, folder: Path, seed: int = 2, **settings: Any) -> torch.Tensor:
    """Put random LoRA weights beside ``model`` (changed by it), save them, and return its logits."""
    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "init_lora_weights": False, **settings}
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    for name, parameter in model.named_parameters():
        if ".modules_to_save." in name or "trainable_tokens_delta" in name or "magnitude" in name or "lora_B" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter) * (1 + parameter.data.abs()))
    model.save_pretrained(folder)
    return logits_of(model)


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=INPUT_IDS).logits.float()


def exported(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def differences(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.fixture
def run_export(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run an export of ``tmp_path/base`` into ``tmp_path/out`` with the adapters named."""
    (tmp_path / "run").mkdir()

    def run(*adapters: str, **options: Any) -> dict[str, Any]:
        values = {
            "model_name_or_path": str(tmp_path / "base"),
            "adapter_name_or_path": [str(tmp_path / name) for name in adapters],
            "export_dir": str(tmp_path / "out"),
            **options,
        }
        return export.run(ExportJob.from_values(values), Recorder(Folder(tmp_path / "run")))

    return run


def warnings_of(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "run" / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["warning"] for line in lines if "warning" in (event := json.loads(line))]


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_equal_base_and_adapter(name: str, is_tied: bool, tmp_path: Path, run_export) -> None:
    base = base_model(tmp_path / "base", is_tied)
    expected = make_adapter(base, tmp_path / "adapter", **ADAPTERS[name])
    result = run_export("adapter")
    merged = exported(tmp_path / "out")
    assert differences(logits_of(merged), expected) < 1e-4 * max(1, float(expected.abs().max()) / 100)
    assert result["verified"]["logit_max_difference"] <= result["verified"]["logit_tolerance"]
    assert result["verified"]["logits_streamed"] == ((name, is_tied) != ("both_saved_tied", True))
    stays_tied = is_tied and name not in UNTIES
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert ("lm_head.weight" not in weights) == stays_tied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] == stays_tied
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == stays_tied


def test_a_bias_that_the_base_has_no_place_for_is_not_lost(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter", lora_bias=True)
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == "merge.adapter_option" and caught.value.facts["option"] == "lora_bias"
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *product(["llama", "qwen2"], ["plain", "rslora", "patterns", "dora", "norms_saved"]),
        ("qwen2", "lora_bias"),
        ("gpt2", "conv1d"),
        ("gpt2", "conv1d_dora"),
        ("gpt2", "conv1d_bias"),
    ],
)  # llama's layers have no bias to which one could be added: see above
def test_weights_equal_merge_and_unload(kind: str, name: str, tmp_path: Path, run_export) -> None:
    settings = {**ADAPTERS, **MORE_ADAPTERS}[name]
    make_adapter(base_model(tmp_path / "base", is_tied=True, kind=kind), tmp_path / "adapter", **settings)
    result = run_export("adapter")
    expected = PeftModel.from_pretrained(exported(tmp_path / "base"), tmp_path / "adapter").merge_and_unload()
    state = dict(expected.named_parameters())
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights.keys() == state.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(weight, state[key].data, rtol=1e-6, atol=1e-6)
    before = load_file(tmp_path / "base" / "model.safetensors")
    changed = [key for key in weights if not torch.equal(weights[key], before[key])]
    counts = (result["verified"]["tensors_changed"], result["verified"]["tensors_unchanged"])
    assert counts == (len(changed), len(weights) - len(changed))
    assert changed


@pytest.mark.parametrize("has_head", [True, False], ids=["with head", "as published"])
@pytest.mark.parametrize("targets", [["attn.c_proj", "lm_head"], ["c_attn", "lm_head"], ["c_attn", "attn.c_proj"]])
def test_gpt2_has_its_weights_the_other_way_round(targets, has_head: bool, tmp_path: Path, run_export) -> None:
    """Also a square one, and beside a head that has not, which makes peft save ``fan_in_fan_out: false``."""
    base = base_model(tmp_path / "base", is_tied=True, kind="gpt2")
    if not has_head:
        base.transformer.save_pretrained(tmp_path / "base")
        assert "wte.weight" in load_file(tmp_path / "base" / "model.safetensors")
    expected = make_adapter(base, tmp_path / "adapter", target_modules=targets)
    result = run_export("adapter")
    assert result["verified"]["logits_streamed"] is True
    assert differences(logits_of(exported(tmp_path / "out")), expected) < 1e-4
    assert result["verified"]["tensors_changed"] == (4 if "lm_head" not in targets else 3)


@pytest.mark.parametrize("second", ["plain", "dora", "head_saved", "head_lora"])
def test_several_adapters_are_applied_in_order(second: str, tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "first", seed=3, use_rslora=True)
    model = PeftModel.from_pretrained(exported(tmp_path / "base"), tmp_path / "first").merge_and_unload()
    expected = make_adapter(model, tmp_path / "second", seed=4, **ADAPTERS[second])
    if second == "head_lora":  # trained beside a base that peft saved along; here the base is the first adapter's
        _drop(tmp_path / "second", "base_layer")
    run_export("first", "second")
    assert differences(logits_of(exported(tmp_path / "out")), expected) < 1e-4


def test_sharded_base_and_sharded_output(tmp_path: Path, run_export) -> None:
    base = base_model(tmp_path / "base", is_tied=False, kind="qwen2", max_shard_size="20KB")
    expected = make_adapter(base, tmp_path / "adapter")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 2
    result = run_export("adapter", export_size=30e-6)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    assert len(files) > 2
    assert all((tmp_path / "out" / name).stat().st_size < 33_000 for name in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert differences(logits_of(exported(tmp_path / "out")), expected) < 1e-4
    assert result["size_bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("asked", ["auto", "float32", "float16", "bfloat16"])
def test_dtype(asked: str, tmp_path: Path, run_export) -> None:
    base = base_model(tmp_path / "base", is_tied=False, dtype=torch.bfloat16)
    expected = make_adapter(base, tmp_path / "adapter")
    result = run_export("adapter", export_dtype=asked)
    wanted = "float32" if asked == "auto" else asked
    assert result["dtype"] == wanted
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == wanted
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, wanted)}
    allowed = {"float32": 1e-4, "float16": 0.004, "bfloat16": 0.03}[wanted]
    assert differences(logits_of(exported(tmp_path / "out")), expected) < allowed * max(1, float(expected.abs().max()))


def test_large_model_keeps_the_base_dtype_and_its_logits_are_proven_from_the_disk(
    tmp_path: Path, run_export, monkeypatch
) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=False, dtype=torch.bfloat16), tmp_path / "adapter")
    monkeypatch.setattr(export, "FLOAT32_BELOW_BYTES", 1000)
    monkeypatch.setattr(verify_logits, "WHOLE_BELOW_BYTES", 1000)
    result = run_export("adapter")
    assert result["dtype"] == "bfloat16"
    assert result["verified"]["logits_streamed"] is True
    assert result["verified"]["logit_max_difference"] <= result["verified"]["logit_tolerance"]
    assert "weight by weight from the files" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def cannot_stream(*_: Any) -> None:
    raise CannotStream("as some families")


@pytest.mark.parametrize("fits", [True, False])
def test_a_model_that_cannot_be_computed_from_the_disk_is_loaded_whole_or_not_compared(
    fits: bool, tmp_path: Path, run_export, monkeypatch
) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=False), tmp_path / "adapter")
    monkeypatch.setattr(verify_logits, "model_on_disk", cannot_stream)
    monkeypatch.setattr(verify_logits, "WHOLE_BELOW_BYTES", 10**9 if fits else 1000)
    verified = run_export("adapter")["verified"]
    assert verified["logits_streamed"] is (False if fits else None)
    assert (verified["logit_max_difference"] is not None) == fits
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert ("whole model in memory" if fits else "Logits were not compared") in card
    if not fits:
        assert "merge.logits_not_compared" in warnings_of(tmp_path)


def test_without_adapter_a_model_is_cast_and_cut_anew(tmp_path: Path, run_export) -> None:
    base = base_model(tmp_path / "base", is_tied=True, dtype=torch.bfloat16)
    expected = logits_of(base)
    result = run_export(export_size=20e-6)
    assert result["dtype"] == "bfloat16"
    assert result["verified"]["tensors_changed"] == 0
    assert torch.equal(logits_of(exported(tmp_path / "out")), expected)


def test_resized_vocabulary(tmp_path: Path, run_export) -> None:
    base = base_model(tmp_path / "base", is_tied=True)
    base.resize_token_embeddings(100, mean_resizing=False)
    expected = make_adapter(base, tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    embedding = base.get_input_embeddings().weight.detach().clone()
    weights["base_model.model.model.embed_tokens.weight"] = embedding
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    run_export("adapter")
    merged = exported(tmp_path / "out")
    assert merged.config.vocab_size == 100
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert differences(logits_of(merged), expected) < 1e-4


def test_tokenizer_and_template_come_from_the_adapter(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    for name in ("special_tokens_map.json", "LICENSE", "tokenizer.model", "optimizer.pt"):
        (tmp_path / "base" / name).write_text("base")
    (tmp_path / "base" / "chat_template.jinja").write_text("base")
    run_export("adapter")
    copied = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "tokenizer.model", "chat_template.jinja", "generation_config.json", "README.md"} <= copied
    assert "optimizer.pt" not in copied
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "adapter" / "chat_template.jinja").write_text("adapter")
    from transformers import PreTrainedTokenizerFast

    _word_tokenizer(PreTrainedTokenizerFast).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "chat_template.jinja").write_text("adapter")
    run_export("adapter")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "adapter"
    assert not (tmp_path / "out" / "special_tokens_map.json").exists()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_card_tells_of_the_run_that_made_the_adapter(tmp_path: Path, run_export) -> None:
    from engine.options.jobs import TrainJob
    from engine.runs.folder import Folder
    from engine.runs.record import update_state, write_job

    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    folder = Folder(tmp_path / "adapter")
    write_job(folder, TrainJob.from_values({"dataset": "identity", "seed": 12345}), "ja")
    update_state(folder, kind="train", status="stopped", result={"metrics": {"train_loss": 0.4375}})
    run_export("adapter")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## How adapter was trained" in text and "seed: 12345" in text and "0.4375" in text
    assert text.index("tensors changed") < text.index("How adapter"), "what was proven comes first"


def plant_stray(folder: Path) -> None:
    _edit(folder, lambda weights: weights.update({"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": _NOISE}))


def plant_nan(folder: Path) -> None:
    _edit(folder, lambda weights: next(iter(weights.values())).view(-1)[3:4].fill_(float("nan")))


def plant_shape(folder: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    _edit(folder, lambda weights: weights.update({name: weights[name][:-1].clone()}))


def plant_lonely(folder: Path) -> None:
    _edit(folder, lambda weights: weights.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"))


def plant_type(folder: Path) -> None:
    _configure(folder, peft_type="LOHA")


def plant_pissa(folder: Path) -> None:
    _configure(folder, init_lora_weights="pissa_niter_4")


def plant_broken_configuration(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4', encoding="utf-8")


def plant_no_rank(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 4}', encoding="utf-8")


def plant_list(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]", encoding="utf-8")


def plant_cut_off(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("plant", "key"),
    [
        (plant_stray, "merge.adapter_unused"),
        (plant_nan, "merge.adapter_not_finite"),
        (plant_shape, "merge.adapter_unfit"),
        (plant_lonely, "merge.adapter_unfit"),
        (plant_type, "merge.adapter_type"),
        (plant_pissa, "merge.adapter_option"),
        (plant_broken_configuration, "merge.file_broken"),
        (plant_no_rank, "merge.file_broken"),
        (plant_list, "merge.file_broken"),
        (plant_cut_off, "merge.file_broken"),
        (shutil.rmtree, "adapter_missing"),
    ],
)
def test_faulty_adapter_is_refused(plant: Callable, key: str, tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    plant(tmp_path / "adapter")
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == key
    assert caught.value.text()
    assert_nothing_left(tmp_path)


def test_wrong_scaling_is_noticed(tmp_path: Path, run_export, monkeypatch) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    monkeypatch.setattr("engine.work.adapter_files._scaling", lambda config, module: 1.99)
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == "merge.verify_failed"
    assert_nothing_left(tmp_path)


def test_a_base_that_computes_nan_is_named(tmp_path: Path, run_export) -> None:
    base = base_model(tmp_path / "base", is_tied=True)
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    base.model.norm.weight.data[3] = float("nan")
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == "merge.base_not_finite" and caught.value.facts["path"] == tmp_path / "base"
    assert_nothing_left(tmp_path)


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as caught:
        run_export("adapter", export_dir=str(tmp_path / "file" / "out"))
    assert caught.value.key == "target_not_writable" and "file" in caught.value.text()
    assert (tmp_path / "file").read_text() == "mine"


def test_touched_tensor_that_no_adapter_aims_at_is_noticed(tmp_path: Path, run_export, monkeypatch) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    sound = export.write_model

    def faulty(folder, contents, limit_bytes, tensor_of):
        def spoilt(name):
            given = tensor_of(name)
            return (piece * 1.0001 for piece in given) if "norm" in name else given

        return sound(folder, contents, limit_bytes, spoilt)

    monkeypatch.setattr(export, "write_model", faulty)
    with pytest.raises(UserError, match=r"model\.norm\.weight differs"):
        run_export("adapter")
    assert_nothing_left(tmp_path)


def test_overflow_of_float16_is_noticed(tmp_path: Path, run_export) -> None:
    model = base_model(tmp_path / "base", is_tied=True)
    model.model.norm.weight.data.fill_(1e5)
    model.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="not finite in float16"):
        run_export(export_dtype="float16")
    assert_nothing_left(tmp_path)


def test_untrained_adapter_is_told(tmp_path: Path, run_export) -> None:
    model = get_peft_model(
        base_model(tmp_path / "base", is_tied=True), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path / "adapter")
    assert run_export("adapter")["verified"]["tensors_changed"] == 0
    assert "merge.not_changed" in warnings_of(tmp_path)


def test_full_disk_is_told_before(tmp_path: Path, run_export, monkeypatch) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: usage(10**12, 10**12, 10**6))
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == "disk_full_before"
    assert_nothing_left(tmp_path)


def test_full_disk_in_mid_write_leaves_nothing(tmp_path: Path, run_export, monkeypatch) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engine.work.shards.os.fsync", full)
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == "disk_full"
    assert_nothing_left(tmp_path)


def test_stopped_export_leaves_nothing(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    Folder(tmp_path / "run").stop_request.touch()
    with pytest.raises(StopRequested):
        run_export("adapter")
    assert_nothing_left(tmp_path)


def test_what_a_killed_export_left_is_removed(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    (tmp_path / ".out.lathe.tmp" / "old").mkdir(parents=True)
    (tmp_path / ".out.lathe.tmp" / "model-00001-of-00009.safetensors").write_bytes(b"half")
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp" / "thesis.txt").write_text("mine")
    run_export("adapter")
    assert (tmp_path / "out.tmp" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / ".out.lathe.tmp").exists()
    assert not (tmp_path / "out" / "old").exists()
    assert not (tmp_path / "out" / "model-00001-of-00009.safetensors").exists()


def test_two_exports_at_once(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    with unfinished(tmp_path / "out", is_folder=True) as folder:
        (folder / "mine").touch()
        with pytest.raises(UserError) as caught:
            run_export("adapter")
        assert (folder / "mine").exists()
    assert caught.value.key == "target_busy"


def test_target_that_holds_something_is_refused(tmp_path: Path, run_export) -> None:
    make_adapter(base_model(tmp_path / "base", is_tied=True), tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    run_export("adapter")  # an empty folder is as good as none
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError) as caught:
        run_export("adapter")
    assert caught.value.key == "export_dir_exists"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    for name in ("base", "adapter"):
        with pytest.raises(UserError) as caught:
            run_export("adapter", export_dir=str(tmp_path / name))
        assert caught.value.key == "merge.export_dir_is_source"


def test_quantized_and_incomplete_bases_are_refused(tmp_path: Path, run_export) -> None:
    base_model(tmp_path / "base", is_tied=False, max_shard_size="20KB")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    quantized = {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(UserError) as caught:
        run_export()
    assert caught.value.key == "merge.base_quantized"
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    sorted((tmp_path / "base").glob("*.safetensors"))[1].unlink()
    with pytest.raises(UserError) as caught:
        model_tensors(tmp_path / "base")
    assert caught.value.key == "merge.base_incomplete"


@pytest.mark.slow
def test_bundled_model(bundled_model: Path, tmp_path: Path, run_export) -> None:
    model = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32)
    torch.manual_seed(5)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.002)
    model.save_pretrained(tmp_path / "adapter")
    expected = logits_of(model)
    result = run_export("adapter", model_name_or_path=str(bundled_model))
    assert result["dtype"] == "float32"
    assert result["verified"]["tensors_changed"] == 7 * 30
    # float32 alone moves these logits by some 1e-4; peft's merge says by how much.
    found = differences(logits_of(exported(tmp_path / "out")), expected)
    assert found < max(1e-4, 1.5 * differences(logits_of(model.merge_and_unload()), expected))


def assert_nothing_left(tmp_path: Path) -> None:
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.lathe.tmp").exists()


_NOISE = torch.ones(4, 32)


def _edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def _drop(folder: Path, part: str) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    _edit(folder, change)


def _configure(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def _word_tokenizer(kind):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "The": 1, "capital": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return kind(tokenizer_object=tokenizer, unk_token="[UNK]")
