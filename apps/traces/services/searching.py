"""How runs are found without a scan.

With at most one filter that has an index of its own, the database walks that index, newest first; with a label, the
label's. The runs of a task, a document or a message are listed if they are few. Where other filters narrow these runs,
a page looks at no more than `EXAMINED` of them and says where the next page starts.

Indexes begin with the tenant. A search of all tenants looks at the newest runs of all, unless there is only one tenant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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
"""The most runs that a page looks at."""

COUNTED = 1_000
"""Runs that are looked at for a total that cannot be exact."""

CHUNK = 500
"""Ids in one query: far below any database's limit, and enough to make round trips cheap."""

MENTIONED = 1_000
"""Runs taken from each index of links when a text is searched for; newer ones are found in any case."""

INDEXED = ("user_id", "risk_level", "status", "model_name", "agent_id", "workspace_id")
COMMON = {("status", "success"), ("risk_level", "low"), ("workspace_id", "default")}
"""Values that most runs have, so that an index of them narrows least. So does a tenant that is its own only user."""

T = TypeVar("T")

Keys = tuple[list[CursorKey], CursorKey | None]
"""Keys of runs, newest first, and the key after which the next page starts, None on the last page."""


class Search(ABC):
    """Runs that match, newest first."""

    searched: int | None = None
    """The number of runs whose texts were read, None without a text."""

    @abstractmethod
    def keys(self, after: CursorKey | None, limit: int, offset: int = 0) -> Keys:
        """The keys of at most `limit` runs that match and follow `after`."""

    @abstractmethod
    def total(self) -> tuple[int, bool]:
        """How many runs match, and whether that is exact; if too many to look at, how many of the first few match."""

    def page(self, *, after: CursorKey | None, limit: int, offset: int = 0) -> tuple[list[Trace], CursorKey | None]:
        """The runs of `keys`, without those deleted since, and the key after which the next page starts."""
        keys, following = self.keys(after, limit, offset)
        rows = {row.id: row for some in _chunks(keys) for row in Trace.objects.filter(id__in=_ids(some))}
        return [rows[trace_id] for _, trace_id in keys if trace_id in rows], following


@dataclass(frozen=True, slots=True)
class IndexScan(Search):
    """Runs found by walking an index. `examined` are the runs looked at if these are more than the runs that match."""

    rows: QuerySet[Trace]
    examined: QuerySet[Trace] | None

    def keys(self, after: CursorKey | None, limit: int, offset: int = 0) -> Keys:
        rows, last = self._window(after)
        found = list(queries.keys(rows)[offset : offset + limit + 1])
        return (found[:limit], found[limit - 1]) if len(found) > limit else (found, last)

    def page(self, *, after: CursorKey | None, limit: int, offset: int = 0) -> tuple[list[Trace], CursorKey | None]:
        """As in the base, with one query instead of two."""
        rows, last = self._window(after)
        found = list(rows[offset : offset + limit + 1])
        if len(found) > limit:
            found, last = found[:limit], (found[limit - 1].started_at, found[limit - 1].id)
        return found, last

    def total(self) -> tuple[int, bool]:
        rows, last = self._window(None)
        if last is None or self.examined is None:
            return queries.capped_count(rows)
        few = min(COUNTED, EXAMINED)
        return queries.up_to(self.rows, queries.keys(self.examined)[few - 1 : few].get()).count(), False

    def is_exact(self) -> bool:
        """Whether a page looks at every run that there is to look at."""
        return self._window(None)[1] is None

    def _window(self, after: CursorKey | None) -> tuple[QuerySet[Trace], CursorKey | None]:
        """The runs to be looked at after a key, and the last of them when others follow."""
        rows = queries.after(self.rows, after)
        if self.examined is None:
            return rows, None
        edge = list(queries.keys(queries.after(self.examined, after))[EXAMINED - 1 : EXAMINED + 1])
        return (queries.up_to(rows, edge[0]), edge[0]) if len(edge) == 2 else (rows, None)


@dataclass(frozen=True, slots=True)
class LabelScan(Search):
    """Runs found by walking the index of a tenant's label; `others` are the filters that it does not answer, if any."""

    labels: QuerySet[TraceLabel, CursorKey]
    others: Filters | None

    def keys(self, after: CursorKey | None, limit: int, offset: int = 0) -> Keys:
        found: list[CursorKey] = []
        looked = 0
        for some in self._chunks(after, size=CHUNK if self.others else offset + limit + 1):
            found += _matching(self.others, _ids(some)) if self.others else some
            looked += len(some)
            if len(found) > offset + limit:
                return found[offset : offset + limit], found[offset + limit - 1]
            if looked >= EXAMINED:
                return found[offset:], some[-1]
        return found[offset:], None

    def total(self) -> tuple[int, bool]:
        carriers, complete = queries.capped_count(self.labels)
        if self.others is None:
            return carriers, complete
        ids = self.labels.values_list("trace_id", flat=True)[: carriers if complete else COUNTED]
        # Given as values: for a subquery PostgreSQL may choose to run it once per trace.
        return sum(queries.among(self.others, some).count() for some in _chunks(ids, COUNTED)), complete

    def is_exact(self) -> bool:
        """Whether nothing but the label is asked for, or a page looks at every run that has it."""
        return self.others is None or queries.capped_count(self.labels)[1]

    def _chunks(self, after: CursorKey | None, *, size: int) -> Iterator[list[CursorKey]]:
        while some := list(queries.after(self.labels, after, name="trace_id")[:size]):
            yield some
            if len(some) < size:
                return
            after = some[-1]


@dataclass(frozen=True)
class IdList(Search):
    """Runs whose keys are known, newest first."""

    found: Sequence[CursorKey]
    complete: bool = True
    searched: int | None = None

    def keys(self, after: CursorKey | None, limit: int, offset: int = 0) -> Keys:
        rest = [key for key in self.found if after is None or key < after][offset:]
        return rest[:limit], rest[limit - 1] if len(rest) > limit else None

    def total(self) -> tuple[int, bool]:
        return len(self.found), self.complete


def search(filters: Filters) -> Search:
    """Decides how the runs that match are found."""
    filters = replace(filters, tenants=queries.narrowed(filters.tenants))
    found = _few(filters) or _scan(_one_model(filters))
    return _mentioning(filters, found) if filters.text else found


def _few(filters: Filters) -> IdList | None:
    """The runs with the filters' link, or of all tenants with their label, if they are few."""
    carriers: list[QuerySet[Any, str]] = [
        queries.linked(filters.tenants, name, getattr(filters, name))
        for name in queries.LINKS
        if getattr(filters, name)
    ]
    if filters.label and isinstance(filters.tenants, AllTenants):
        carriers.append(queries.labelled(filters))
    for carrier in carriers:
        ids = list(carrier[: queries.COUNT_CAP + 1])
        if len(ids) <= queries.COUNT_CAP:
            return IdList(_matching(filters, ids))
    return None


def _scan(filters: Filters) -> Search:
    """A tenant's runs with the label, unless they are many and another filter has so few that all can be looked at."""
    if not filters.label or isinstance(filters.tenants, AllTenants):
        return _index_scan(filters)
    others = replace(filters, label="", label_value=None, start=None, end=None, text="")
    narrowed = others != Filters(tenants=filters.tenants)
    by_label = LabelScan(queries.label_keys(filters.tenants.tenant_id, filters), others if narrowed else None)
    if by_label.is_exact():
        return by_label
    by_index = _index_scan(filters)
    return by_index if by_index.is_exact() else by_label


def _index_scan(filters: Filters) -> IndexScan:
    given = {name: value for name in (*queries.EQUALITIES, "model") if (value := getattr(filters, name))}
    driver = "" if isinstance(filters.tenants, AllTenants) else _driver(filters.tenants.tenant_id, given)
    rows = queries.matching(filters, driver=driver)
    if not given.keys() - {driver} and not filters.label and filters.min_cost is None and filters.max_cost is None:
        return IndexScan(rows, None)
    examined = Filters(tenants=filters.tenants, start=filters.start, end=filters.end)
    if driver:
        examined = replace(examined, **{driver: given[driver]})
    return IndexScan(rows, queries.matching(examined, driver=driver))


def _one_model(filters: Filters) -> Filters:
    """The filters with `model` said in one way where possible: some providers' models have a slash in their names."""
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


def _mentioning(filters: Filters, found: Search) -> IdList:
    """Narrows the newest of the runs to those that the text names or that contain it."""
    keys, following = found.keys(None, EXAMINED)
    chosen = set(_matching(filters, _named(filters)))
    for some in _chunks(keys):
        containing = queries.mentioning(_ids(some), filters.text)
        chosen.update(key for key in some if key[1] in containing)
    return IdList(sorted(chosen, reverse=True), following is None, searched=len(keys))


def _named(filters: Filters) -> Iterator[str]:
    """Ids of the runs whose own id, or the id of a link, the text is."""
    if is_uuid(filters.text):
        yield filters.text.lower()
    for column in queries.LINKS:
        yield from queries.linked(filters.tenants, column, filters.text)[:MENTIONED]


def _matching(filters: Filters, ids: Iterable[str]) -> list[CursorKey]:
    """Keys of those among the runs that match, newest first."""
    found = (key for some in _chunks(ids) for key in queries.keys(queries.among(filters, some)))
    return sorted(found, reverse=True)


def _ids(keys: Iterable[CursorKey]) -> list[str]:
    return [trace_id for _, trace_id in keys]


def _chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
