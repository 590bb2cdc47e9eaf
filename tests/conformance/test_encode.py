"""What is learned: ids against ``apply_chat_template``, learned tokens against the assistant's words.

The templates are those of the catalogue, the bundled model's own, and the real ones of many models that trl carries.
"""

from itertools import accumulate
from pathlib import Path

import pytest
import trl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.catalog.conversations import Example, Judged, Preference, Text
from engine.catalog.learned import dropped_thoughts, plans
from engine.catalog.rendering import renderer_of
from engine.catalog.templates import find_template, template_names
from engine.errors import UserError
from engine.options.jobs import DataJob
from engine.work.encode import IGNORED, TurnIds, assemble, encode_example

ONE = [{"role": "user", "content": "How are you"}, {"role": "assistant", "content": "I am fine!"}]
TWO = [*ONE, {"role": "user", "content": "你好"}, {"role": "assistant", "content": "很高兴认识你！"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TWO]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
TOOL_USE = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"temp": 20}'},
    {"role": "assistant", "content": "It is 20°C."},
]
CONVERSATIONS = {"one": ONE, "two": TWO, "system": SYSTEM, "tools": TOOL_USE}
REAL = {f"real {path.stem}": path for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))}
NAMES = ["own", *template_names(), *REAL]
quickly = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def bundled(bundled_model):
    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.fixture
def tokenizer(bundled):
    own = bundled.chat_template
    yield bundled
    bundled.chat_template = own


def prepared(tokenizer, name: str, **options) -> DataJob:
    """Give the tokenizer a template, and the job that means it."""
    if name in REAL:
        tokenizer.chat_template = REAL[name].read_text("utf-8")
    elif name != "own":
        tokenizer.chat_template = find_template(name).chat_template
    return DataJob(template=name if name in template_names() else None, cutoff_len=4096, **options)


def rendered(tokenizer, messages, job, **extra) -> str | None:
    """What transformers makes of it. None, once it is seen that we refuse it too: the template does, or drops some."""
    if job.template and not job.mask_history:
        extra["preserve_thinking"] = True
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **extra)
    except Exception:  # templates of the wild fail as they like, with KeyError or TypeError as well
        with pytest.raises(UserError) as refused:
            encode_example(job, tokenizer, Example(tuple(messages)))
        assert refused.value.key == "template_refused"
        return None
    if not all((message["content"] or "Zürich") in text for message in messages if message["role"] == "assistant"):
        with pytest.raises(UserError) as refused:  # what the template leaves out is said, not learned without
            encode_example(job, tokenizer, Example(tuple(messages)))
        assert refused.value.key in ("template_drops_text", "template_drops_calls")
        return None
    return text


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_apply_chat_template(tokenizer, name, messages):
    job = prepared(tokenizer, name)
    text = rendered(tokenizer, messages, job)
    if text is None:
        return
    (encoded,) = encode_example(job, tokenizer, Example(tuple(messages)))
    expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    end = [] if renderer_of(tokenizer, job).marks_end else [tokenizer.eos_token_id]
    (plan,) = plans(job, renderer_of(tokenizer, job), Example(tuple(messages)))
    edges = set(accumulate(len(piece) for turn in plan.turns for piece in turn))
    if any(start < edge < stop for edge in edges for start, stop in expected["offset_mapping"]):
        # The marks of this template are no tokens of this tokenizer, and one of its tokens reaches over an edge.
        assert name not in ("own", "chatml", "smollm2", "qwen", "qwen3")
        assert tokenizer.decode(encoded.input_ids) == text + "".join(map(tokenizer.decode, end))
    else:
        assert encoded.input_ids == expected["input_ids"] + end


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_learned_are_the_answers_and_nothing_else(tokenizer, name, messages):
    job = prepared(tokenizer, name)
    text = rendered(tokenizer, messages, job)
    if text is None:
        return
    (plan,) = plans(job, renderer_of(tokenizer, job), Example(tuple(messages)))
    assert "".join(part.text for part in plan.segments()) == text
    learned = [part.text for part in plan.segments() if part.learned]
    answers = [message for message in messages if message["role"] == "assistant"]
    assert len(learned) == len(answers)
    for text, answer in zip(learned, answers, strict=True):
        words = answer["content"] or "Zürich"
        assert words in text
        assert len(text) < len(words) + (180 if answer.get("tool_calls") else 45)
        assert not any(other["content"] in text for other in messages if other is not answer and other["content"])
    masked = "".join(part.text for part in plan.segments() if not part.learned)
    assert not any(answer["content"] in masked for answer in answers if answer["content"])


words = st.text(  # characters that this tokenizer gives back as they were
    st.characters(codec="utf-8", max_codepoint=0x24F, exclude_categories=("Cc",), include_characters="\n\t你好文Ж"),
    min_size=1, max_size=30,
)  # fmt: skip


@pytest.mark.parametrize("name", ["own", "default", "vicuna", "falcon", "glm4", "llama2", "mistral", "qwen3", "empty"])
def test_whatever_is_said_the_learned_positions_are_the_answers(tokenizer, name):
    job = prepared(tokenizer, name)
    renderer = renderer_of(tokenizer, job)

    @quickly
    @given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
    def holds(pairs):
        messages = [
            {"role": role, "content": text}
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        (plan,) = plans(job, renderer, Example(tuple(messages)))
        expected = tokenizer.apply_chat_template(messages, tokenize=False, preserve_thinking=True)
        assert "".join(part.text for part in plan.segments()) == expected
        (encoded,) = encode_example(job, tokenizer, Example(tuple(messages)))
        learned = [label for label in encoded.labels if label != IGNORED]
        mark = "" if renderer.marks_end else tokenizer.eos_token
        texts = [turn.answer for turn in plan.turns]
        assert tokenizer.decode(learned) == "".join(text + mark for text in texts)
        for text, (_, answer) in zip(texts, pairs, strict=True):
            assert answer in text or text.strip().startswith(answer.strip())

    holds()


def test_labels_are_the_learned_ids(tokenizer):
    (encoded,) = encode_example(prepared(tokenizer, "own"), tokenizer, Example(tuple(TWO)))
    learned = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(learned) == "I am fine!<|im_end|>\n很高兴认识你！<|im_end|>\n"
    assert all(label in (IGNORED, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True))


def test_mask_history_learns_the_last_answer_only(tokenizer):
    (encoded,) = encode_example(prepared(tokenizer, "own", mask_history=True), tokenizer, Example(tuple(TWO)))
    assert tokenizer.decode([label for label in encoded.labels if label != IGNORED]) == "很高兴认识你！<|im_end|>\n"


def test_train_on_prompt_learns_everything(tokenizer):
    (encoded,) = encode_example(prepared(tokenizer, "own", train_on_prompt=True), tokenizer, Example(tuple(TWO)))
    assert encoded.labels == encoded.input_ids


def test_an_end_that_the_template_lacks_is_learned_after_every_answer(tokenizer):
    """GLM-4's next speaker stands where the end would be: its place is labelled with the end, the last gets one."""
    (encoded,) = encode_example(prepared(tokenizer, "glm4"), tokenizer, Example(tuple(TWO)))
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert encoded.labels.count(tokenizer.eos_token_id) == 2


@pytest.mark.parametrize("cutoff", [4, 10, 20, 30, 40, 50])
@pytest.mark.parametrize("options", [{}, {"mask_history": True}, {"train_on_prompt": True}], ids=str)
@pytest.mark.parametrize("name", ["own", "glm4"])
def test_cutting_is_counted(tokenizer, cutoff, options, name):
    job = prepared(tokenizer, name, **options)
    (whole,) = encode_example(job, tokenizer, Example(tuple(SYSTEM)))
    (cut,) = encode_example(job.model_copy(update={"cutoff_len": cutoff}), tokenizer, Example(tuple(SYSTEM)))
    assert len(cut.input_ids) <= cutoff
    assert len(cut.input_ids) + cut.cut == len(whole.input_ids)
    assert cut.turns == whole.turns and sum(map(sum, cut.turns)) == len(whole.input_ids)

    def own(encoded):
        pairs = zip(encoded.labels, encoded.input_ids, strict=True)
        return sum(label == token for label, token in pairs)

    assert own(cut) + cut.cut_learned == own(whole)
    ends = sum(label == tokenizer.eos_token_id for label in cut.labels)
    if name == "glm4" and not options:
        assert ends == 2 - cut.cut_answers


def test_where_the_last_answer_counts_the_last_turns_are_kept():
    turns = [TurnIds([1, 2, 3], [4, 5]), TurnIds([6, 7], [8, 9])]
    assert assemble(turns, 5, learns_history=False).input_ids == [1, 6, 7, 8, 9]
    assert assemble(turns, 5).input_ids == [1, 2, 3, 4, 5]


def test_two_answers_to_one_prompt_keep_the_same_prompt(tokenizer):
    question = {"role": "user", "content": "word " * 200}
    answers = [{"role": "assistant", "content": "yes " * 100}, {"role": "assistant", "content": "no"}]
    job = prepared(tokenizer, "own").model_copy(update={"cutoff_len": 64})
    chosen, rejected = encode_example(job, tokenizer, Preference((question,), *answers))
    prompts = [
        [token for token, label in zip(each.input_ids, each.labels, strict=True) if label == IGNORED]
        for each in (chosen, rejected)
    ]
    assert prompts[0] == prompts[1]
    assert chosen.cut_answers == 1 and rejected.cut_answers == 0
    assert tokenizer.decode([label for label in rejected.labels if label != IGNORED]) == "no<|im_end|>\n"


def test_of_a_judged_conversation_only_the_last_answer_counts(tokenizer):
    job = prepared(tokenizer, "own", train_on_prompt=True)
    (encoded,) = encode_example(job, tokenizer, Judged(tuple(TWO), is_desirable=False))
    assert tokenizer.decode([label for label in encoded.labels if label != IGNORED]) == "很高兴认识你！<|im_end|>\n"


def test_a_plain_text_is_learned_whole_with_its_end(tokenizer):
    (encoded,) = encode_example(prepared(tokenizer, "own"), tokenizer, Text("Once upon a time."))
    assert encoded.input_ids == encoded.labels
    assert tokenizer.decode(encoded.input_ids) == "Once upon a time." + tokenizer.eos_token


THOUGHT = "<think>\nHm.\n</think>\n\n"
THOUGHTFUL = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": THOUGHT + "Yes."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": THOUGHT + "No."},
]


@pytest.mark.parametrize(
    ("options", "learned"),
    [
        ({}, [THOUGHT + "Yes.", THOUGHT + "No."]),
        ({"mask_history": True}, [THOUGHT + "No."]),
        ({"enable_thinking": False}, ["Yes.", "No."]),
        ({"enable_thinking": False, "mask_history": True}, ["No."]),
    ],
    ids=str,
)
def test_thoughts_of_a_template_by_name(tokenizer, options, learned):
    job = prepared(tokenizer, "qwen3", **options)
    (plan,) = plans(job, renderer_of(tokenizer, job), Example(tuple(THOUGHTFUL)))
    assert [part.text for part in plan.segments() if part.learned] == [text + "<|im_end|>\n" for text in learned]


@pytest.mark.parametrize(("thinking", "is_learned"), [(True, True), (None, True), (False, False)])
def test_an_empty_thought_is_learned_only_where_thinking_is_on(tokenizer, thinking, is_learned):
    job = prepared(tokenizer, "qwen3", enable_thinking=thinking)
    (plan,) = plans(job, renderer_of(tokenizer, job), Example(tuple(TWO)))
    assert all(turn.answer.startswith("<think>\n\n</think>\n\n") == is_learned for turn in plan.turns)
    assert all(turn.prompt.endswith("<think>\n\n</think>\n\n") != is_learned for turn in plan.turns)


@pytest.mark.parametrize("keeps", [False, True])
def test_history_thoughts_in_a_prompt_are_kept_only_on_request(tokenizer, keeps):
    job = prepared(tokenizer, "qwen3", mask_history=True, preserve_thinking=keeps)
    (plan,) = plans(job, renderer_of(tokenizer, job), Example(tuple(THOUGHTFUL)))
    assert ("Hm." in plan.segments()[0].text) == keeps
    assert dropped_thoughts(plan, THOUGHTFUL) == (0 if keeps else 1)


def test_unknown_template_names_the_nearest():
    with pytest.raises(UserError) as error:
        find_template("chatmll")
    assert error.value.facts["near"] == "chatml"
    with pytest.raises(UserError) as error:
        find_template("qwen", "lama3")
    assert error.value.facts["near"] == "llama3"


@pytest.mark.parametrize("thinking", [None, False])
def test_what_follows_a_thought_is_kept_whole(tokenizer, thinking):
    said = "The mark </think> ends it. Bye."
    messages = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": THOUGHT + said}]
    job = prepared(tokenizer, "qwen3", enable_thinking=thinking)
    (plan,) = plans(job, renderer_of(tokenizer, job), Example(tuple(messages)))
    assert plan.turns[-1].answer.endswith(said + "<|im_end|>\n")
    job = prepared(tokenizer, "real qwen3")  # it takes what stands behind the last mark
    tail = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "No."}]
    with pytest.raises(UserError) as refused:
        plans(job, renderer_of(tokenizer, job), Example((*messages, *tail)))
    assert refused.value.key == "template_drops_text"


def test_thoughts_that_a_template_leaves_out_are_counted(tokenizer):
    (encoded,) = encode_example(prepared(tokenizer, "real qwen3"), tokenizer, Example(tuple(THOUGHTFUL)))
    assert encoded.thoughts_dropped == 1
    (encoded,) = encode_example(prepared(tokenizer, "qwen3"), tokenizer, Example(tuple(THOUGHTFUL)))
    assert encoded.thoughts_dropped == 0
