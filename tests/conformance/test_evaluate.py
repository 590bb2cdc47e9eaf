"""An evaluation against plain loops over transformers, and against itself: killed and gone on with, or run again."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel  # noqa: E402

from engine.options.jobs import EvalJob  # noqa: E402
from engine.runs.folder import Folder  # noqa: E402
from engine.runs.record import Recorder, append_line  # noqa: E402
from engine.work import evaluate  # noqa: E402
from engine.work.batched_answers import answer_all  # noqa: E402
from engine.work.kept_lines import KeptLines  # noqa: E402

ROWS = [
    {"instruction": "Say it in French.", "input": "Good morning", "output": "Bonjour"},
    {
        "instruction": "Name three colours, and say which of them you like best and why.",
        "output": "Red, blue and grey.",
    },
    {"instruction": "2 + 2?", "output": "The answer is 4"},
    {"instruction": "用中文打招呼。", "output": "你好，很高兴认识你！"},
    {"instruction": "Go on.", "history": [["Count.", "1, 2"]], "system": "Be short.", "output": "3, 4, 5, 6, 7, 8, 9"},
]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.fixture
def measure(tmp_path: Path, tiny_model: Path, rows: str, workplace: Path):
    def run(name: str, **options) -> tuple[dict, list[dict], Folder]:
        folder = Folder(tmp_path / "saves" / name)
        folder.path.mkdir(parents=True, exist_ok=True)
        asked = {"model_name_or_path": str(tiny_model), "dataset": rows, "max_new_tokens": 12,
                 "per_device_eval_batch_size": 2, **options}  # fmt: skip
        result = evaluate.run(EvalJob.from_values(asked), Recorder(folder))
        lines = folder.predictions.read_text(encoding="utf-8").splitlines() if folder.predictions.is_file() else []
        return result["metrics"], [json.loads(line) for line in lines], folder

    return run


@pytest.fixture(scope="module")
def plain(tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval(), tokenizer


def conversation(row: dict) -> list[dict]:
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for question, answer in row.get("history", []):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = "\n".join(filter(None, (row["instruction"], row.get("input"))))
    return [*turns, {"role": "user", "content": question}]


def test_loss_and_perplexity_are_those_of_a_plain_loop(measure, plain):
    model, tokenizer = plain
    total = count = 0
    for row in ROWS:
        before = conversation(row)
        prompt = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(
            [*before, {"role": "assistant", "content": row["output"]}], tokenize=False
        )
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        end = len(tokenizer(whole.rstrip("\n"), add_special_tokens=False)["input_ids"])
        ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, :start] = -100
        learned = ids.shape[1] - start
        assert end <= ids.shape[1]
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * learned
        count += learned
    metrics, _, folder = measure("loss", do_predict=False, mask_history=True)
    assert metrics["eval_tokens"] == count
    assert metrics["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert not folder.predictions.exists()
    assert json.loads(folder.results.read_text()) == metrics


def test_answers_of_batches_are_those_of_one_at_a_time(measure, plain):
    model, tokenizer = plain
    _, lines, _ = measure("greedy", do_eval=False)
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["row"] for line in lines] == [1, 2, 3, 4, 5]
    assert len({len(line["prompt"]) for line in lines}) > 3, "rows of unlike lengths share a batch"
    config = GenerationConfig(
        do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    for row, line in zip(ROWS, lines, strict=True):
        text = tokenizer.apply_chat_template(conversation(row), tokenize=False, add_generation_prompt=True)
        assert line["prompt"] == text and line["label"] == row["output"]
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        written = model.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :]
        assert line["predict"] == tokenizer.decode(written, skip_special_tokens=True)


@pytest.fixture
def gpt2():
    """Has 32 positions and not one more."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()


def test_a_prompt_that_nearly_fills_the_room_ends_none_but_its_own_answer(gpt2):
    prompts, sampling = [[*range(1, 31)], [1, 2, 3], [4, 5]], EvalJob(dataset="x", max_new_tokens=12)
    given = (SimpleNamespace(pad_token_id=0), sampling, frozenset({64}), 32, 0)
    together = answer_all(gpt2, prompts, *given)
    assert [len(answer) for answer in together] == [2, 12, 12]
    assert together == [answer_all(gpt2, [each], *given)[0] for each in prompts]


def test_an_adapter_is_measured_as_peft_applies_it(measure, plain, tiny_model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "adapter")
    _, tokenizer = plain
    metrics, lines, _ = measure("tuned", adapter_name_or_path=str(tmp_path / "adapter"))
    assert abs(metrics["eval_loss"] - measure("base", do_predict=False)[0]["eval_loss"]) > 1e-3
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "adapter").eval()
    for row, line in zip(ROWS, lines, strict=True):
        prompt = tokenizer(line["prompt"], add_special_tokens=False)["input_ids"]
        turns = [*conversation(row), {"role": "assistant", "content": row["output"]}]
        whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        ids = torch.tensor([whole])
        with torch.no_grad():
            logps = tuned(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        if not row.get("history"):  # answers of earlier turns are learned too
            assert line["scores"]["loss"] == pytest.approx(-logps[len(prompt) - 1 :].mean().item(), abs=2e-5)


def test_the_bundled_model_answers_in_batches_as_alone(measure, bundled_model):
    """Whole answers of the real model, whose likeliest tokens are told apart by more than a batch's rounding."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    model = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32).eval()
    _, lines, _ = measure("real", model_name_or_path=str(bundled_model), do_eval=False, max_new_tokens=24,
                          per_device_eval_batch_size=5)  # fmt: skip
    config = GenerationConfig(
        do_sample=False, max_new_tokens=24, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    for line in lines:
        inputs = tokenizer(line["prompt"], add_special_tokens=False, return_tensors="pt")
        written = model.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :]
        assert line["predict"] == tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("sampled", [{}, {"do_sample": True, "temperature": 1.0, "top_p": 1.0}])
def test_killed_and_gone_on_with_is_the_same_as_never_killed(measure, monkeypatch, sampled):
    metrics, lines, folder = measure("whole", **sampled)
    add = KeptLines.add

    def killed(self, written):
        if self._path.name == "generated_predictions.jsonl" and self.lines:
            append_line(self._path, {**written[0], "predict": "half of a batch"})
            with self._path.open("a") as file:
                file.write('{"index": 3, "pred')
            raise KeyboardInterrupt
        add(self, written)

    monkeypatch.setattr(KeptLines, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        measure("killed", **sampled)
    monkeypatch.setattr(KeptLines, "add", add)
    asked = []
    answer_all = evaluate.answer_all
    monkeypatch.setattr(
        evaluate,
        "answer_all",
        lambda model, prompts, *rest: asked.append(len(prompts)) or answer_all(model, prompts, *rest),
    )
    again, after, resumed = measure("killed", **sampled)
    assert asked == [2, 1], "the first batch was not written anew"
    assert (again, after) == (metrics, lines)
    for path in ("predictions", "predict_results", "row_losses", "results"):
        assert getattr(resumed, path).read_bytes() == getattr(folder, path).read_bytes()


def test_run_again_it_gives_the_same_and_with_other_options_not(measure):
    first, lines, _ = measure("again")
    assert (first, lines) == measure("again")[:2]
    assert (first, lines) == measure("elsewhere")[:2]
    metrics, others, _ = measure("again", max_new_tokens=3)
    assert all(line["tokens"] <= 3 for line in others) and others != lines
    assert metrics["eval_loss"] == first["eval_loss"]


def test_held_out_rows_are_those_that_a_training_holds_out(measure, tiny_model, rows, workplace, tmp_path):
    from engine.options.jobs import TrainJob
    from engine.work.dataset import prepare
    from engine.work.load import load_tokenizer

    job = TrainJob.from_values({"model_name_or_path": str(tiny_model), "dataset": rows, "val_size": 2, "seed": 7})
    folder = Folder(tmp_path / "training")
    folder.path.mkdir()
    held_out = prepare(job, load_tokenizer(tiny_model, job), Recorder(folder)).evaluation.table["row"]
    _, lines, _ = measure("held-out", val_size=2, seed=7, do_eval=False)
    assert [line["row"] for line in lines] == list(held_out)


def test_a_prompt_that_is_too_long_loses_its_middle_and_that_is_said(measure):
    _, lines, folder = measure("cut", do_eval=False, cutoff_len=32)
    events = [json.loads(line) for line in folder.events.read_text().splitlines()]
    said = [event["facts"] for event in events if event.get("warning") == "eval.prompts_cut"]
    assert said and said[0]["cutoff"] == 32 and said[0]["rows"] >= 1
    assert len(lines) == len(ROWS)


SOLVED = [["1 + 1?", "2", "3", "4", "5", "A"], ["2 + 1?", "2", "3", "4", "5", "B"]]
ASKED = [
    ["1 + 4?", "2", "3", "4", "5", "D"], ["What is the sum of one and of two?", "2", "3", "4", "5", "B"],
    ["0?", "0", "1", "2", "3", "A"],
]  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation" / "toy"
    for split, questions in (("dev", SOLVED), ("test", ASKED)):
        (folder / "data" / split).mkdir(parents=True)
        for subject in ("sums", "more_sums"):
            with (folder / "data" / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(questions if subject == "sums" else questions[:2])
    (folder / "mapping.json").write_text(json.dumps({"sums": {"name": "Sums", "category": "STEM"}}))
    return folder.parent


def test_choices_are_those_of_a_plain_loop(measure, plain, task):
    model, tokenizer = plain
    metrics, lines, _ = measure("choice", dataset="", task="toy_test", task_dir=str(task), n_shot=1)
    letters = [tokenizer.encode(letter)[-1] for letter in "ABCD"]
    right = []
    for line in [line for line in lines if line["dataset"] == "sums"]:
        question = ASKED[line["row"] - 1]

        def text(each):
            return each[0] + "".join(f"\n{letter}. {each[1 + at]}" for at, letter in enumerate("ABCD")) + "\nAnswer:"

        head = "The following are multiple choice questions (with answers) about Sums.\n\n"
        turns = [
            {"role": "user", "content": head + text(SOLVED[0])}, {"role": "assistant", "content": "A"},
            {"role": "user", "content": text(question)},
        ]  # fmt: skip
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            wanted = model(ids).logits[0, -1, letters].softmax(dim=-1)
        assert line["prompt"] == prompt
        assert list(line["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=2e-6)
        assert line["predict"] == "ABCD"[wanted.argmax()]
        right.append(line["predict"] == question[-1])
    assert metrics["accuracy_of_subjects"]["sums"] == pytest.approx(100 * sum(right) / 3, abs=1e-4)
    assert metrics["samples"] == 5 and set(metrics["accuracy_of_categories"]) == {"STEM", "Other"}
    everything = [line["predict"] == line["label"] for line in lines]
    assert metrics["accuracy"] == pytest.approx(100 * sum(everything) / 5, abs=1e-4)
