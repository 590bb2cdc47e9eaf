"""Quantized bases: the numbers they hold, what is learned beside them, and that a merge goes onto the whole weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.errors import Refused, UserError
from engine.options.command import job_from
from engine.options.jobs import ChatJob, ExportJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work import export
from engine.work.adapters import make_trainable
from engine.work.generate import load_for_answers
from engine.work.load import load_model, load_tokenizer
from engine.work.stages import model_of
from engine.work.train import count_parameters

bitsandbytes = pytest.importorskip("bitsandbytes")

INPUT_IDS = torch.arange(1000, 1024).reshape(2, 12)
BLOCK = 64
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [sign * value for value in (0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1) for sign in (1, -1)]


def job_of(model: Path, **options: Any) -> TrainJob:
    return job_from(TrainJob, {"model_name_or_path": str(model), "dataset": "identity", **options}).job


def begin(job: TrainJob) -> Any:
    torch.manual_seed(1)
    return make_trainable(load_model(job.model_name_or_path, job, torch.float32, "cpu"), job)


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=INPUT_IDS).logits


def learn(model: Any, steps: int = 4) -> list[float]:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model.train()(input_ids=INPUT_IDS, labels=INPUT_IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def nearest(weight: Tensor, code: list[float]) -> Tensor:
    """Every 64 numbers share the largest of them as their scale; each becomes the nearest number of the code."""
    values = torch.tensor(code)
    blocks = weight.reshape(-1, BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    chosen = (blocks / scale).unsqueeze(-1).sub(values).abs().argmin(dim=-1)
    return (values[chosen] * scale).reshape(weight.shape)


@pytest.mark.parametrize(("kind", "code"), [("nf4", NF4), ("fp4", FP4)])
def test_four_bits_are_the_nearest_number_of_their_code(kind: str, code: list[float], tiny_model: Path) -> None:
    job = job_of(tiny_model, quantization_bit=4, quantization_type=kind, double_quantization=False)
    model = load_model(tiny_model, job, torch.float32, "cpu")
    weights = load_file(tiny_model / "model.safetensors")
    layer = model.model.layers[1].mlp.down_proj
    found = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    expected = nearest(weights["model.layers.1.mlp.down_proj.weight"], code)
    # a number just between two of the code may go either way
    assert float(((found - expected).abs() > 1e-6).float().mean()) < 0.002
    assert model.lm_head.weight.dtype == model.model.norm.weight.dtype == torch.float32


def test_eight_bits_are_rounded_by_rows(tiny_model: Path) -> None:
    model = load_model(tiny_model, job_of(tiny_model, quantization_bit=8), torch.float32, "cpu")
    weight = load_file(tiny_model / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    scale = weight.abs().amax(dim=1, keepdim=True)
    found = model.model.layers[0].self_attn.q_proj.weight
    assert found.dtype == torch.int8
    assert float((found.float() - weight * 127 / scale).abs().max()) < 0.56  # float16 on the way costs some


def test_double_quantization_holds_the_scales_in_fewer_bits(tiny_model: Path) -> None:
    for is_double in (True, False):
        job = job_of(tiny_model, quantization_bit="4", double_quantization=is_double)
        state = load_model(tiny_model, job, torch.float32, "cpu").model.layers[0].mlp.up_proj.weight.quant_state
        assert state.nested is is_double
        assert state.absmax.dtype == (torch.uint8 if is_double else torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"quantization_bit": 4}, {"quantization_bit": 8}, {"quantization_bit": 4, "use_dora": True},
        {"quantization_bit": 4, "finetuning_type": "oft", "oft_block_size": 8},
    ],
    ids=["4", "8", "dora", "oft"],
)  # fmt: skip
def test_what_is_learned_merges_into_the_whole_weights(
    options: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    model = begin(job_of(tiny_model, **options))
    before = {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}
    losses = learn(model)
    assert losses[-1] < losses[0]
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters() if name in before)
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {torch.float32}
    expected = logits_of(model)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "run").mkdir()
    recorder = Recorder(Folder(tmp_path / "run"))

    bits = options["quantization_bit"]
    chat = job_from(ChatJob, {"model_name_or_path": str(tiny_model), "adapter_name_or_path": str(tmp_path / "adapter"),
                              "quantization_bit": bits, "infer_dtype": "float32"}).job  # fmt: skip
    answers = load_for_answers(chat, recorder)
    assert float((logits_of(answers._model) - expected).abs().max()) < 1e-4, "the adapter stays beside a quantized base"

    values = {"model_name_or_path": str(tiny_model), "adapter_name_or_path": str(tmp_path / "adapter"),
              "export_dir": str(tmp_path / "merged")}  # fmt: skip
    result = export.run(ExportJob.from_values(values), recorder)
    assert result["dtype"] == "float32"
    merged, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", tiny_model))
    if options.keys() == {"quantization_bit"}:
        adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        for name, a in adapter.items():
            if ".lora_A." in name:
                target = name.removeprefix("base_model.model.").replace(".lora_A", "")
                update = 2.0 * adapter[name.replace("lora_A", "lora_B")] @ a  # alpha / rank is 2 by default
                torch.testing.assert_close(merged[target], base[target] + update, rtol=1e-6, atol=1e-6)
    found = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    plain = logits_of(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert float((found - expected).abs().max()) < 0.5 * float((plain - expected).abs().max()), "nearer than the base"


def test_a_quantized_adapter_is_continued(tiny_model: Path, tmp_path: Path) -> None:
    model = begin(job_of(tiny_model, quantization_bit=4))
    learn(model)
    expected = logits_of(model)
    model.save_pretrained(tmp_path / "adapter")
    again = begin(job_of(tiny_model, quantization_bit=4, adapter_name_or_path=str(tmp_path / "adapter")))
    assert float((logits_of(again) - expected).abs().max()) < 1e-5
    assert learn(again)[-1] < learn(begin(job_of(tiny_model, quantization_bit=4)))[-1]


@pytest.mark.parametrize("bits", [4, 8])
def test_it_trains_as_training_prepares_it(bits: int, tiny_model: Path) -> None:
    """With every speed-up that training puts in; the same model without them is the reference."""
    job = job_of(tiny_model, quantization_bit=bits)
    torch.manual_seed(1)
    prepared = model_of(tiny_model, job, "float32", "float32", "cpu", load_tokenizer(tiny_model, job))
    assert learn(prepared) == pytest.approx(learn(begin(job)), abs=1e-3)


def test_numbers_that_share_a_byte_are_counted(tiny_model: Path) -> None:
    counts = [
        count_parameters(load_model(tiny_model, job_of(tiny_model, quantization_bit=bits), torch.float32, "cpu"))["all"]
        for bits in (None, 8, 4)
    ]
    assert len(set(counts)) == 1


def test_it_takes_less_memory(tiny_model: Path) -> None:
    sizes = {}
    for bits in (None, 8, 4):
        model = load_model(tiny_model, job_of(tiny_model, quantization_bit=bits), torch.float32, "cpu")
        sizes[bits] = sum(each.numel() * each.element_size() for each in model.model.layers.parameters())
    assert sizes[8] < 0.27 * sizes[None] and sizes[4] < 0.14 * sizes[None]


@pytest.mark.parametrize(
    ("values", "option", "key"),
    [
        ({"finetuning_type": "full"}, "quantization_bit", "quantization_needs_lora"),
        ({"finetuning_type": "freeze"}, "quantization_bit", "quantization_needs_lora"),
        ({"pissa_init": True}, "pissa_init", "quantization_and_pissa"),
        ({"resize_vocab": True}, "quantization_bit", "quantization_and_vocabulary"),
        ({"add_tokens": "a"}, "quantization_bit", "quantization_and_vocabulary"),
        (
            {"adapter_name_or_path": "a", "create_new_adapter": True},
            "create_new_adapter",
            "quantization_and_new_adapter",
        ),
        ({"adapter_name_or_path": "a,b"}, "adapter_name_or_path", "quantization_and_adapters"),
        ({"quantization_method": "hqq"}, "quantization_method", "quantization_method"),
        ({"quantization_method": "eetq"}, "quantization_method", "quantization_method"),
        ({"quantization_device_map": "auto"}, "quantization_device_map", "quantization_device_map"),
    ],
)
def test_what_does_not_go_with_it(values: dict[str, Any], option: str, key: str) -> None:
    with pytest.raises(Refused) as caught:
        job_of(Path("x"), quantization_bit=4, **values)
    assert [(problem.option, problem.key) for problem in caught.value.problems] == [(option, key)]
    assert caught.value.text()


def test_spellings_of_the_reference(tiny_model: Path) -> None:
    for said in (4, "4"):
        assert job_of(tiny_model, quantization_bit=said, quantization_method="bitsandbytes").quantization_bit == "4"
    assert job_of(tiny_model, quantization_bit="none").quantization_bit is None
    for wrong in (3, "five", True):
        with pytest.raises(Refused):
            job_of(tiny_model, quantization_bit=wrong)


def test_two_adapters_cannot_answer_beside_a_quantized_base(tiny_model: Path) -> None:
    with pytest.raises(Refused) as caught:
        job_from(ChatJob, {"model_name_or_path": str(tiny_model), "quantization_bit": 4, "adapter_name_or_path": "a,b"})
    assert [problem.key for problem in caught.value.problems] == ["quantization_and_adapters"]


def test_without_bitsandbytes_it_is_said(tiny_model: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError) as caught:
        load_model(tiny_model, job_of(tiny_model, quantization_bit=4), torch.float32, "cpu")
    assert caught.value.key == "quantization_missing" and caught.value.text()


def test_a_base_that_is_quantized_already(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "base", job_of(tmp_path / "base", quantization_bit=4), torch.float32, "cpu")
    assert caught.value.key == "quantization_twice" and "gptq" in caught.value.text()
