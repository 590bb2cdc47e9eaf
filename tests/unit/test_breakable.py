"""Where a long name may end a line."""

from __future__ import annotations

import re

from webui.live import breakable


def test_lines_end_behind_signs_and_never_within_a_word():
    name = "SmolLM2-135M-Instruct/lora/train_2030-01-01<b>&c/"
    assert breakable(name).split("<wbr>")[:4] == ["SmolLM2-", "135M-", "Instruct/", "lora/"]
    assert re.sub("<wbr>", "", breakable(name)) == name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
