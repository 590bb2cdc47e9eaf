"""What is learned: ids against ``apply_chat_template``, learned tokens against the assistant's words."""

import pytest
from transformers import AutoTokenizer

from engine.catalog.templates import find_template, template_names
from engine.errors import UserError
from engine.work.encode import IGNORED, encode, segments, turn_budget

ONE = [{"role": "user", "content": "How are you"}, {"role": "assistant", "content": "I am fine!"}]
TWO = [*ONE, {"role": "user", "content": "你好"}, {"role": "assistant", "content": "很高兴认识你！"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TWO]
CONVERSATIONS = {"one": ONE, "two": TWO, "system": SYSTEM}


@pytest.fixture(scope="module")
def tokenizer(bundled_model):
    return AutoTokenizer.from_pretrained(bundled_model)


def with_template(tokenizer, name):
    if name:
        tokenizer.chat_template = find_template(name).chat_template
    return tokenizer


@pytest.fixture(params=[None, *template_names()], ids=lambda name: name or "own")
def templated(request, tokenizer):
    own = tokenizer.chat_template
    yield with_template(tokenizer, request.param)
    tokenizer.chat_template = own


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_ids_equal_apply_chat_template(templated, messages):
    encoded = encode(templated, segments(templated, messages), 4096)
    expected = templated.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert encoded.input_ids == expected


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_learned_are_the_answers_and_nothing_else(templated, messages):
    parts = segments(templated, messages)
    assert "".join(part.text for part in parts) == templated.apply_chat_template(messages, tokenize=False)
    learned = [part.text for part in parts if part.learned]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert len(learned) == len(answers)
    for text, answer in zip(learned, answers, strict=True):
        assert text.strip().startswith(answer)
        assert len(text) < len(answer) + 20
    assert not any(answer in part.text for part in parts if not part.learned for answer in answers)


def test_labels_are_the_learned_ids(tokenizer):
    encoded = encode(tokenizer, segments(tokenizer, TWO), 4096)
    learned = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(learned) == "I am fine!<|im_end|>\n很高兴认识你！<|im_end|>\n"
    assert all(label in (IGNORED, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True))


def test_mask_history_learns_the_last_answer_only(tokenizer):
    learned = [part.text for part in segments(tokenizer, TWO, mask_history=True) if part.learned]
    assert learned == ["很高兴认识你！<|im_end|>\n"]


def test_train_on_prompt_learns_everything(tokenizer):
    encoded = encode(tokenizer, segments(tokenizer, TWO, train_on_prompt=True), 4096)
    assert encoded.labels == encoded.input_ids


@pytest.mark.parametrize(
    ("prompt", "answer", "budget", "kept"),
    [
        (3000, 2000, 1000, (600, 400)), (2000, 3000, 1000, (400, 600)), (1000, 100, 1000, (900, 100)),
        (100, 1000, 1000, (100, 900)), (100, 500, 1000, (100, 500)), (500, 100, 1000, (500, 100)),
        (10, 10, 1000, (10, 10)),
    ],
)  # fmt: skip
def test_budget_of_a_turn(prompt, answer, budget, kept):
    assert turn_budget(prompt, answer, budget) == kept


@pytest.mark.parametrize("cutoff", [4, 20, 30, 40])
def test_cutting_is_counted(tokenizer, cutoff):
    whole = encode(tokenizer, segments(tokenizer, SYSTEM), 4096)
    cut = encode(tokenizer, segments(tokenizer, SYSTEM), cutoff)
    assert len(cut.input_ids) <= cutoff
    assert len(cut.input_ids) + cut.cut == len(whole.input_ids)
    kept = sum(label != IGNORED for label in cut.labels)
    assert kept + cut.cut_learned == sum(label != IGNORED for label in whole.labels)


def test_unknown_template_names_the_nearest():
    with pytest.raises(UserError) as error:
        find_template("chatmll")
    assert error.value.facts["near"] == "chatml"


FACTS = {  # of what this field's reference renders for TWO
    "llama3": "{bos}<|start_header_id|>user<|end_header_id|>\n\nHow are you<|eot_id|><|start_header_id|>assistant"
    "<|end_header_id|>\n\nI am fine!<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n很高兴认识你！<|eot_id|>",
    "gemma": "{bos}<start_of_turn>user\nHow are you<end_of_turn>\n<start_of_turn>model\nI am fine!<end_of_turn>\n"
    "<start_of_turn>user\n你好<end_of_turn>\n<start_of_turn>model\n很高兴认识你！<end_of_turn>\n",
    "mistral": "{bos}[INST] How are you[/INST] I am fine!{eos}[INST] 你好[/INST] 很高兴认识你！{eos}",
    "qwen": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nHow are you<|im_end|>\n<|im_start|>assistant\nI am fine!<|im_end|>\n<|im_start|>user\n你好"
    "<|im_end|>\n<|im_start|>assistant\n很高兴认识你！<|im_end|>\n",
    "phi4_mini": "<|user|>How are you<|end|><|assistant|>I am fine!<|end|><|user|>你好<|end|><|assistant|>"
    "很高兴认识你！<|end|>",
}


@pytest.mark.parametrize("name", FACTS)
def test_named_templates_render_as_the_field_expects(tokenizer, name):
    own = tokenizer.chat_template
    try:
        text = with_template(tokenizer, name).apply_chat_template(TWO, tokenize=False)
    finally:
        tokenizer.chat_template = own
    assert text == FACTS[name].format(bos=tokenizer.bos_token, eos=tokenizer.eos_token)
