"""The benchmark suite: what docs/performance.md claims, measured (`make bench`, or `python -m benchmarks --help`).

Nothing here is imported by the product. Programs that run as processes of their own: `upstream` (model provider and
backend), `load` (load generator), `floor` (the bare-ASGI yardstick), `ungoverned` (Clasper without its governance).
"""
