"""The OpenAI-compatible server: what is asked, how it is answered, and how the answers look on the wire."""
