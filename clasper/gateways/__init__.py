"""Clients of everything outside: model providers, the control plane, webhooks, and the workspace directory."""
