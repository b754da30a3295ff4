"""Static files on the event loop: WhiteNoise answers with a file to be iterated synchronously, which ASGI cannot do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

Handler = Callable[[HttpRequest], HttpResponseBase]


def whole_files(get_response: Handler) -> Handler:
    """Middleware around WhiteNoise: a streamed file becomes a whole answer. The static files are small."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not isinstance(response, FileResponse):
            return response
        with closing(response):
            return HttpResponse(response.getvalue(), status=response.status_code, headers=dict(response.items()))

    return middleware
