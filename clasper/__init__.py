"""The project package: settings, wiring, gateways to the outside world, and the kernel every app stands on."""

__version__ = "1.1.0"
