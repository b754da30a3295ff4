"""The process's price book, made from the settings."""

from __future__ import annotations

from functools import cache

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.governance.domain.prices import InvalidPrices, PriceBook
from clasper.core.clock import utc_now


@cache
def price_book() -> PriceBook:
    """The prices in force: the settings' overrides over the listed ones.

    Raises ImproperlyConfigured naming every error in CLASPER_PRICE_OVERRIDES.
    """
    try:
        return PriceBook(settings.CLASPER_PRICE_OVERRIDES, today=lambda: utc_now().date())
    except InvalidPrices as error:
        raise ImproperlyConfigured("CLASPER_PRICE_OVERRIDES:\n  - " + "\n  - ".join(error.errors)) from error
