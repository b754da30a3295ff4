"""What a control plane says it can do, in every form of the contract that is in use, and whether that is enough."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONTRACT_VERSION = "1.1.0"
CONTRACT_MAJOR = 1
REQUIRED = ("tasks", "messages")
OPTIONAL = ("documents", "tools")

_ALIASES: Mapping[str, frozenset[str]] = {
    "tasks": frozenset({"task_list", "task_create"}),
    "messages": frozenset({"message_post"}),
    "documents": frozenset({"document_post"}),
    "tools": frozenset({"tool_discover", "tool_execute"}),
}
_VERSION = re.compile(r"v?(\d{1,6})(?:\.\d+){0,2}(?:[-+].*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features of one control plane, under the contract's names and those it announced.

    `known` is False when it returned no usable answer; no optional feature is assumed then.
    """

    contract_version: str = ""
    features: frozenset[str] = frozenset()
    known: bool = True

    def has(self, feature: str) -> bool:
        return feature in self.features

    @property
    def tools(self) -> bool:
        """Whether tools may be discovered and executed."""
        return "tools" in self.features


UNKNOWN = Capabilities(known=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """Whether Clasper can work with a control plane. `error` says why not, else it is empty."""

    compatible: bool
    control_plane_contract_version: str | None
    warnings: tuple[str, ...] = ()
    missing_features: tuple[str, ...] = ()
    error: str = ""
    clasper_contract_version: str = CONTRACT_VERSION


def parse_capabilities(document: Any) -> Capabilities | None:
    """The capabilities that a JSON document announces, or None when it announces none.

    Features are a map to booleans or a list of names; `contract_version` is `v1` or a full version.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("features"), Mapping | list):
        return None
    features = document["features"]
    announced = (name for name, on in features.items() if on is True) if isinstance(features, Mapping) else features
    names = {name for name in announced if isinstance(name, str)}
    if document.get("tools") is True:
        names.add("tools")
    for feature, parts in _ALIASES.items():
        if parts <= names:
            names.add(feature)
        elif feature in names:
            names |= parts
    version = document.get("contract_version", document.get("contractVersion"))
    return Capabilities(contract_version=version if isinstance(version, str) else "", features=frozenset(names))


def check_capabilities(capabilities: Capabilities) -> Compatibility:
    """Compatible means contract major 1 and the required features; missing optional ones become warnings."""
    version = capabilities.contract_version or None
    if not capabilities.known:
        return Compatibility(
            compatible=False,
            control_plane_contract_version=None,
            missing_features=REQUIRED,
            error="The control plane returned no usable answer about its capabilities.",
        )
    missing = tuple(feature for feature in REQUIRED if not capabilities.has(feature))
    warnings = [f"The control plane does not offer {feature}." for feature in OPTIONAL if not capabilities.has(feature)]
    match = _VERSION.fullmatch(version or "")
    if version is None:
        warnings.insert(0, "The control plane does not state its contract version.")
    error = ""
    if version is not None and (match is None or int(match[1]) != CONTRACT_MAJOR):
        error = f"The control plane speaks contract {version[:32]}; Clasper speaks version {CONTRACT_MAJOR}."
    elif missing:
        error = f"The control plane lacks required features: {', '.join(missing)}."
    return Compatibility(
        compatible=not error,
        control_plane_contract_version=version,
        warnings=tuple(warnings),
        missing_features=missing,
        error=error,
    )
