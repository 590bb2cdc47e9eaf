"""Every method: trained some steps, its result loads, merges as peft merges it, and answers, with the same logits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainingArguments

from engine.errors import UserError
from engine.options.jobs import ChatJob, ExportJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work import export
from engine.work.adapters import make_trainable
from engine.work.freeze import trained_layers
from engine.work.generate import load_for_answers
from engine.work.load import apply_adapters, load_model, load_tokenizer
from engine.work.loraplus import loraplus_optimizer

INPUT_IDS = torch.arange(1000, 1024).reshape(2, 12)
TOLERANCE = 2e-5

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "some_layers": {"lora_target": "q_proj,v_proj", "lora_rank": 4, "lora_alpha": 4},
    "rslora": {"use_rslora": True, "lora_rank": 6},
    "dora": {"use_dora": True},
    "norms_whole": {"additional_target": "input_layernorm,norm"},
    "embeddings_whole": {"additional_target": "embed_tokens,lm_head"},
    "pissa": {"pissa_init": True, "pissa_iter": -1},
    "pissa_fast": {"pissa_init": True, "pissa_iter": 4, "lora_rank": 4, "lora_alpha": 4},
    "pissa_rslora": {"pissa_init": True, "use_rslora": True, "additional_target": "norm"},
    "oft": {"finetuning_type": "oft", "oft_block_size": 8},
    "oft_blocks": {"finetuning_type": "oft", "oft_rank": 4, "oft_block_size": 0, "oft_target": "q_proj,down_proj"},
}


def job_of(model: Path, **options: Any) -> TrainJob:
    return TrainJob.from_values({"model_name_or_path": str(model), "dataset": "identity", **options})


def begin(job: TrainJob) -> Any:
    """The model as training begins with it."""
    torch.manual_seed(1)
    base = load_model(job.model_name_or_path, job, torch.float32, "cpu")
    return make_trainable(base, job, tokenizer=load_tokenizer(job.model_name_or_path, job))


def learn(model: Any, steps: int = 3, rate: float = 0.01) -> torch.Tensor:
    """Train on a few tokens, and give the logits afterwards."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate)
    model.train()
    for _ in range(steps):
        logits = model(input_ids=INPUT_IDS).logits
        functional.cross_entropy(logits[:, :-1].flatten(0, 1), INPUT_IDS[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return logits_of(model)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=INPUT_IDS).logits


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def exported(tmp_path: Path, model: Path, *adapters: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    (tmp_path / "run").mkdir(exist_ok=True)
    values = {
        "model_name_or_path": str(model),
        "adapter_name_or_path": [str(path) for path in adapters],
        "export_dir": str(tmp_path / "merged"),
        **options,
    }
    return tmp_path / "merged", export.run(ExportJob.from_values(values), Recorder(Folder(tmp_path / "run")))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_loads_merges_and_answers(name: str, tiny_model: Path, tmp_path: Path) -> None:
    job = job_of(tiny_model, **METHODS[name])
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = begin(job)
    assert apart(logits_of(model), logits_of(base)) < TOLERANCE, "an adapter begins as the base model is"
    expected = learn(model)
    assert apart(expected, logits_of(base)) > 100 * TOLERANCE
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter)

    merged, result = exported(tmp_path, tiny_model, adapter)
    assert apart(logits_of(AutoModelForCausalLM.from_pretrained(merged)), expected) < TOLERANCE
    by_peft = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    assert apart(logits_of(by_peft), expected) < TOLERANCE
    state, before = dict(by_peft.named_parameters()), load_file(tiny_model / "model.safetensors")
    changed = 0
    for key, weight in load_file(merged / "model.safetensors").items():
        torch.testing.assert_close(weight, state[key].data, rtol=1e-6, atol=1e-6)
        changed += key not in before or not torch.equal(weight, before[key])
    aimed = targets_of(adapter)
    assert changed == result["verified"]["tensors_changed"] == len(aimed)

    chat = ChatJob.from_values({"model_name_or_path": str(tiny_model), "adapter_name_or_path": str(adapter),
                                "infer_dtype": "float32", "do_sample": False})  # fmt: skip
    loaded = load_model(tiny_model, chat, torch.float32, "cpu")
    assert apart(logits_of(apply_adapters(loaded, chat.adapters)), expected) < TOLERANCE
    answers = load_for_answers(chat, Recorder(Folder(tmp_path / "run")))
    prompt = INPUT_IDS[0].tolist()
    token = next(answers.tokens(prompt, chat), None)
    assert token in (int(expected[0, -1].argmax()), None)


def targets_of(adapter: Path) -> set[str]:
    """The tensors of the base model that the adapter's file names, whatever it does to them."""
    found = set()
    for name in load_file(adapter / "adapter_model.safetensors"):
        path = name.removeprefix("base_model.model.")
        for part in (".lora_A", ".lora_B", ".lora_magnitude_vector", ".oft_R"):
            path = path.partition(part)[0]
        found.add(path.removesuffix(".weight"))
    return found


def test_pissa_is_converted_as_peft_converts_it(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"}
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**settings))
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "begun")
    learn(theirs)
    theirs.peft_config["default"].init_lora_weights = "pissa"
    theirs.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "begun"))
    job = job_of(tiny_model, pissa_init=True, pissa_iter=-1, lora_rank=4, lora_alpha=8, lora_target="q_proj,up_proj")
    ours = begin(job)
    learn(ours)
    ours.save_pretrained(tmp_path / "ours")
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("theirs", "ours")]
    assert [[config[name] for config in configs] for name in ("r", "lora_alpha")] == [[8, 8], [16, 16]]
    assert configs[1]["init_lora_weights"] is True


def test_pissa_goes_on_from_a_checkpoint_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    job = job_of(tiny_model, pissa_init=True, pissa_iter=2, lora_rank=4)
    model = begin(job)
    expected = learn(model)
    model.save_pretrained(tmp_path / "checkpoint")
    resumed = begin(job)
    resumed.load_adapter(str(tmp_path / "checkpoint"), "default", is_trainable=True)
    assert torch.equal(logits_of(resumed), expected)
    resumed.save_pretrained(tmp_path / "again")
    again, before = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "checkpoint"))
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())
    elsewhere = begin(job_of(tiny_model, pissa_init=True, pissa_iter=2, lora_rank=4, seed=7))  # other first values
    elsewhere.load_adapter(str(tmp_path / "checkpoint"), "default", is_trainable=True)
    assert apart(logits_of(elsewhere), expected) < TOLERANCE


def test_loraplus_gives_b_its_own_rate(tiny_model: Path, tmp_path: Path) -> None:
    job = job_of(tiny_model, loraplus_lr_ratio=16, additional_target="norm")
    model = begin(job)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1, use_cpu=True)
    optimizer = loraplus_optimizer(model, job, arguments)
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    decay = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert len(rates) == len(trained)
    for name, parameter in trained.items():
        is_fast = "lora_B" in name or parameter.ndim == 1
        assert rates[id(parameter)] == pytest.approx(1.6e-2 if is_fast else 1e-3), name
        assert decay[id(parameter)] == 0.1, name
    before = {name: each.detach().clone() for name, each in trained.items()}
    model(input_ids=INPUT_IDS, labels=INPUT_IDS).loss.backward()
    optimizer.step()
    moved = {name: float((each - before[name]).abs().max()) for name, each in trained.items()}
    assert max(moved[name] for name in moved if "lora_B" in name) == pytest.approx(1.6e-2, rel=0.05)


@pytest.mark.parametrize(
    ("options", "layers", "expected"),
    [
        ({"freeze_trainable_layers": 2}, 6, [4, 5]),
        ({"freeze_trainable_layers": -2}, 6, [0, 1]),
        ({"freeze_trainable_layers": 2, "use_llama_pro": True}, 6, [2, 5]),
        ({"freeze_trainable_layers": 8, "use_llama_pro": True}, 40, [4, 9, 14, 19, 24, 29, 34, 39]),
        ({"freeze_trainable_layers": 6, "use_llama_pro": True}, 6, list(range(6))),
    ],
)
def test_frozen_layers(options: dict[str, Any], layers: int, expected: list[int]) -> None:
    assert list(trained_layers(job_of(Path("x"), finetuning_type="freeze", **options), layers)) == expected


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"freeze_trainable_layers": 1}, ["layers.1.*"]),
        ({"freeze_trainable_layers": -1, "freeze_trainable_modules": "mlp"}, ["layers.0.mlp.*"]),
        ({"freeze_trainable_layers": 1, "freeze_trainable_modules": "q_proj,mlp", "freeze_extra_modules": "norm"},
         ["layers.1.self_attn.q_proj.*", "layers.1.mlp.*", "norm.*"]),
        ({"freeze_trainable_layers": 1, "use_llama_pro": True}, ["layers.1.*"]),
        ({"freeze_trainable_layers": 1, "resize_vocab": True}, ["layers.1.*", "embed_tokens.*"]),
        ({"finetuning_type": "full"}, ["*"]),
    ],
)  # fmt: skip
def test_only_what_is_chosen_is_trained(options: dict[str, Any], trained: list[str], tiny_model: Path) -> None:
    from fnmatch import fnmatch

    model = begin(job_of(tiny_model, **{"finetuning_type": "freeze", **options}))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    learn(model, steps=1)
    for name, parameter in model.named_parameters():
        is_chosen = any(fnmatch(name, f"model.{pattern}") or fnmatch(name, pattern) for pattern in trained)
        assert parameter.requires_grad == is_chosen, name
        assert torch.equal(parameter, before[name]) != is_chosen, name


def test_training_from_scratch_forgets_the_weights(tiny_model: Path) -> None:
    scratch = begin(job_of(tiny_model, finetuning_type="full", train_from_scratch=True))
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert scratch.config.hidden_size == base.config.hidden_size
    assert apart(logits_of(scratch), logits_of(base)) > 0.1
    again = begin(job_of(tiny_model, finetuning_type="full", train_from_scratch=True))
    assert torch.equal(logits_of(scratch), logits_of(again)), "the seed decides"
    assert abs(float(functional.cross_entropy(logits_of(scratch)[0], INPUT_IDS[0])) - math.log(49152)) < 1


def test_norms_stay_in_float32(tiny_model: Path) -> None:
    job = job_of(tiny_model, upcast_layernorm=True)
    model = make_trainable(load_model(tiny_model, job, torch.bfloat16, "cpu"), job)
    kinds = {name.split(".")[-2]: each.dtype for name, each in model.named_parameters()}
    assert kinds["input_layernorm"] == kinds["norm"] == torch.float32
    assert kinds["base_layer"] == kinds["embed_tokens"] == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(input_ids=INPUT_IDS, labels=INPUT_IDS).loss)


def adapter_at(folder: Path, model: Path, *before: Path, rate: float = 0.01, **options: Any) -> torch.Tensor:
    """Train an adapter after others, save it, and give its logits."""
    made = begin(job_of(model, adapter_name_or_path=[str(path) for path in before], **options))
    expected = learn(made, rate=rate)
    made.save_pretrained(folder)
    return expected


OFT = {"finetuning_type": "oft", "oft_block_size": 8}


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {}), ({}, {"use_dora": True}), ({}, OFT), (OFT, OFT), (OFT, {}), ({"additional_target": "norm"}, {})],
)
def test_adapters_are_stacked(first: dict[str, Any], second: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    adapter_at(one, tiny_model, **first)
    expected = adapter_at(two, tiny_model, one, create_new_adapter=True, **second)
    merged, _ = exported(tmp_path, tiny_model, one, two)
    assert apart(logits_of(AutoModelForCausalLM.from_pretrained(merged)), expected) < TOLERANCE
    job = ChatJob.from_values({"adapter_name_or_path": [str(one), str(two)]})
    for dtype, allowed in ((torch.float32, TOLERANCE), (torch.bfloat16, 0.02)):
        base = load_model(tiny_model, job, dtype, "cpu")
        assert apart(logits_of(apply_adapters(base, job.adapters)).float(), expected) < allowed


def test_the_last_adapter_is_continued(tiny_model: Path, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    adapter_at(one, tiny_model, lora_rank=4)
    before = adapter_at(two, tiny_model, one, create_new_adapter=True, lora_rank=2)
    continued = begin(job_of(tiny_model, adapter_name_or_path=[str(one), str(two)], lora_rank=16))
    assert continued.peft_config["default"].r == 2, "it keeps its own rank"
    assert apart(logits_of(continued), before) < TOLERANCE
    expected = learn(continued)
    assert apart(expected, before) > 100 * TOLERANCE
    continued.save_pretrained(three)
    merged, _ = exported(tmp_path, tiny_model, one, three)
    assert apart(logits_of(AutoModelForCausalLM.from_pretrained(merged)), expected) < TOLERANCE


def test_an_adapter_in_a_folder_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    expected = adapter_at(tmp_path / "run" / "inside", tiny_model)
    merged, _ = exported(tmp_path, tiny_model, tmp_path / "run", adapter_folder="inside")
    assert apart(logits_of(AutoModelForCausalLM.from_pretrained(merged)), expected) < TOLERANCE
    job = job_of(tiny_model, adapter_name_or_path=str(tmp_path / "run"), adapter_folder="inside")
    assert apart(logits_of(begin(job)), expected) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"lora_target": "q_proj,nothing"}, "lora_target_unknown"),
        ({"additional_target": "nothing"}, "freeze_module_unknown"),
        ({"finetuning_type": "oft", "oft_target": "nothing"}, "lora_target_unknown"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 3}, "freeze_layers_out_of_range"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 0}, "freeze_layers_out_of_range"),
        ({"finetuning_type": "freeze", "freeze_trainable_modules": "norm"}, "freeze_module_unknown"),
        ({"finetuning_type": "freeze", "freeze_extra_modules": "nothing"}, "freeze_module_unknown"),
        ({"finetuning_type": "oft", "adapter_name_or_path": "lora"}, "adapter_of_another_kind"),
        ({"adapter_name_or_path": "pissa"}, "adapter_changes_base"),
        ({"adapter_name_or_path": "nowhere"}, "adapter_missing"),
    ],
)
def test_what_does_not_fit_the_model(options: dict[str, Any], key: str, tiny_model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, start in (("lora", True), ("pissa", "pissa_niter_4")):
        Path(name).mkdir()
        Path(name, "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "init_lora_weights": start}))
    with pytest.raises(UserError) as caught:
        begin(job_of(tiny_model, **options))
    assert caught.value.key == key
    assert caught.value.text()


def test_llama_pro_needs_layers_that_divide() -> None:
    job = job_of(Path("x"), finetuning_type="freeze", freeze_trainable_layers=4, use_llama_pro=True)
    with pytest.raises(UserError, match="1, 2, 3, 5, 6, 10, 15, 30"):
        trained_layers(job, 30)


def test_added_layers_change_nothing_until_they_are_trained(tiny_model: Path, tmp_path: Path) -> None:
    grown, result = exported(tmp_path, tiny_model, expand_layers=2)
    model = AutoModelForCausalLM.from_pretrained(grown)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert len(model.model.layers) == model.config.num_hidden_layers == 4
    assert apart(logits_of(model), logits_of(base)) < 1e-6
    assert result["verified"]["tensors_changed"] == 4  # o_proj and down_proj of two layers
    for copy, source in ((0, 0), (1, 0), (2, 1), (3, 1)):
        new, old = model.model.layers[copy].self_attn.q_proj.weight, base.model.layers[source].self_attn.q_proj.weight
        assert torch.equal(new, old)
    job = job_of(grown, finetuning_type="freeze", freeze_trainable_layers=2, use_llama_pro=True)
    trained = begin(job)
    learn(trained)
    for number, layer in enumerate(trained.model.layers):
        is_changed = not torch.equal(layer.mlp.down_proj.weight, model.model.layers[number].mlp.down_proj.weight)
        assert is_changed == (number in (1, 3))


def test_layers_that_cannot_be_added(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        exported(tmp_path, tiny_model, expand_layers=3)
    assert caught.value.key == "expand_indivisible" and "1, 2" in caught.value.text()
    assert not (tmp_path / "merged").exists()
