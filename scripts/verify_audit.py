#!/usr/bin/env python3
"""Verifies an exported audit log without Clasper: Python 3.11 and its standard library are all it needs."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

EPILOG = """examples:
  python verify_audit.py acme.ndjson
  python verify_audit.py acme.ndjson --checkpoint last-month.json --checkpoint yesterday.json
  python verify_audit.py february.ndjson --part

FILE is what GET /audit/export or manage.py audit_export wrote as ndjson. Each tenant's entries must count from 1
without gaps and hold the hash of the one before; each hash must be the SHA-256 of the canonical JSON (RFC 8785) of all
fields but id and hash. Checkpoints, in FILE and in --checkpoint, must be signed (Ed25519) and name the hash of their
entry: only they show that the end was cut off or all was rewritten. Whoever forges a file can sign it with a key of
his own, so give --public-key with the key that you were told by other means; then each chain needs a checkpoint.

exit codes: 0 everything fits, 1 it does not (the first bad seq is printed) or there is nothing to verify,
2 the input is unreadable
"""
GENESIS = "0" * 64
ENTRY = {"id", "timestamp", "event_type", "tenant_id", "trace_id", "actor", "details", "seq", "prev_hash", "hash"}
TYPES = {"seq": int, "tenant_id": str, "prev_hash": str, "hash": str}
CHECKPOINT = {"tenant_id": str, "seq": int, "hash": str, "created_at": str, "public_key": str, "signature": str}
BROKEN = {"tenant_id": str, "first_bad_seq": int, "reason": str}
SIGNED = ("tenant_id", "seq", "hash", "created_at")


class Unreadable(Exception):
    """The input is not what it should be."""


# --- Canonical JSON (RFC 8785) --------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """The canonical JSON text: keys sorted by UTF-16 code units, numbers as ECMAScript writes them."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def number(value: float) -> str:
    """The shortest digits that read back as the same double, laid out by ECMAScript's Number::toString."""
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1:+d}"
    return f"-{text}" if value < 0 else text


# --- Ed25519 (RFC 8032), verification only --------------------------------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int, int, int]
"""Extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z."""


def add(a: Point, b: Point) -> Point:
    q, r = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    s, t = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = r - q, t - s, t + s, r + q
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def decompress(data: bytes) -> Point:
    """The point that 32 bytes encode. Raises ValueError when they encode none."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise ValueError("no point of the curve")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def is_signed(message: bytes, public_key: bytes, signature: bytes) -> bool:
    """Whether the signature of the message is the key's."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    try:
        key, commitment = decompress(public_key), decompress(signature[:32])
    except ValueError:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    left, right = multiply(scalar, BASE), add(commitment, multiply(digest, key))
    same = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    return scalar < ORDER and same


# --- The chain ------------------------------------------------------------------------------------------------------


def entry_hash(entry: dict[str, Any]) -> str:
    """The hash that an entry should have; "" for one that has no canonical JSON."""
    covered = {name: value for name, value in entry.items() if name not in ("id", "hash")}
    try:
        return hashlib.sha256(canonical(covered).encode()).hexdigest()
    except (ValueError, RecursionError):
        return ""


class Chain:
    """One tenant's entries so far; `problem` is the first thing wrong, `bad` its seq (None: it is about no entry).

    `reach` is the seq that the entries must reach, `compared` that of the last checkpoint they were held against.
    """

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id, self.seq, self.hash, self.count = tenant_id, 0, GENESIS, 0
        self.anchors: dict[int, set[str]] = {}
        self.reach, self.compared = 0, 0
        self.problem = ""
        self.bad: int | None = None

    def fail(self, seq: int | None, problem: str) -> None:
        if not self.problem:
            self.problem, self.bad = problem, seq

    def checkpoint(self, found: dict[str, Any], public_key: str) -> None:
        self.anchors.setdefault(found["seq"], set()).add(found["hash"])
        message = canonical({name: found[name] for name in SIGNED}).encode()
        try:
            key, signature = (base64.b64decode(found[name], validate=True) for name in ("public_key", "signature"))
        except ValueError:
            key = signature = b""
        if public_key and found["public_key"] != public_key:
            self.fail(None, f"the checkpoint of seq {found['seq']} is signed by another key: {found['public_key']}")
        elif not is_signed(message, key, signature):
            self.fail(None, f"the checkpoint of seq {found['seq']} does not match its signature")

    def fits(self, seq: int, digest: str) -> bool:
        """Whether the entry is the one that its checkpoints name, if there are any."""
        if seq in self.anchors and seq:
            self.compared = seq
        return self.anchors.get(seq, set()) <= {digest}

    def entry(self, entry: dict[str, Any], *, part: bool) -> None:
        seq, expected = entry["seq"], self.seq + 1
        if part and not self.count and seq > 1:
            self.seq, self.hash, expected = seq - 1, entry["prev_hash"], seq
            if not self.fits(self.seq, self.hash):
                self.fail(seq, f"entry {seq} does not follow the entry {self.seq} that its checkpoint names")
        if entry["tenant_id"] != self.tenant_id:
            self.fail(expected, f"entry {expected} is of another tenant")
        elif seq != expected:
            self.fail(
                min(seq, expected), f"entry {expected} is missing" if seq > expected else "entries are out of place"
            )
        elif entry["prev_hash"] != self.hash:
            self.fail(seq, f"entry {seq} does not follow entry {seq - 1}")
        elif entry_hash(entry) != entry["hash"]:
            self.fail(seq, f"entry {seq} does not match its hash")
        elif not self.fits(seq, entry["hash"]):
            self.fail(seq, f"entry {seq} is not the one its checkpoint names: it or entries before it were rewritten")
        self.seq, self.hash, self.count = seq, entry["hash"], self.count + 1

    def close(self, *, anchored: bool) -> str:
        """The result, in one line; when it must be `anchored`, without a checkpoint nothing is verified."""
        name = self.tenant_id or "(platform)"
        if self.reach > self.seq:
            self.fail(self.seq + 1, f"entry {self.seq + 1} is missing: a checkpoint was made at {self.reach}")
        if not self.count:
            self.fail(None, "there are no entries")
        if anchored and not self.compared:
            self.fail(None, "there is no checkpoint to compare them with")
        if self.problem:
            where = "NOT VERIFIED" if self.bad is None else f"BROKEN, first bad seq {self.bad}"
            return f"{name}: {where}: {self.problem}"
        against = f"checkpoint at {self.compared}" if self.compared else "no checkpoint compared: a cut end is not seen"
        return f"{name}: valid, {self.count} entries, head {self.hash}, {against}"


def lines(path: str) -> Iterator[tuple[str, str]]:
    """Where they stand, and the JSON texts of a file: one a line, or one laid out over many. Raises Unreadable."""
    try:
        with open(path, encoding="utf-8") as file:
            for count, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {count}", line + file.read() if line.strip() == "{" else line
    except (OSError, UnicodeError) as error:
        raise Unreadable(f"{path}: {error}") from error


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a name given twice: readers would differ about which one counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is given twice")
    return value


def is_made_of(value: Any, kinds: dict[str, type]) -> bool:
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in kinds.items())


def parse(text: str, where: str) -> dict[str, Any]:
    """An entry, a checkpoint, or what an export says of a chain that is broken. Raises Unreadable for all else."""
    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{where}: not JSON, or a name is given twice") from error
    if isinstance(value, dict):
        found = value.get("checkpoint", value.get("broken", value))
        if is_made_of(found, CHECKPOINT) or ("broken" in value and is_made_of(found, BROKEN)):
            return found
        if value.keys() == ENTRY and is_made_of(value, TYPES):
            return value
    raise Unreadable(f"{where}: neither an entry of an audit export nor a checkpoint")


def verify(path: str, *, others: list[str], public_key: str, tenant: str | None, part: bool) -> bool:
    """Prints a line for each tenant of the file or of a checkpoint; whether everything fits. Raises Unreadable."""
    chains: dict[str, Chain] = {} if tenant is None else {tenant: Chain(tenant)}
    signed = ((each, text, where) for each in (path, *others) for where, text in lines(each) if '"signature"' in text)
    for source, text, where in signed:
        found = parse(text, where)
        if "signature" in found and tenant in (None, found["tenant_id"]):
            chain = chains.setdefault(found["tenant_id"], Chain(found["tenant_id"]))
            chain.checkpoint(found, public_key)
            if source == path or not part:  # a part may end before a checkpoint that was kept
                chain.reach = max(chain.reach, found["seq"])
    for found in (parse(text, where) for where, text in lines(path)):
        name = found["tenant_id"] if tenant is None else tenant
        if "reason" in found:
            chains.setdefault(name, Chain(name)).fail(found["first_bad_seq"], f"{found['reason']}, as the export says")
        elif "signature" not in found:
            chains.setdefault(name, Chain(name)).entry(found, part=part)
    sys.stdout.writelines(f"{chain.close(anchored=bool(public_key))}\n" for chain in chains.values())
    if not chains:
        sys.stdout.write(f"{path}: there is no chain in this file\n")
    return bool(chains) and all(not chain.problem for chain in chains.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="an export in ndjson")
    parser.add_argument("--public-key", default="", metavar="KEY", help="the only key to believe, in base64")
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="FILE", help="kept checkpoints; repeatable"
    )
    parser.add_argument("--tenant", help="the one tenant whose entries these must be")
    parser.add_argument("--part", action="store_true", help="the export begins later than seq 1")
    given = parser.parse_args()
    try:
        others, key = given.checkpoint, given.public_key
        return 0 if verify(given.file, others=others, public_key=key, tenant=given.tenant, part=given.part) else 1
    except Unreadable as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
