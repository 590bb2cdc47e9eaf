"""New tokens: their rows begin as the formulas say, are trained, and go with the adapter into chat and merged model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from engine.errors import UserError
from engine.options.jobs import ChatJob, ExportJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work import export
from engine.work.adapters import make_trainable
from engine.work.generate import load_for_answers
from engine.work.load import apply_adapters, load_model, load_tokenizer

DESCRIPTIONS = {"<|svg|>": "Marks the beginning of an SVG document", "<|end|>": "Ends a group element"}
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def untied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output layer of its own."""
    folder = tmp_path_factory.mktemp("models") / "untied"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=False)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    return folder


@pytest.fixture
def described(tmp_path: Path) -> str:
    path = tmp_path / "tokens.yaml"
    path.write_text("".join(f'"{token}": "{text}"\n' for token, text in DESCRIPTIONS.items()), encoding="utf-8")
    return str(path)


def job_of(model: Path, **options: Any) -> TrainJob:
    return TrainJob.from_values({"model_name_or_path": str(model), "dataset": "identity", **options})


def begin(job: TrainJob) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(job.model_name_or_path, job)
    torch.manual_seed(3)
    return make_trainable(
        load_model(job.model_name_or_path, job, torch.float32, "cpu"), job, tokenizer=tokenizer
    ), tokenizer


def learn(model: Any, ids: torch.Tensor, steps: int = 3) -> torch.Tensor:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    for _ in range(steps):
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return logits_of(model, ids)


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def rows_of(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("finetuning_type", ["lora", "freeze", "full"])
def test_new_tokens_are_trained_and_stay(finetuning_type, is_tied, tiny_model, untied_model, tmp_path: Path) -> None:
    folder = tiny_model if is_tied else untied_model
    job = job_of(folder, finetuning_type=finetuning_type, freeze_trainable_layers=1, add_tokens="qwertz,Grünkohl",
                 add_special_tokens="<tool>", lora_rank=4)  # fmt: skip
    model, tokenizer = begin(job)
    ids = tokenizer("Say qwertz and <tool>Grünkohl</tool>", return_tensors="pt").input_ids
    assert {49152, 49153, 49154} <= set(ids.flatten().tolist())
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 49155
    assert (rows_of(model)[0].data_ptr() == rows_of(model)[1].data_ptr()) == is_tied
    before = [each.clone() for each in rows_of(model)]
    expected = learn(model, ids)
    for old, new in zip(before, rows_of(model), strict=True):
        assert not torch.equal(old[-3:], new[-3:]), "the new rows were not trained"

    result = tmp_path / "result"
    model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    adapters = [str(result)] if finetuning_type == "lora" else []
    base = str(folder) if adapters else str(result)
    chat = ChatJob.from_values({"model_name_or_path": base, "adapter_name_or_path": adapters, "infer_dtype": "float32"})
    (tmp_path / "run").mkdir()
    answers = load_for_answers(chat, Recorder(Folder(tmp_path / "run")))
    assert torch.equal(answers._tokenizer("Say qwertz and <tool>Grünkohl</tool>", return_tensors="pt").input_ids, ids)
    assert answers._tokenizer.decode(49154, skip_special_tokens=True) == ""
    assert float((logits_of(answers._model, ids) - expected).abs().max()) < TOLERANCE

    values = {"model_name_or_path": base, "adapter_name_or_path": adapters, "export_dir": str(tmp_path / "merged")}
    export.run(ExportJob.from_values(values), Recorder(Folder(tmp_path / "run")))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert float((logits_of(merged, ids) - expected).abs().max()) < TOLERANCE
    assert merged.config.vocab_size == 49155
    assert merged.config.tie_word_embeddings == is_tied
    assert ("lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")) == is_tied
    again = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert again.convert_tokens_to_ids(["qwertz", "Grünkohl", "<tool>"]) == [49152, 49153, 49154]


def test_a_description_gives_the_first_row(untied_model: Path, described: str) -> None:
    plain = LlamaForCausalLM.from_pretrained(untied_model)
    model, tokenizer = begin(
        job_of(
            untied_model, finetuning_type="full", new_special_tokens_config=described, init_special_tokens="desc_init"
        )
    )
    words = AutoTokenizer.from_pretrained(untied_model)
    for old, new in zip(rows_of(plain), rows_of(model), strict=True):
        assert torch.equal(new[:49152], old), "the other rows stay as they are"
        for token, text in DESCRIPTIONS.items():
            expected = torch.stack([old[number] for number in words.encode(text)]).mean(dim=0)
            torch.testing.assert_close(new[tokenizer.convert_tokens_to_ids(token)], expected)
    numbers = tokenizer.convert_tokens_to_ids(list(DESCRIPTIONS))
    assert all(tokenizer.added_tokens_decoder[number].special for number in numbers)


@pytest.mark.parametrize("kind", ["noise_init", "desc_init_w_noise"])
def test_noise_has_the_deviation_of_one_row(kind: str, untied_model: Path, described: str) -> None:
    plain = LlamaForCausalLM.from_pretrained(untied_model)
    many = ",".join(f"<token{number}>" for number in range(200))
    job = job_of(untied_model, finetuning_type="full", new_special_tokens_config=described, add_tokens=many,
                 init_special_tokens=kind)  # fmt: skip
    model, tokenizer = begin(job)
    old, new = rows_of(plain)[0], rows_of(model)[0]
    noise = new[tokenizer.convert_tokens_to_ids([f"<token{number}>" for number in range(200)])] - old.mean(dim=0)
    assert float(noise.std()) == pytest.approx(1 / math.sqrt(64), rel=0.03)
    assert abs(float(noise.mean())) < 0.01
    words = AutoTokenizer.from_pretrained(untied_model).encode(DESCRIPTIONS["<|svg|>"])
    start = old[words].mean(dim=0) if kind == "desc_init_w_noise" else old.mean(dim=0)
    assert float((new[tokenizer.convert_tokens_to_ids("<|svg|>")] - start).std()) == pytest.approx(1 / 8, rel=0.4)


def test_a_token_that_exists_keeps_its_row(tiny_model: Path) -> None:
    plain = LlamaForCausalLM.from_pretrained(tiny_model)
    model, tokenizer = begin(job_of(tiny_model, finetuning_type="full", add_special_tokens="<|im_start|>"))
    assert len(tokenizer) == 49152
    assert torch.equal(rows_of(model)[0], rows_of(plain)[0])


def test_spare_rows_are_used_before_new_ones(tiny_model: Path, tmp_path: Path) -> None:
    plain = LlamaForCausalLM.from_pretrained(tiny_model)
    plain.resize_token_embeddings(49200, mean_resizing=False)
    plain.get_input_embeddings().weight.data[49152:] = 0
    plain.save_pretrained(tmp_path / "spare")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "spare")
    model, tokenizer = begin(job_of(tmp_path / "spare", add_tokens="qwertz"))
    ids = tokenizer("qwertz", return_tensors="pt").input_ids
    rows = rows_of(model)[0]
    assert rows.shape[0] == 49200
    assert rows[49152].abs().sum() > 0 and rows[49153:].abs().sum() == 0
    expected = learn(model, ids)
    model.save_pretrained(tmp_path / "adapter")
    base = load_model(tmp_path / "spare", ChatJob(), torch.float32, "cpu")
    again = apply_adapters(base, (str(tmp_path / "adapter"),))
    assert float((logits_of(again, ids) - expected).abs().max()) < TOLERANCE


def test_resize_vocab_trains_the_embeddings(tiny_model: Path, untied_model: Path) -> None:
    for folder, expected in ((tiny_model, {"embed_tokens"}), (untied_model, {"embed_tokens", "lm_head"})):
        model, _ = begin(job_of(folder, resize_vocab=True))
        assert trained_whole(model) == expected
        model, _ = begin(job_of(folder, resize_vocab=True, additional_target="norm"))
        assert trained_whole(model) == {"norm"}


def trained_whole(model: Any) -> set[str]:
    """Modules that are trained and are no LoRA; of tied ones the first."""
    names = [name for name, each in model.named_parameters() if each.requires_grad and ".lora_" not in name]
    return {name.partition(".modules_to_save.")[0].rpartition(".")[2] for name in names}


def test_tokens_on_top_of_an_earlier_adapter(tiny_model: Path, tmp_path: Path) -> None:
    one, tokenizer = begin(job_of(tiny_model, add_tokens="qwertz"))
    ids = tokenizer("qwertz", return_tensors="pt").input_ids
    before = learn(one, ids)
    one.save_pretrained(tmp_path / "one")
    tokenizer.save_pretrained(tmp_path / "one")
    two, tokenizer = begin(job_of(tiny_model, adapter_name_or_path=str(tmp_path / "one"), add_tokens="asdf",
                                  create_new_adapter=True))  # fmt: skip
    assert tokenizer("qwertz asdf").input_ids[0] == 49152 and len(tokenizer) == 49154
    assert float((logits_of(two, ids)[..., :49153] - before).abs().max()) < TOLERANCE
    ids = tokenizer("qwertz asdf", return_tensors="pt").input_ids
    expected = learn(two, ids)
    two.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    base = load_model(tiny_model, ChatJob(), torch.float32, "cpu")
    assert float((logits_of(apply_adapters(base, tuple(both)), ids) - expected).abs().max()) < TOLERANCE
    (tmp_path / "run").mkdir()
    values = {"model_name_or_path": str(tiny_model), "adapter_name_or_path": both, "export_dir": str(tmp_path / "out")}
    export.run(ExportJob.from_values(values), Recorder(Folder(tmp_path / "run")))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float((logits_of(merged, ids) - expected).abs().max()) < TOLERANCE
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 49154


@pytest.mark.parametrize(
    ("text", "key"), [("", "file_no_mapping"), ("- a\n", "file_no_mapping"), ("a:\n", "descriptions_empty")]
)
def test_a_file_without_tokens(text: str, key: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        begin(job_of(tiny_model, new_special_tokens_config=str(tmp_path / "tokens.yaml")))
    assert caught.value.key == key


def test_a_continued_adapter_takes_no_new_tokens(tiny_model: Path, tmp_path: Path) -> None:
    one, tokenizer = begin(job_of(tiny_model, add_tokens="qwertz"))
    one.save_pretrained(tmp_path / "one")
    tokenizer.save_pretrained(tmp_path / "one")
    again, _ = begin(job_of(tiny_model, adapter_name_or_path=str(tmp_path / "one"), add_tokens="qwertz"))
    assert torch.equal(rows_of(again)[0], rows_of(one)[0]), "tokens that it has already are nothing new"
    with pytest.raises(UserError) as caught:
        begin(job_of(tiny_model, adapter_name_or_path=str(tmp_path / "one"), add_tokens="asdf"))
    assert caught.value.key == "tokens_need_new_adapter" and caught.value.text()
