"""How the page looks: system fonts, one accent colour, and the style sheet and script beside this file."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("page.css")

GLOSSARY = Path(__file__).with_name("glossary.js")

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
FONT_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono", "monospace"]


def head() -> str:
    return f'<meta name="color-scheme" content="light dark"><script>{GLOSSARY.read_text("utf-8")}</script>'


def theme() -> gr.themes.Base:
    """Quiet greys and one teal; text on every surface has at least the contrast of WCAG AA."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="md", spacing_size="md",
        text_size="md", font=FONT, font_mono=FONT_MONO,
    ).set(
        body_background_fill="*neutral_50", body_background_fill_dark="#0d1420",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        block_border_width="0px", block_shadow="none", block_padding="0px",
        block_label_text_size="*text_sm", block_title_text_weight="600", block_title_text_size="*text_sm",
        block_title_text_color="*neutral_700", block_title_text_color_dark="*neutral_200",
        block_info_text_size="*text_xs", block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="white", input_background_fill_dark="#0d1420",
        input_border_color="*neutral_300", input_border_color_dark="#334155",
        input_border_color_focus="*primary_500", input_border_color_focus_dark="*primary_400",
        input_border_width="1px", input_padding="8px 10px", input_radius="8px", input_text_size="*text_md",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600", button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        button_secondary_background_fill="white", button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#1e293b", button_secondary_background_fill_hover_dark="#334155",
        button_secondary_border_color="*neutral_300", button_secondary_border_color_dark="#3b4a60",
        button_cancel_background_fill="white", button_cancel_background_fill_hover="#fef2f2",
        button_cancel_background_fill_dark="#1e293b", button_cancel_background_fill_hover_dark="#3f1d1d",
        button_cancel_text_color="#b91c1c", button_cancel_text_color_dark="#fca5a5",
        button_cancel_border_color="#fca5a5", button_cancel_border_color_dark="#7f1d1d",
        button_border_width="1px", button_large_radius="8px", button_small_radius="8px",
        button_large_padding="8px 18px", button_large_text_size="*text_md", button_large_text_weight="600",
        layout_gap="16px", form_gap_width="14px",
    )  # fmt: skip
