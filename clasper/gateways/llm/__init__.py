"""Language models behind one interface: the call (`base`), the providers (`registry`), and the wire formats.

`exchange` sends the three formats over HTTP: `openai_chat` with its dialects, `anthropic`, `gemini`. `offline` needs no
network. Only the engine opens a model call. The engine decides about retries, fallback models, prices and budgets.
"""
