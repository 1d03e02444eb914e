"""The page's server: on this machine, at an address with a token, of one scan and nothing else."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modiff.errors import ConfigError, DataError, ModiffError, printable
from modiff.io.files import reason_of
from modiff.view.pack import packed_raters
from modiff.view.viewer import Asked, Superseded, Viewer

_FILES = {  # of the page, by name: nothing else is read from disk
    "": ("index.html", "text/html"),
    "view.css": ("view.css", "text/css"),
    "view.js": ("view.js", "text/javascript"),
    "layers.js": ("layers.js", "text/javascript"),
    "brush.js": ("brush.js", "text/javascript"),
    "niivue.js": ("niivue.js", "text/javascript"),
}
_MOST, _FAR = 256 << 20, 1 << 20  # bytes of a request; a number of pixels or slices
_POLL = 0.05  # seconds between checks whether the page still waits
# NiiVue's font and lights are images within its own file; its drawing makes no other requests.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets through what comes from the page itself: this host and port, the token, no other site's request."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403 in place of the app where a request is not the page's."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        given, _, rest = str(scope["path"]).removeprefix("/").partition("/")
        if (reason := self._refused(Headers(scope=scope), given)) is not None:
            await PlainTextResponse(reason, 403)(scope, receive, guarded)
            return
        await self.app({**scope, "path": f"/{rest}", "raw_path": b""}, receive, guarded)

    def _refused(self, headers: Headers, token: str) -> str | None:
        host = headers.get("host", "")
        if host not in self.hosts:
            return "another host"
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return "another origin"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "another site"
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode()):
            return "open the address that `modiff view` printed"
        return None


def application(viewer: Viewer, token: str, port: int) -> ASGIApp:
    """The server's application, as ASGI."""
    turn = asyncio.Lock()

    async def scan(request: Request) -> Response:
        data = await run_in_threadpool(viewer.scan_bytes, request.path_params["channel"])
        return Response(data, media_type="application/octet-stream")

    async def describe(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(viewer.describe))

    async def click(request: Request) -> Response:
        asked = _asked(await _body(request))
        async with turn:
            if over := await request.is_disconnected():  # the page has asked for another place meanwhile
                return Response(status_code=204)
            drawing = asyncio.create_task(run_in_threadpool(viewer.click, asked, over=lambda: over))
            while not (await asyncio.wait([drawing], timeout=_POLL))[0]:
                over = over or await request.is_disconnected()
            try:
                return JSONResponse(drawing.result())
            except Superseded:
                return Response(status_code=204)

    async def export(request: Request) -> Response:
        data = await run_in_threadpool(viewer.export, _asked(await _body(request)))
        return Response(data, media_type="application/zip")

    async def save(request: Request) -> Response:
        body = await _body(request)
        slices, rater, replacing = _slices(body.get("slices")), body.get("rater"), body.get("replace")
        if not isinstance(rater, str) or not isinstance(replacing, bool):
            raise DataError("cannot be understood", field="request", expected="rater, replace and slices")
        path = await run_in_threadpool(viewer.save_mask, rater, slices, replacing=replacing)
        return JSONResponse({"path": str(path), "raters": packed_raters(viewer.raters)})

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": printable(str(error))}, 400)

    routes = [
        *(Route(f"/{name}", _page(*file)) for name, file in _FILES.items()),
        Route("/scan-{channel:int}.nii", scan),
        Route("/describe", describe),
        Route("/click", click, methods=["POST"]),
        Route("/export", export, methods=["POST"]),
        Route("/mask", save, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={ModiffError: refused}), token, port)


def serve(viewer: Viewer, *, port: int = 0, opened: Callable[[str], object]) -> None:
    """Serves the page on 127.0.0.1 until interrupted. port: 0 takes a free one. opened: is told the page's address.

    Raises ConfigError for a port that cannot be had.
    """
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            why = reason_of(error)
            raise ConfigError(
                "is not available", field="--port", found=port, expected="1 to 65535, free", hint=why
            ) from error
        port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        config = uvicorn.Config(
            application(viewer, token, port), log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        listening.listen()
        threading.Thread(target=viewer.warm, daemon=True).start()
        opened(f"http://127.0.0.1:{port}/{token}/")
        uvicorn.Server(config).run(sockets=[listening])


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """Answers with one of the page's own files."""

    async def page(_: Request) -> Response:
        return Response((resources.files("modiff.view") / "page" / name).read_bytes(), media_type=kind)

    return page


async def _body(request: Request) -> dict[str, Any]:
    """A request's JSON object; DataError for another, or one that is too large."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST:
            raise DataError("is too large", field="request", expected=f"at most {_MOST >> 20} MiB")
    try:
        found = json.loads(data) if request.headers.get("content-type") == "application/json" else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError("is not a JSON object", field="request", expected="application/json")
    return found


def _asked(body: dict[str, Any]) -> Asked:
    at, raters, slices = body.get("at"), body.get("raters", "single"), body.get("slices", 0)
    flags = [body.get(name, False) for name in ("whole", "preview")]
    numbers: list[Any] = [slices, *at] if isinstance(at, list) and len(at) == 3 else [None]
    whole = all(type(number) is int and 0 <= number < _FAR for number in numbers)
    if not whole or raters not in ("single", "marking") or not all(type(flag) is bool for flag in flags):
        raise DataError("cannot be understood", field="request", expected="at, raters, slices, whole and preview")
    return Asked((numbers[1], numbers[2], numbers[3]), raters, slices, *flags)


def _slices(given: object) -> dict[int, bytes]:
    """Slices by their numbers, which are JSON's texts."""
    if not isinstance(given, dict) or not all(key.isdecimal() and len(key) < 7 for key in given):
        raise DataError("is not a mask", field="slices", expected="numbers of slices")
    try:
        return {int(key): base64.b64decode(text, validate=True) for key, text in given.items()}
    except (binascii.Error, TypeError, ValueError):
        raise DataError("is not a mask", field="slices", expected="base64") from None
