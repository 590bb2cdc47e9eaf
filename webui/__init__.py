"""What is seen: the web page. It reads run folders and starts jobs; it never loads a model."""

from webui import lean  # before anything else here imports gradio

__all__ = ("lean",)
