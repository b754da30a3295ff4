"""Serves a fake model provider until interrupted: `python -m fakes.llm --help`."""

from __future__ import annotations

import argparse
import sys
import threading

from fakes.llm import WIRE_FORMATS, FakeProvider, reply


def main() -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description="A fake model provider, for trying Clasper without an account.")
    parser.add_argument("--wire", choices=sorted(WIRE_FORMATS), default="openai", help="the API to speak")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--reply", default="Hello from the fake provider.")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer or chunk")
    options = parser.parse_args()
    default = reply(options.reply, delay=options.delay)
    fake = FakeProvider.start(WIRE_FORMATS[options.wire], options.port, default=default)
    sys.stdout.write(f"{options.wire.upper()}_BASE_URL={fake.url}\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        fake.close()


if __name__ == "__main__":
    main()
