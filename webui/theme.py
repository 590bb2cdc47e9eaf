"""How the page looks: system fonts, one accent colour, and the style sheet and script beside this file."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from webui.aloud import LISTEN
from webui.appearance import FOLLOW

CSS = Path(__file__).with_name("page.css")

GLOSSARY = Path(__file__).with_name("glossary.js")
QUIET, QUIET_DARK = "#52617a", "#9fb0c8"
FAINT, FAINT_DARK = "#5f6e86", "#94a3b8"
ACCENT, ACCENT_DARK = "#0f766e", "#2dd4bf"
EDGE, EDGE_DARK = "#7f8ca1", "#64748b"
"""Quiet words, hints in empty boxes, what is chosen, borders of what can be used: the first three have a contrast of
over 4.5, the last of over 3."""

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
FONT_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono", "monospace"]


def head() -> str:
    script = f"<script>{GLOSSARY.read_text('utf-8')}</script>"
    return f'<meta name="color-scheme" content="light dark">{FOLLOW}{LISTEN}{script}'


def theme() -> gr.themes.Base:
    """Quiet greys and one teal; what is to be read or used has at least the contrast of WCAG AA."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="md", spacing_size="md",
        text_size="md", font=FONT, font_mono=FONT_MONO,
    ).set(
        body_background_fill="*neutral_50", body_background_fill_dark="#0d1420",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        block_border_width="0px", block_shadow="none", block_padding="0px",
        block_label_text_size="*text_sm", block_title_text_weight="600", block_title_text_size="*text_sm",
        block_title_text_color="*neutral_700", block_title_text_color_dark="*neutral_200",
        block_info_text_size="*text_xs", block_info_text_color=QUIET, block_info_text_color_dark=QUIET_DARK,
        block_label_text_color=QUIET, block_label_text_color_dark=QUIET_DARK,
        body_text_color_subdued=QUIET, body_text_color_subdued_dark=QUIET_DARK,
        input_placeholder_color=FAINT, input_placeholder_color_dark=FAINT_DARK,
        color_accent=ACCENT, slider_color=ACCENT, slider_color_dark=ACCENT_DARK,
        checkbox_background_color_selected=ACCENT, checkbox_background_color_selected_dark="*primary_600",
        checkbox_border_color=EDGE, checkbox_border_color_dark=EDGE_DARK,
        checkbox_border_color_hover=ACCENT, checkbox_border_color_hover_dark=ACCENT_DARK,
        checkbox_border_color_selected=ACCENT, checkbox_border_color_selected_dark=ACCENT_DARK,
        checkbox_label_border_color=EDGE, checkbox_label_border_color_dark=EDGE_DARK,
        input_background_fill="white", input_background_fill_dark="#0d1420",
        input_border_color=EDGE, input_border_color_dark=EDGE_DARK,
        input_border_color_focus=ACCENT, input_border_color_focus_dark=ACCENT_DARK,
        input_border_width="1px", input_padding="8px 10px", input_radius="8px", input_text_size="*text_md",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        button_secondary_background_fill="white", button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#1e293b", button_secondary_background_fill_hover_dark="#334155",
        button_secondary_border_color=EDGE, button_secondary_border_color_dark=EDGE_DARK,
        button_cancel_background_fill="white", button_cancel_background_fill_hover="#fef2f2",
        button_cancel_background_fill_dark="#1e293b", button_cancel_background_fill_hover_dark="#3f1d1d",
        button_cancel_text_color="#b91c1c", button_cancel_text_color_dark="#fca5a5",
        button_cancel_border_color="#d9605a", button_cancel_border_color_dark="#c25a5a",
        button_border_width="1px", button_large_radius="8px", button_small_radius="8px",
        button_large_padding="8px 18px", button_large_text_size="*text_md", button_large_text_weight="600",
        layout_gap="16px", form_gap_width="14px",
    )  # fmt: skip
