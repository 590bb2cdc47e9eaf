"""What is seen: the web page. It reads run folders and starts jobs; it never loads a model."""

from webui import lean  # it has to be the first to import gradio

__all__ = ("lean",)
