"""Language models behind one interface: what is asked (`base`), which provider answers (`registry`), and the wires.

`openai_chat` speaks the chat-completions wire, `offline` needs no network, `fake` is a chat-completions host for tests.
Only the engine opens a model call. Retries, fallback models, prices and budgets are the engine's business.
"""
