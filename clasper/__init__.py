"""The project package: settings, wiring, gateways to the outside world, and the kernel that every app builds on."""

__version__ = "1.1.0"
