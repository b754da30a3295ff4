"""The case `stream`: a chunk's share of a stream's CPU, and chunks that got lost."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.checks import served_faults
from benchmarks.servers import HOSTS, Variant, server_environment
from benchmarks.streams import FEW, GAPS, MANY, VARIANTS, Leg, Streamed, event_faults

SPACED, AT_ONCE = GAPS["spaced"], GAPS["at once"]


def leg(gap: float, chunks: int, *, streams: int, cpu: float, reads: int = 0) -> Leg:
    return Leg(gap, chunks, streams, 4.0, cpu, reads, 1.0, 0.5, {"p50": 1.0})


def run(chunk_seconds: float, other_seconds: float) -> Streamed:
    """Runs of unequal numbers of streams, of which each costs the same for its chunks and besides."""
    legs = [
        leg(
            gap, chunks, streams=streams, cpu=streams * (other_seconds + chunks * chunk_seconds), reads=streams * chunks
        )
        for gap in (SPACED, AT_ONCE)
        for chunks, streams in ((FEW, 500), (MANY, 60))
    ]
    return Streamed("openai", 1120, legs)


@pytest.mark.parametrize("other_ms", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("gap", [SPACED, AT_ONCE])
def test_what_a_run_costs_anyway_is_no_part_of_a_chunk(other_ms: float, gap: float) -> None:
    found = run(40e-6, other_ms / 1000)
    assert found.chunk_us(gap) == pytest.approx(40)
    assert found.stream_ms(gap) == pytest.approx(other_ms, abs=1e-9)
    assert found.chunk_reads(gap) == pytest.approx(1)


def test_the_share_of_each_process_is_of_the_time_that_the_leg_took() -> None:
    found = leg(SPACED, FEW, streams=1, cpu=3.8)
    assert [found.busy(process) for process in ("server", "load generator", "upstream")] == [0.95, 0.25, 0.125]


@pytest.mark.parametrize(("events", "faults"), [(3 * 22, 0), (3 * 22 - 1, 1), (3 * 22 + 1, 1), (0, 1)])
def test_every_chunk_must_have_been_read(events: int, faults: int) -> None:
    found: dict[str, Any] = {"statuses": {"200": 3}, "events": events}
    assert len(event_faults(found, 20)) == faults


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("streams", [False, True])
def test_the_provider_must_have_been_asked_in_its_wire_format(name: str, streams: bool) -> None:
    kind = "completions_streamed" if streams else "completions"
    counts = {kind: 5, f"asked_{HOSTS[name].wire_format}": 5, "messages": 5, "tasks_list": 5}
    variant = Variant(name, provider=name)
    assert served_faults(counts, variant, 5, streams=streams) == []
    assert len(served_faults(counts, variant, 5, streams=not streams)) == 1
    assert len(served_faults(counts | {f"asked_{HOSTS[name].wire_format}": 4}, variant, 5, streams=streams)) == 1


@pytest.mark.parametrize("name", HOSTS)
def test_servers_know_one_provider_and_its_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in HOSTS:
        monkeypatch.setenv(f"{other.upper()}_API_KEY", "of the developer")
    environment = server_environment(database_url="sqlite:///x.db", upstream="http://127.0.0.1:9", provider=name)
    assert environment["LLM_PROVIDER"] == name
    assert environment["LLM_MODEL_DEFAULT"] == HOSTS[name].model
    assert [each for each in HOSTS if f"{each.upper()}_API_KEY" in environment] == [name]
    assert environment[f"{name.upper()}_BASE_URL"].startswith("http://127.0.0.1:9/v1")


def test_every_wire_format_is_streamed() -> None:
    assert {HOSTS[variant.provider].wire_format for variant in VARIANTS} == {
        host.wire_format for host in HOSTS.values()
    }
