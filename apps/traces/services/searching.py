"""How runs are found without a scan.

With at most one filter that has an index of its own, the database walks that index, newest first; with a label, that
of the label. The runs of a task, a document or a message, when they are few, are listed once. Where other filters are
held against these runs, a page looks at no more than `EXAMINED` of them and says where the next page goes on.

Indexes begin with the tenant. Asked about all tenants, filters are held against the newest runs of all, unless there
is only one tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from django.db.models import QuerySet

from apps.traces import queries
from apps.traces.domain.filters import Filters
from apps.traces.models import Trace, TraceLabel
from apps.traces.queries import CursorKey
from clasper.core.ids import is_uuid
from clasper.core.tenancy import AllTenants

EXAMINED = 10_000
"""Runs that a page looks at, at most."""

COUNTED = 1_000
"""Runs that are looked at for a total that cannot be exact."""

CHUNK = 500
"""Ids of one query: far below what any database takes, and enough to make the round trip small."""

MENTIONED = 1_000
"""Runs taken from each index of links when a text is searched for; newer ones are found in any case."""

INDEXED = ("user_id", "risk_level", "status", "model_name", "agent_id", "workspace_id")
COMMON = {("status", "success"), ("risk_level", "low"), ("workspace_id", "default")}
"""Values that most runs have, so that an index of them narrows least. So does a tenant that is its only user."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """A page of runs. `next` is the place after which the next page begins, None when there is none."""

    rows: list[Trace]
    next: CursorKey | None


@dataclass(frozen=True, slots=True)
class Walk:
    """Runs found by walking an index. `examined` are the runs looked at when that is more than the runs that match."""

    rows: QuerySet[Trace]
    examined: QuerySet[Trace] | None

    def page(self, *, after: CursorKey | None, limit: int, offset: int = 0) -> Found:
        rows, last = self._window(after)
        found = list(rows[offset : offset + limit + 1])
        if len(found) > limit:
            return Found(found[:limit], _place(found[limit - 1]))
        return Found(found, last)

    def total(self) -> tuple[int, bool]:
        """How many match, and whether that is exact; when there are too many to look at, how many of the first few."""
        rows, last = self._window(None)
        if last is not None and self.examined is not None:
            few = min(COUNTED, EXAMINED)
            return queries.up_to(self.rows, queries.places(self.examined)[few - 1 : few].get()).count(), False
        return queries.capped_count(rows)

    def is_exact(self) -> bool:
        """Whether a page looks at every run that there is to look at."""
        return self._window(None)[1] is None

    def newest(self) -> tuple[list[CursorKey], bool]:
        """The places of the newest runs, at most EXAMINED, and whether they are all."""
        rows, last = self._window(None)
        found = list(queries.places(rows)[: EXAMINED + 1])
        return found[:EXAMINED], last is None and len(found) <= EXAMINED

    def _window(self, after: CursorKey | None) -> tuple[QuerySet[Trace], CursorKey | None]:
        """The runs to be looked at after a place, and the last of them when others follow."""
        rows = queries.after(self.rows, after) if after else self.rows
        if self.examined is None:
            return rows, None
        examined = queries.after(self.examined, after) if after else self.examined
        edge = list(queries.places(examined)[EXAMINED - 1 : EXAMINED + 1])
        if len(edge) < 2:
            return rows, None
        return queries.up_to(rows, edge[0]), edge[0]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A tenant's runs with a label, found by walking the label's index; `filters` are held against them."""

    tenant_id: str
    filters: Filters

    def page(self, *, after: CursorKey | None, limit: int, offset: int = 0) -> Found:
        found: list[CursorKey] = []
        looked = 0
        for some in self._chunks(after, size=CHUNK if self._narrowed else offset + limit + 1):
            found += self._matching(some)
            looked += len(some)
            if len(found) > offset + limit:
                return Found(_rows(found[offset : offset + limit]), found[offset + limit - 1])
            if looked >= EXAMINED:
                return Found(_rows(found[offset:]), some[-1])
        return Found(_rows(found[offset:]), None)

    def total(self) -> tuple[int, bool]:
        carriers, complete = queries.capped_count(self._labels)
        if not self._narrowed:
            return carriers, complete
        ids = self._labels.values_list("trace_id", flat=True)[: carriers if complete else COUNTED]
        # Given as values: for a subquery PostgreSQL may choose to run it again for each trace.
        return sum(queries.among(self._others, some).count() for some in _chunks(ids, COUNTED)), complete

    def is_exact(self) -> bool:
        """Whether nothing but the label is asked for, or a page looks at every run that has it."""
        return not self._narrowed or queries.capped_count(self._labels)[1]

    def newest(self) -> tuple[list[CursorKey], bool]:
        """The places of the newest runs, of at most EXAMINED with the label, and whether they are all."""
        found: list[CursorKey] = []
        looked = 0
        for some in self._chunks(None, size=CHUNK):
            found += self._matching(some)
            looked += len(some)
            if looked >= EXAMINED:
                return found, False
        return found, True

    @property
    def _labels(self) -> QuerySet[TraceLabel, CursorKey]:
        return queries.label_places(self.tenant_id, self.filters)

    @property
    def _others(self) -> Filters:
        """The filters that the label's index does not answer."""
        return replace(self.filters, label="", label_value=None, start=None, end=None)

    @property
    def _narrowed(self) -> bool:
        return self._others != Filters(tenants=self.filters.tenants)

    def _matching(self, some: list[CursorKey]) -> list[CursorKey]:
        return _places_of(self._others, (trace_id for _, trace_id in some)) if self._narrowed else some

    def _chunks(self, after: CursorKey | None, *, size: int) -> Iterator[list[CursorKey]]:
        """Places of the label's runs, newest first."""
        while True:
            rest = self._labels if after is None else queries.after(self._labels, after, name="trace_id")
            some = list(rest[:size])
            if some:
                yield some
            if len(some) < size:
                return
            after = some[-1]


@dataclass(frozen=True, slots=True)
class Listed:
    """Runs whose places are known, newest first. `searched` are the runs whose texts were read, None without a text."""

    places: Sequence[CursorKey]
    complete: bool = True
    searched: int | None = None

    def page(self, *, after: CursorKey | None, limit: int, offset: int = 0) -> Found:
        places = [place for place in self.places if after is None or place < after]
        chosen = places[offset : offset + limit]
        more = len(places) > offset + limit
        return Found(_rows(chosen), chosen[-1] if more and chosen else None)

    def total(self) -> tuple[int, bool]:
        return len(self.places), self.complete


def search(filters: Filters) -> Walk | Labelled | Listed:
    """Decides how the runs that match are found."""
    filters = replace(filters, tenants=queries.narrowed(filters.tenants))
    found = _listed(filters) or _walk_or_label(filters)
    return _mentioning(filters, found) if filters.text else found


def _walk_or_label(filters: Filters) -> Walk | Labelled:
    """A tenant's runs with the label, unless they are many and another filter has so few that all can be looked at."""
    if not filters.label or isinstance(filters.tenants, AllTenants):
        return _walk(filters)
    labelled = Labelled(filters.tenants.tenant_id, _one_model(filters))
    if labelled.is_exact():
        return labelled
    walk = _walk(filters)
    return walk if walk.is_exact() else labelled


def _listed(filters: Filters) -> Listed | None:
    """The runs of the filters' link, or of all tenants' label, when they are few."""
    carriers: list[QuerySet[Any, str]] = [
        queries.linked(filters.tenants, name, getattr(filters, name))
        for name in queries.LINKS
        if getattr(filters, name)
    ]
    if filters.label and isinstance(filters.tenants, AllTenants):
        carriers.append(queries.labelled(filters))
    for ids in carriers:
        some = list(ids[: queries.COUNT_CAP + 1])
        if len(some) <= queries.COUNT_CAP:
            return Listed(_places_of(filters, some))
    return None


def _places_of(filters: Filters, ids: Iterable[str]) -> list[CursorKey]:
    """Places of those among the runs that match, newest first."""
    found = (place for some in _chunks(ids) for place in queries.places(queries.among(filters, some)))
    return sorted(found, reverse=True)


def _walk(filters: Filters) -> Walk:
    filters = _one_model(filters)
    given = {name: value for name in (*queries.EQUALITIES, "model") if (value := getattr(filters, name))}
    driver = "" if isinstance(filters.tenants, AllTenants) else _driver(filters.tenants.tenant_id, given)
    rows = queries.matching(filters, driver=driver)
    if not given.keys() - {driver} and not filters.label and filters.min_cost is None and filters.max_cost is None:
        return Walk(rows, None)
    examined = Filters(tenants=filters.tenants, start=filters.start, end=filters.end)
    if driver:
        examined = replace(examined, **{driver: given[driver]})
    return Walk(rows, queries.matching(examined, driver=driver))


def _one_model(filters: Filters) -> Filters:
    """The filters with `model` said in one way where possible: some hosts' models have a slash in their names."""
    provider, _, name = filters.model.partition("/")
    if not (provider and name):
        return replace(filters, model="", model_name=filters.model)
    if not queries.has_model(filters.tenants, filters.model):
        return replace(filters, model="", model_name=name, provider=provider)
    if not queries.has_model(filters.tenants, name):
        return replace(filters, model="", model_name=filters.model)
    return filters


def _driver(tenant_id: str, given: Mapping[str, str]) -> str:
    """The filter whose index is walked: the one that should narrow most, `""` when none has an index."""
    common = {*COMMON, ("user_id", tenant_id)}
    if given.get("kind", queries.COMMON_KINDS[0]) not in queries.COMMON_KINDS:
        return "kind"
    names = [name for name in INDEXED if name in given]
    return min(names, key=lambda name: (name, given[name]) in common, default="")


def _mentioning(filters: Filters, found: Walk | Labelled | Listed) -> Listed:
    """Narrows to the runs that the text names or that hold it."""
    places, complete = (found.places, found.complete) if isinstance(found, Listed) else found.newest()
    chosen = set(_places_of(filters, _named(filters)))
    for some in _chunks(places):
        chosen.update(_holding(some, filters.text))
    return Listed(sorted(chosen, reverse=True), complete, searched=len(places))


def _named(filters: Filters) -> Iterator[str]:
    """Ids of the runs whose own id, or the id of a link, the text is."""
    if is_uuid(filters.text):
        yield filters.text.lower()
    for column in queries.LINKS:
        yield from queries.linked(filters.tenants, column, filters.text)[:MENTIONED]


def _holding(places: Sequence[CursorKey], text: str) -> Iterator[CursorKey]:
    ids = [trace_id for _, trace_id in places]
    facts = Trace.objects.filter(id__in=ids).values_list("id", "tenant_id", "user_id", *queries.LINKS)
    named = {trace_id for trace_id, _, *names in facts if text in names}
    holding = queries.mentioning(ids, {tenant_id for _, tenant_id, *_ in facts}, text)
    return (place for place in places if place[1] in named or place[1] in holding)


def _rows(places: Sequence[CursorKey]) -> list[Trace]:
    """The runs at these places, without those that are gone meanwhile."""
    ids = _chunks(trace_id for _, trace_id in places)
    rows = {row.id: row for some in ids for row in Trace.objects.filter(id__in=some)}
    return [rows[trace_id] for _, trace_id in places if trace_id in rows]


def _place(trace: Trace) -> CursorKey:
    return trace.started_at, trace.id


def _chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
