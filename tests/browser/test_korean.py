"""The whole journey by somebody who reads only Korean: what is pressed is called by its Korean words."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ollama_server import OllamaServer
from tests.unit.test_words import NAMES

pytestmark = pytest.mark.slow

JOB_MS = 120_000
QUESTION = "안녕하세요?"
OWN_ROWS = [
    {"instruction": f"{n} 더하기 {n}은 얼마인가요?", "output": f"{n} 더하기 {n}은 {2 * n}입니다."} for n in range(8)
]
KNOWN = {
    "R", "Xeon", "Intel", "Processor", "SmolLM", "Instruct", "Python", "torch", "GB", "MB", "Ollama", "LM", "Studio",
}  # fmt: skip
SEEN = """() => {
    const foreign = "code, pre, .cm-editor, .log, .log-view, [data-testid=bot], [data-testid=user], .turn p, .rendered";
    const shown = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const owner = node.parentElement;
        if (owner.checkVisibility() && !owner.closest(foreign + ", script, style")) shown.push(node.nodeValue);
    }
    for (const name of ["aria-label", "title", "placeholder", "alt"])
        for (const each of document.querySelectorAll(`[${name}]`))
            if (each.checkVisibility() && !each.closest(foreign)) shown.push(each.getAttribute(name));
    return shown;
}"""
"""Texts in sight and what is read out, but for commands, files, log lines, and what the model and the data say."""


def english_in(texts: list[str], known: set[str] = frozenset()) -> list[str]:
    """Runs of three Latin words or more that are not names alone. Paths, flags and file names count as no words."""
    found = []
    for text in texts:
        plain = re.sub(r"\S*[/._=\d<>{}|-]\S*", "·", text)
        for run in re.findall(r"[A-Za-z][A-Za-z']+(?:[ ,;:]+[A-Za-z][A-Za-z']*){2,}", plain):
            if any(word not in NAMES | known for word in re.findall(r"[A-Za-z']+", run)):
                found.append(text.strip())
    return sorted(set(found))


def only_korean(page: Page) -> None:
    assert english_in(page.evaluate(SEEN), KNOWN) == []


def in_sight(found: Locator) -> Locator:
    return found.filter(visible=True).first


def press(page: Page, name: str) -> None:
    in_sight(page.get_by_role("button", name=re.compile(rf"^\s*{re.escape(name)}[\s▼]*$"))).click()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def field(page: Page, label: str) -> Locator:
    """A control by its label, behind which its help may stand."""
    return in_sight(page.get_by_label(re.compile(rf"^\s*{re.escape(label)}(\s|$)")))


def write(page: Page, label: str, text: str) -> None:
    field(page, label).fill(text)


def wait_until_done(page: Page) -> None:
    """Until what was just begun has ended; what ended before it may still be in sight."""
    going = in_sight(page.get_by_text(re.compile("^(대기 중|시작 중|실행 중)$")))
    expect(going).to_be_visible()
    expect(going).to_be_hidden(timeout=JOB_MS)
    ended = in_sight(page.get_by_text(re.compile("^(완료|실패|비정상 종료)$")))
    expect(ended).to_have_text("완료")


def ask(page: Page) -> None:
    """Wait for the model, ask, and see an answer and how long it took."""
    expect(in_sight(page.get_by_text("준비 완료"))).to_be_visible(timeout=JOB_MS)
    press(page, "새 대화")
    expect(page.get_by_role("button", name="메시지 복사")).to_have_count(0)  # what was said before is gone
    only_korean(page)
    write(page, "메시지", QUESTION)
    press(page, "보내기")
    expect(in_sight(page.get_by_text(re.compile("답변 [0-9]+토큰")))).to_be_visible(timeout=JOB_MS)
    only_korean(page)


def test_english_is_found():
    assert english_in(["Drop File Here", "파일을 고르세요", "GGUF, GPU, CPU", "models/a b.gguf --max_steps 2"]) == [
        "Drop File Here"
    ]
    assert english_in(["오류: it is not there"]) == ["오류: it is not there"]


def test_the_whole_journey_in_korean_alone(visit, workshop, tmp_path, ollama_port):
    own = tmp_path / "내 데이터"
    own.mkdir()
    (own / "dataset_info.json").write_text("{}", encoding="utf-8")
    file = tmp_path / "덧셈.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in OWN_ROWS), encoding="utf-8")
    page = visit(locale="ko-KR", timezone_id="Asia/Seoul")
    expect(page.get_by_role("tab", name="학습", exact=True)).to_be_visible()
    only_korean(page)

    # The model as it came.
    open_tab(page, "채팅")
    write(page, "답변 최대 길이", "16")
    press(page, "로드")
    ask(page)
    press(page, "언로드")
    expect(in_sight(page.get_by_text("로드된 모델 없음"))).to_be_visible(timeout=JOB_MS)

    # A file of one's own becomes a dataset.
    open_tab(page, "데이터")
    write(page, "데이터셋 폴더", str(own))
    with page.expect_file_chooser() as chooser:
        press(page, "눌러서 파일을 고르거나 여기에 끌어다 놓으세요")
    chooser.value.set_files(file)
    expect(in_sight(page.get_by_text(OWN_ROWS[0]["output"]))).to_be_visible()
    only_korean(page)
    name = field(page, "이름").input_value()
    press(page, "등록")
    expect(in_sight(page.get_by_text(f'"{name}" 데이터셋을 등록했습니다'))).to_be_visible()
    only_korean(page)
    press(page, "이 데이터셋으로 학습")

    # A short training: the command, then log and loss.
    expect(page.get_by_role("tab", name="학습", exact=True)).to_have_attribute("aria-selected", "true")
    for label, value in (("컷오프 길이", "64"), ("배치 크기", "1"), ("그래디언트 누적", "1"), ("로그 간격", "1")):
        write(page, label, value)
    press(page, "고급 옵션")
    write(page, "최대 스텝", "2")
    press(page, "명령어 미리보기")
    expect(in_sight(page.get_by_text("--max_steps 2"))).to_be_visible()
    only_korean(page)
    press(page, "학습 시작")
    wait_until_done(page)
    expect(in_sight(page.get_by_role("img", name=re.compile("손실")))).to_be_visible()
    expect(in_sight(page.get_by_text("스텝 2 / 2"))).to_be_visible()
    expect(in_sight(page.get_by_role("log", name="로그"))).not_to_be_empty()
    only_korean(page)
    run = max(workshop.glob("saves/SmolLM2*/lora/train_*"), key=lambda path: path.name)

    # Merged from the list of runs, and talked to.
    open_tab(page, "실행 목록")
    in_sight(page.get_by_role("tabpanel").get_by_text(run.name)).click()  # not what is read aloud of its end
    expect(in_sight(page.get_by_role("button", name="내보내기에서 병합"))).to_be_enabled()
    only_korean(page)
    press(page, "내보내기에서 병합")
    press(page, "병합")
    wait_until_done(page)
    only_korean(page)
    press(page, "채팅에서 열기")
    ask(page)
    press(page, "언로드")

    # A GGUF file of it, and an Ollama model of that.
    open_tab(page, "내보내기")
    press(page, "GGUF로 변환")
    press(page, "변환")
    wait_until_done(page)
    only_korean(page)
    with OllamaServer(workshop / "ollama-korean", ollama_port) as server:
        expect(in_sight(page.get_by_text("0.99.0-test"))).to_be_visible()
        write(page, "Ollama 모델", "deotsem")
        press(page, "Ollama에 만들기")
        expect(in_sight(page.get_by_text('"deotsem"이(가)'))).to_be_visible(timeout=JOB_MS)
        only_korean(page)
        assert list(server.models) == ["deotsem:latest"] and server.faults == []
