"""Language models behind one interface: what is asked (`base`), which provider answers (`registry`), and the wires.

`exchange` carries the three wires over HTTP: `openai_chat` with its dialects, `anthropic`, `gemini`. `offline` needs no
network. Only the engine opens a model call. Retries, fallback models, prices and budgets are the engine's business.
"""
