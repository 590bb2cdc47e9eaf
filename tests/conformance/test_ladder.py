"""Answers at every save: those of the checkpoint itself, and a training that does not notice them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.errors import Refused  # noqa: E402
from engine.options.command import job_from, parse, preview  # noqa: E402
from engine.options.jobs import TrainJob  # noqa: E402
from engine.runs.folder import Folder  # noqa: E402
from engine.runs.ladder import read_ladder  # noqa: E402
from engine.runs.progress import watch  # noqa: E402
from engine.runs.record import Recorder, append_line, update_state, write_job  # noqa: E402
from engine.work.ladder import undisturbed  # noqa: E402
from engine.work.train import run  # noqa: E402
from terminal.runs import runs  # noqa: E402

OPTIONS = {
    "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 5e-2,
    "logging_steps": 1, "save_steps": 2, "lora_dropout": 0.3, "plot_loss": False, "preprocessing_num_workers": 1,
    "cutoff_len": 64, "neftune_noise_alpha": 5.0,
}  # fmt: skip
TOKENS = 9
PROMPTS = "Say 3, please\nWho are you?"


@pytest.fixture
def train(workplace, tiny_model, monkeypatch):
    monkeypatch.setattr("engine.work.ladder.MOST_TOKENS", TOKENS)
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(15)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")

    def do(name: str, **options) -> Folder:
        given = {
            **OPTIONS,
            "model_name_or_path": str(tiny_model),
            "dataset": "rows.json",
            "output_dir": f"saves/{name}",
        }
        job = TrainJob.from_values({**given, **options})
        folder = Folder(Path(job.output_dir))
        folder.path.mkdir(parents=True, exist_ok=True)
        write_job(folder, job, "en")
        update_state(folder, kind="train", status="running")
        update_state(folder, status="done", result=run(job, Recorder(folder)))
        return folder

    return do


@pytest.mark.parametrize("kind", [{"disable_gradient_checkpointing": False}, {"finetuning_type": "full"}], ids=str)
def test_training_is_the_same_with_and_without(train, kind, tiny_model):
    without, with_it = train("without", **kind), train("with", **kind, ladder_prompts=PROMPTS)
    assert watch(with_it).curves["loss"] == watch(without).curves["loss"] and len(watch(without).curves["loss"]) == 6
    for name in ("optimizer.pt", "rng_state.pth"):
        one, other = ((folder.path / "checkpoint-6" / name).read_bytes() for folder in (without, with_it))
        assert one == other, name
    assert not without.ladder.exists() and watch(with_it).warnings == ()
    ladder = read_ladder(with_it)
    assert ladder.prompts == tuple(PROMPTS.splitlines()) and ladder.steps == (2, 4, 6)
    assert len(ladder.answers) == 6


def test_the_answers_are_those_of_the_checkpoint(train, tiny_model):
    """Against plain transformers and peft: the checkpoint loaded anew, and its own ``generate``."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = train("one", ladder_prompts=PROMPTS)
    ladder = read_ladder(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for step in (2, 6):
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, folder.path / f"checkpoint-{step}").eval()
        for prompt in ladder.prompts:
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            made = model.generate(**ids, do_sample=False, max_new_tokens=TOKENS)[0, ids["input_ids"].shape[1] :]
            assert ladder.answers[prompt, step] == tokenizer.decode(made, skip_special_tokens=True)


def test_every_part_of_a_model_is_left_as_it_was():
    class Model(torch.nn.Sequential):
        device = torch.device("cpu")

    model = Model(torch.nn.Linear(2, 2), torch.nn.Dropout())
    model[1].eval()
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="x"), undisturbed(model):
        assert not any(module.training for module in model.modules())
        torch.rand(3)
        raise ValueError("x")
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_where_it_cannot_be_done_training_goes_on(train, monkeypatch):
    def out_of_memory(*given, **named):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("engine.work.ladder.generate", out_of_memory)
    folder = train("one", ladder_prompts=PROMPTS)
    ((key, facts),) = watch(folder).warnings
    assert key == "ladder_failed" and "out of memory" in facts["detail"] and watch(folder).step == 6
    assert read_ladder(folder) is None


def test_a_text_to_continue_is_not_made_a_question(train, tiny_model, monkeypatch):
    from transformers import AutoTokenizer

    Path("lines.txt").write_text("".join(f"number {n} number {n + 1}\n" for n in range(40)))
    seen = []

    def answer(model, prompt, *given, **named):
        seen.append(prompt)
        return iter(())

    monkeypatch.setattr("engine.work.ladder.generate", answer)
    folder = train("pt", stage="pt", dataset="lines.txt", ladder_prompts="number 3 number")
    assert read_ladder(folder).steps == (2, 4, 6)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert {tokenizer.decode(prompt) for prompt in seen} == {"number 3 number"}


def test_it_is_shown_as_it_was_written_last(workplace, capsys):
    from webui.ladder import MOST_STEPS, ladder_table, shown_steps

    folder = Folder(Path("saves/one"))
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob(dataset=("identity",)), "en")
    update_state(folder, kind="train", status="done")
    assert ladder_table(folder, "en") == ""
    for step, answer in ((5, "first"), (10, "two\nlines"), (10, "<b>anew</b>")):
        append_line(folder.ladder, {"step": step, "prompt": "Who?", "answer": answer})
    with folder.ladder.open("ab") as file:
        file.write(b'{"step": 15, "prom')
    assert runs(["show", "one"], "en") == 0
    shown = capsys.readouterr().out
    assert "> Who?" in shown and "     5  first" in shown and "    10  <b>anew</b>" in shown and "two" not in shown
    html = ladder_table(folder, "en")
    assert "&lt;b&gt;anew" in html and "<b>" not in html and "Step 5" in html
    many = tuple(range(100))
    assert len(shown_steps(many)) == MOST_STEPS and shown_steps(many)[0] == 0 and shown_steps(many)[-1] == 99


def test_how_it_is_said():
    given = {"dataset": "identity", "ladder_prompts": ["Hello, you", 'and it\'s "you"?']}
    job = TrainJob.from_values(given)
    assert job.ladder == ("Hello, you", 'and it\'s "you"?')
    import shlex

    assert parse(TrainJob, shlex.split(preview(job).replace("\\\n", ""))[3:]).job.ladder == job.ladder
    assert TrainJob.from_values({**given, "stage": "rm"}).ladder == ()
    with pytest.raises(Refused) as refused:
        job_from(TrainJob, {**given, "parallel": "fsdp2"})
    assert "ladder_sharded" in [problem.key for problem in refused.value.problems]
