"""Chat for real: worker processes, a tiny random model where seconds matter, the bundled one where truth does.

Reference for tokens: transformers' own ``generate``; for text: the tokenizer's ``decode`` of the whole answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs import chat
from engine.runs.read import is_alive, read_state

PROJECT = Path(__file__).resolve().parent.parent.parent
LOAD_S = 300
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def ask(folder, messages=FRANCE, **options):
    found = list(chat.answer(folder, messages, **options))
    return "".join(piece.text for piece in found), found[-1]


@pytest.fixture
def started(workplace):
    """Starts chat workers, and ends what is left of them."""
    folders = []

    def start(**options):
        folders.append(chat.load(ChatJob(**options), owner_pid=os.getpid()))
        return folders[-1]

    yield start
    for folder in folders:
        chat.unload(folder)


def test_a_worker_from_loading_to_unloading(started, tiny_model):
    folder = started(model_name_or_path=str(tiny_model), infer_dtype="float32")
    chat.wait_until_ready(folder, LOAD_S)
    assert chat.is_ready(folder)
    state = read_state(folder)
    assert state.result["dtype"] == "float32" and state.result["context_length"] == 2048
    first, last = ask(folder, max_new_tokens=8, sampling_seed=7)
    assert last.tokens <= 8 and last.prompt_tokens > 8
    assert ask(folder, max_new_tokens=8, sampling_seed=7)[0] == first
    assert ask(folder, max_new_tokens=8, sampling_seed=8)[0] != first

    with pytest.raises(UserError) as caught:
        ask(folder, [{"role": "user", "content": "word " * 3000}])
    assert caught.value.key == "chat.context_overflow" and "2048" in caught.value.text()
    assert ask(folder, max_new_tokens=4)[1].is_last

    answer = chat.answer(folder, FRANCE, max_new_tokens=2000, do_sample=True, temperature=5.0)
    next(answer)
    chat.stop_answer(folder)
    last = list(answer)[-1]
    assert last.finish_reason == "stopped" and last.tokens < 2000

    chat.unload(folder)
    assert not psutil.pid_exists(state.pid) or psutil.Process(state.pid).status() == psutil.STATUS_ZOMBIE
    assert read_state(folder).status == "stopped" and not folder.address.exists()
    with pytest.raises(UserError, match="Load it again"):
        ask(folder)


def test_a_killed_worker_is_told(started, tiny_model):
    folder = started(model_name_or_path=str(tiny_model))
    chat.wait_until_ready(folder, LOAD_S)
    answer = chat.answer(folder, FRANCE, max_new_tokens=2000, temperature=5.0)
    next(answer)
    os.kill(read_state(folder).pid, signal.SIGKILL)
    with pytest.raises(UserError) as caught:
        list(answer)
    assert caught.value.key == "chat.worker_lost"


def test_a_worker_ends_with_its_owner(workplace, tiny_model):
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = chat.load(ChatJob(model_name_or_path=str(tiny_model)), owner_pid=owner.pid)
    chat.wait_until_ready(folder, LOAD_S)
    owner.communicate(b"\n")
    deadline = time.monotonic() + 30
    while is_alive(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read_state(folder).status == "stopped"


def test_a_model_that_cannot_be_read_is_told(started, tiny_model, workplace):
    broken = workplace / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:5000])
    folder = started(model_name_or_path=str(broken))
    with pytest.raises(UserError) as caught:
        chat.wait_until_ready(folder, LOAD_S)
    assert str(broken) in caught.value.text()


def test_a_restarted_page_finds_the_loaded_model(workplace, tiny_model):
    assert chat.loaded() is None
    folder = chat.load(ChatJob(model_name_or_path=str(tiny_model)))
    try:
        assert chat.loaded().path == folder.path
        with pytest.raises(UserError) as caught:
            ask(folder)
        assert caught.value.key == "chat.loading"
    finally:
        chat.unload(folder)
    assert chat.loaded() is None and not is_alive(folder)


def test_tokens_are_those_of_transformers(tiny_model):
    """Greedy, with a repetition penalty, and sampled with the same random numbers: token by token."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from engine.work.generate import end_ids, generate

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = tokenizer("The quick brown fox jumps over the lazy dog")["input_ids"]
    ids = torch.tensor([prompt])
    for options in (
        {"do_sample": False},
        {"temperature": 0},
        {"do_sample": False, "repetition_penalty": 1.3},
        {"temperature": 0.8, "top_p": 0.7, "top_k": 50, "sampling_seed": 5},
        {"temperature": 1.5, "top_p": 1.0, "top_k": 0, "sampling_seed": 6},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 0, "sampling_seed": 7, "repetition_penalty": 1.2},
    ):
        job = ChatJob(**options)
        ours = []
        for token in generate(model, prompt, job, end_ids(model, tokenizer, job)):
            ours.append(token)
            if len(ours) == 24:
                break
        if job.do_sample and job.temperature > 0:
            torch.manual_seed(job.sampling_seed)
            settings = {"do_sample": True, "temperature": job.temperature, "top_k": job.top_k, "top_p": job.top_p}
        else:
            settings = {"do_sample": False}
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, repetition_penalty=job.repetition_penalty,
            **settings,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert ours == [token for token in theirs if token != tokenizer.eos_token_id], options


def test_no_half_character_is_ever_shown(bundled_model):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    from engine.work.generate import TextReader

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    text = " Hello  wörld, 你好世界！ 🙂👩‍👩‍👧 \n\n  안녕 ۝ end"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(text) * 0.8  # most of these characters are cut into several tokens
    reader = TextReader(tokenizer)
    parts = [reader.add(token) for token in ids]
    assert not any("\ufffd" in part for part in parts)
    assert "".join(parts) + reader.finish() == text
    smiley = tokenizer("🙂", add_special_tokens=False)["input_ids"]
    reader = TextReader(tokenizer)
    assert len(smiley) > 1 and [reader.add(token) for token in smiley[:-1]] == [""] * (len(smiley) - 1)
    assert reader.finish() == ""


def test_many_rows_are_multiplied_in_float32():
    torch = pytest.importorskip("torch")
    from engine.work.generate import widen

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32)).to(torch.bfloat16)
    rows = torch.randn(40, 64, dtype=torch.bfloat16)
    exact = torch.nn.functional.linear(rows.double(), model[0].weight.double(), model[0].bias.double())
    widen(model)
    found = model(rows)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))
    assert torch.allclose(model(rows[:1]).double(), exact[:1], rtol=2e-2, atol=2e-2)


def test_the_end_of_a_turn_ends_an_answer(bundled_model):
    """Also where generation_config and tokenizer only name another token, as for many base models."""
    torch = pytest.importorskip("torch")
    from engine.work.generate import end_ids
    from engine.work.load import load_tokenizer

    job = ChatJob()
    tokenizer = load_tokenizer(bundled_model, job)
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|endoftext|>"
    model = torch.nn.Module()
    model.generation_config = type("Config", (), {"eos_token_id": None})()
    assert end_ids(model, tokenizer, job) == {turn, tokenizer.eos_token_id}


def test_the_system_turn_and_the_template(bundled_model):
    pytest.importorskip("torch")
    from engine.work.load import load_tokenizer, render_prompt

    job = ChatJob(system="Be brief.", default_system="ignored", template="chatml")
    tokenizer = load_tokenizer(bundled_model, job)
    text = render_prompt(tokenizer, FRANCE, job)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Mine."}, *FRANCE]
    assert "Be brief" not in render_prompt(tokenizer, own, job) and "Mine." in render_prompt(tokenizer, own, job)
    tokenizer.chat_template = None
    with pytest.raises(UserError) as caught:
        render_prompt(tokenizer, FRANCE, job)
    assert caught.value.key == "template_missing"


@pytest.mark.slow
def test_an_adapter_changes_the_answer_and_its_effect_is_exact(started, tiny_model, workplace):
    """Merged in memory (float32) and beside the weights (bfloat16); two adapters add up, as one merged by hand."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    from engine.work.load import apply_adapters, load_model

    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        adapter = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        paths.append(str(workplace / f"adapter{seed}"))
        adapter.save_pretrained(paths[-1])
    ids = torch.arange(20)[None]
    job = ChatJob(model_name_or_path=str(tiny_model))
    base = load_model(tiny_model, job, torch.float32, "cpu")
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(load_model(tiny_model, job, torch.float32, "cpu"), paths[0])(ids).logits
        assert (plain - expected).abs().max() > 1e-2
        one = apply_adapters(base, (paths[0],))
        assert torch.allclose(one(ids).logits, expected, atol=1e-4)
        by_hand = load_model(tiny_model, job, torch.float32, "cpu")
        for path in paths:
            by_hand = PeftModel.from_pretrained(by_hand, path).merge_and_unload()
        exact = by_hand(ids).logits
        both = apply_adapters(load_model(tiny_model, job, torch.float32, "cpu"), tuple(paths))
        assert torch.allclose(both(ids).logits, exact, atol=1e-4)
        narrow = apply_adapters(load_model(tiny_model, job, torch.bfloat16, "cpu"), tuple(paths))
        error = (narrow(ids).logits.float() - exact).abs().max()
        assert error < 0.2 * (exact - expected).abs().max()  # both adapters are at work, within bfloat16's rounding

    answers = []
    for adapters in ((), (paths[0],)):
        folder = started(model_name_or_path=str(tiny_model), adapter_name_or_path=adapters)
        chat.wait_until_ready(folder, LOAD_S)
        answers.append(ask(folder, do_sample=False, max_new_tokens=8)[0])
        chat.unload(folder)
    assert answers[0] != answers[1]


@pytest.mark.slow
def test_the_bundled_model_knows_paris(started, bundled_model):
    folder = started(model_name_or_path=str(bundled_model))
    chat.wait_until_ready(folder, LOAD_S)
    text, last = ask(folder, do_sample=False, max_new_tokens=24)
    assert "Paris" in text and last.finish_reason == "stop" and "<|" not in text
    same = [ask(folder, sampling_seed=3, temperature=2.0, max_new_tokens=12)[0] for _ in range(2)]
    assert same[0] == same[1]
    followed = [*FRANCE, {"role": "assistant", "content": text}, {"role": "user", "content": "And of Italy?"}]
    assert "Rome" in ask(folder, followed, do_sample=False, max_new_tokens=24)[0]


@pytest.mark.slow
def test_a_gguf_file_answers_too(started, bundled_model):
    llama_cpp = pytest.importorskip("llama_cpp")
    from engine.work.bundled import bundled_gguf
    from engine.work.load import load_tokenizer, render_prompt

    job = ChatJob(gguf=str(bundled_gguf()), context_length=512)
    folder = started(**job.values())
    chat.wait_until_ready(folder, LOAD_S)
    capital = [{"role": "user", "content": "Complete in one sentence: the capital of France is"}]
    text, last = ask(folder, capital, do_sample=False, max_new_tokens=24)
    tokenizer = load_tokenizer(bundled_model, job)
    prompt = tokenizer(render_prompt(tokenizer, capital, job), add_special_tokens=False)["input_ids"]
    assert last.prompt_tokens == len(prompt)  # no token is added in front
    llama = llama_cpp.Llama(str(bundled_gguf()), n_ctx=512, verbose=False)
    expected = llama.create_completion(prompt, temperature=0, max_tokens=24)["choices"][0]
    assert (text, last.finish_reason) == (expected["text"], expected["finish_reason"])
    assert "Paris" in text and "<|" not in text
    same = [ask(folder, sampling_seed=3, temperature=2.0, max_new_tokens=12)[0] for _ in range(2)]
    assert same[0] == same[1]
    with pytest.raises(UserError, match="512"):
        ask(folder, [{"role": "user", "content": "word " * 600}])
    assert ask(folder, capital, do_sample=False, max_new_tokens=24)[0] == text


@pytest.mark.slow
def test_the_terminal_prints_the_answer_and_nothing_else(workplace, tiny_model):
    command = [sys.executable, str(PROJECT / "app.py"), "chat", "--temperature", "5", "--sampling_seed", "3"]
    options = ["--model_name_or_path", str(tiny_model), "--max_new_tokens", "12"]
    once = subprocess.run([*command, *options, "--prompt", "Hi"], capture_output=True, text=True, timeout=LOAD_S)
    assert once.returncode == 0, once.stderr
    talk = subprocess.run(
        [*command, *options], input="Hi\nclear\nHi\nexit\n", capture_output=True, text=True, timeout=LOAD_S
    )
    assert talk.returncode == 0, talk.stderr
    assert once.stdout.endswith("\n") and once.stdout.strip()
    assert talk.stdout == once.stdout * 2  # after `clear` the first question has the same answer again
    workers = [p for p in psutil.process_iter(["cmdline"]) if str(workplace) in " ".join(p.info["cmdline"] or [])]
    assert not workers


@pytest.mark.slow
def test_the_terminal_says_what_is_wrong(workplace, tiny_model):
    def chat_with(*options):
        command = [sys.executable, str(PROJECT / "app.py"), "chat", "--prompt", "Hi", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=LOAD_S)

    missing = chat_with("--model_name_or_path", "./nowhere")
    assert missing.returncode == 2 and "nowhere" in missing.stderr and "Traceback" not in missing.stderr
    (workplace / "x.gguf").write_bytes(b"not a model")
    broken = chat_with("--gguf", "x.gguf")
    assert broken.returncode == 1 and "x.gguf" in broken.stderr and "Traceback" not in broken.stderr
    assert not missing.stdout and not broken.stdout


@pytest.fixture(scope="module")
def two_adapters(tiny_model, tmp_path_factory):
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
        paths.append(str(tmp_path_factory.mktemp("adapters") / f"adapter{seed}"))
        adapter.save_pretrained(paths[-1])
    return paths


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("loaded_with", [0, 1])
def test_each_side_of_one_base_says_what_it_says_alone(tiny_model, two_adapters, workplace, dtype, loaded_with):
    """Switched in any order, also where the loaded adapter was merged; a folder that does not fit changes nothing."""
    pytest.importorskip("torch")
    from engine.runs.folder import Folder
    from engine.runs.record import Recorder
    from engine.work.chat import pieces, take_side
    from engine.work.generate import load_for_answers

    def loaded(*adapters):
        job = ChatJob(model_name_or_path=str(tiny_model), adapter_name_or_path=adapters, infer_dtype=dtype,
                      do_sample=False, max_new_tokens=12)  # fmt: skip
        return load_for_answers(job, Recorder(Folder(workplace))), job

    def said(model, job, side=None):
        take_side(model, side)
        return "".join(piece.text for piece in pieces(model, FRANCE, job))

    one, two = two_adapters
    alone = {side: said(*loaded(*adapters)) for side, adapters in {"base": (), one: (one,), two: (two,)}.items()}
    assert len(set(alone.values())) == 3
    model, job = loaded(*two_adapters[:loaded_with])
    as_loaded = said(model, job)
    with pytest.raises(UserError) as caught:
        take_side(model, str(workplace))
    assert caught.value.key == "adapter_missing"
    for side in (two, "base", one, None, two, "base"):
        assert said(model, job, side) == (as_loaded if side is None else alone[side]), side
    assert as_loaded == alone[one if loaded_with else "base"]


def test_room_for_the_answer_is_told_before_it_is_given(started, tiny_model):
    folder = started(model_name_or_path=str(tiny_model))
    chat.wait_until_ready(folder, LOAD_S)
    long = [{"role": "user", "content": "word " * 1500}]
    tokens = ask(folder, long, max_new_tokens=4)[1].prompt_tokens
    with pytest.raises(UserError) as caught:
        next(chat.answer(folder, long, max_new_tokens=2048 - tokens + 1))
    assert caught.value.key == "chat.no_room" and str(caught.value.facts["room"]) == str(2048 - tokens)
    assert next(chat.answer(folder, long, max_new_tokens=2048 - tokens)).prompt_tokens == tokens


def test_an_answer_outlives_who_asked_and_ends_when_it_is_stopped(started, tiny_model):
    from engine.runs.talks import new_name, read_talk

    folder = started(model_name_or_path=str(tiny_model))
    chat.wait_until_ready(folder, LOAD_S)
    names = [new_name(), new_name()]
    for name, most in zip(names, (30, 2000), strict=True):
        asked = chat.answer(folder, FRANCE, name, talk=name, max_new_tokens=most, temperature=5.0, sampling_seed=1)
        next(asked)
        asked.close()  # the browser is closed
    chat.stop_answer(folder, names[1])
    deadline = time.monotonic() + 60
    while not all(read_talk(name).answer.is_over for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    whole, stopped = map(read_talk, names)
    assert whole.answer.piece.finish_reason in ("stop", "length") and whole.messages == FRANCE
    assert whole.answer.text == ask(folder, max_new_tokens=30, temperature=5.0, sampling_seed=1)[0]
    assert stopped.answer.piece.finish_reason == "stopped" and stopped.answer.piece.tokens < 2000


def test_a_list_of_prompts_is_put_to_several_checkpoints(workplace, tiny_model, two_adapters):
    import json

    from engine.runs.sides import BASE

    Path("list.txt").write_text("Hi\nWhat is a lathe?\n")
    command = [sys.executable, str(PROJECT / "app.py"), "chat", "--model_name_or_path", str(tiny_model)]
    options = ["--prompts", "list.txt", "--answers", "said.jsonl", "--max_new_tokens", "6"]
    done = subprocess.run(
        [*command, "--compare", BASE, *two_adapters, *options], capture_output=True, text=True, timeout=LOAD_S
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert [(row["messages"][0]["content"], row["side"]) for row in rows] == [
        (prompt, side) for prompt in ("Hi", "What is a lathe?") for side in (BASE, *two_adapters)
    ]
    assert len({row["answer"] for row in rows[:3]}) == 3
    assert all(row["answer"].split()[0] in done.stdout for row in rows if row["answer"].split())
    alone = subprocess.run(
        [*command, "--adapter_name_or_path", two_adapters[1], *options[4:], "--sampling_seed", str(rows[2]["seed"]),
         "--prompt", "Hi"],
        capture_output=True, text=True, timeout=LOAD_S,
    )  # fmt: skip
    assert alone.stdout.strip() == rows[2]["answer"].strip()
    missing = subprocess.run([*command, "--compare", "nobody", *options], capture_output=True, text=True, timeout=60)
    assert missing.returncode == 1 and "nobody" in missing.stderr and "Traceback" not in missing.stderr
