"""Who may ask the server what: checks of each request before the app sees it, and headers of each answer.

A web page of somebody else, open in the same browser, can send requests to a server on this machine. Browsers say where
a request is from: by Host (a name that was made to point here, DNS rebinding), Origin and Sec-Fetch-Site.
"""

import asyncio
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE_METHODS = ("GET", "HEAD")
OPEN_PATHS = ("/", "/static/", "/openapi.json")  # hold nothing of the user's: served without the token
MAX_QUERY_FIELDS = 20  # of the address with the token
MAX_JSON_BYTES = 64_000  # of a request that is no upload
IDLE_SECONDS = 30.0  # without a byte of a request's body, or with no byte of an answer taken
MIN_BYTES_PER_SECOND = 10_000  # of a body, after the first IDLE_SECONDS
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """Where the server listens, and the token that callers need; None where only this machine can call."""

    host: str
    token: str | None
    max_upload_bytes: int

    def __post_init__(self) -> None:
        assert self.token is not None or is_loopback(self.host), "only loopback needs no token"

    def allows_host(self, name: str) -> bool:
        """Whether a request may be meant for this server by the name in its header Host, without the port."""
        if name == "localhost" or name.endswith(".localhost") or is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        # An address is no name that somebody could have pointed here.
        return _is_address(name) or name in {self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Refusal(Exception):
    """An answer that ends a request before the app sees it."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.detail, self.headers = status, detail, headers or {}


class SafetyMiddleware:
    """Refuses requests that are not the user's, and limits the size and the time of the others."""

    def __init__(self, app: App, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        sender = _CarefulSender(send)
        if scope["type"] != "http":
            return
        headers = _headers(scope)
        try:
            self._check(scope, headers)
        except Refusal as refusal:
            await sender.refuse(refusal)
            return
        receiver = _LimitedReceiver(receive, self._max_bytes(scope))
        try:
            await self.app(scope, receiver, sender)
        except (ConnectionError, TimeoutError):
            return  # of a client that is gone, or takes no answer

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if not self.access.allows_host(host_name(host)):
            raise Refusal(421, "this server does not go by the name in the header Host")
        _check_origin(scope, headers, host)
        self._check_token(scope, headers, host)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise Refusal(400, "Content-Length is not a number")
        if int(length) > (limit := self._max_bytes(scope)):
            raise Refusal(413, f"the request has {int(length):,} bytes; at most {limit:,} are accepted")

    def _max_bytes(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and scope["path"] in UPLOAD_PATHS
        return self.access.max_upload_bytes if is_upload else MAX_JSON_BYTES

    def _check_token(self, scope: Scope, headers: dict[str, str], host: str) -> None:
        token = self.access.token
        if token is None:
            return
        name = cookie_name(host)
        if scope["path"] == "/" and (given := _query_token(scope)) is not None:
            if not _equal(given, token):
                raise Refusal(401, "this is not the server's token; it is in the address that the server printed")
            cookie = f"{name}={token}; HttpOnly; SameSite=Strict; Path=/"
            raise Refusal(303, "the token is accepted", {"location": "/", "set-cookie": cookie})
        if any(scope["path"] == path or (path != "/" and scope["path"].startswith(path)) for path in OPEN_PATHS):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given_tokens = [bearer.strip() if scheme.lower() == "bearer" else "", _cookie(headers.get("cookie", ""), name)]
        if not any(_equal(given, token) for given in given_tokens):
            raise Refusal(
                401,
                "a token is needed: open the address that the server printed, or send Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )


UPLOAD_PATHS = ("/predict", "/api/jobs")


def host_name(host: str) -> str:
    """The name or address in a header Host, lower case, without port and brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def cookie_name(host: str) -> str:
    """The name of the cookie with the token: one for each port, as browsers share cookies between ports."""
    port = host.rpartition("]")[2].partition(":")[2]
    return f"finetune_{port if port.isdigit() else 80}"


def _check_origin(scope: Scope, headers: dict[str, str], host: str) -> None:
    """Refuse what another site makes the browser send; only following a link to the page itself is allowed."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    is_safe = scope["method"] in SAFE_METHODS
    if is_safe and scope["path"] == "/" and headers.get("sec-fetch-mode") in (None, "navigate"):
        return
    if site not in (None, "same-origin", "none"):
        raise Refusal(403, "requests from other sites are refused")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        raise Refusal(403, "requests from other sites are refused")


def _headers(scope: Scope) -> dict[str, str]:
    """The headers by name; of one that is given twice, all values."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _query_token(scope: Scope) -> str | None:
    try:
        values = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=MAX_QUERY_FIELDS).get("token")
    except ValueError:
        raise Refusal(400, f"the address has more than {MAX_QUERY_FIELDS} parameters") from None
    return values[0] if values else None


def _cookie(header: str, name: str) -> str:
    try:
        return SimpleCookie(header)[name].value
    except (CookieError, KeyError):
        return ""


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


class _LimitedReceiver:
    """The body of a request, which may be neither too long nor too slow: chunked bodies state no length."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit = receive, limit
        self.bytes, self.is_complete = 0, False
        self.begin = time.monotonic()

    async def __call__(self) -> Message:
        if self.is_complete:  # what comes next is that the client has gone
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), IDLE_SECONDS)
        except TimeoutError:
            raise HTTPException(408, f"nothing was received for {IDLE_SECONDS:g} s") from None
        if message["type"] == "http.request":
            self.bytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        if self.bytes > self.limit:
            raise HTTPException(413, f"the request has more than {self.limit:,} bytes", {"connection": "close"})
        late = time.monotonic() - self.begin - IDLE_SECONDS
        if not self.is_complete and late * MIN_BYTES_PER_SECOND > self.bytes:
            raise HTTPException(408, "the request arrives too slowly", {"connection": "close"})
        return message


class _CarefulSender:
    """Sends an answer with the security headers; raises TimeoutError for a client that takes none of it."""

    def __init__(self, send: Send) -> None:
        self.send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            more = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *(item for item in more if item[0] not in given)]
        await asyncio.wait_for(self.send(message), IDLE_SECONDS)

    async def refuse(self, refusal: Refusal) -> None:
        body = json.dumps({"detail": refusal.detail}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [(name.encode(), value.encode()) for name, value in {**headers, **refusal.headers}.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": lines})
        await self({"type": "http.response.body", "body": body})
