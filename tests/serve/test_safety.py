"""Who may ask the server what: the checks of each request, by themselves and in a server for other machines."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st

from finetune.serve import safety
from finetune.serve.safety import Access, SafetyMiddleware, host_name

LOCAL = Access("127.0.0.1", None, max_upload_bytes=1000)
OPEN = Access("0.0.0.0", "secret", max_upload_bytes=1000)


def ask(method, path, headers=None, *, access=LOCAL, content=None, host="127.0.0.1:8000"):
    app = FastAPI(openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
    async def read(request: Request):
        return {"bytes": len(await request.body())}

    async def send():
        transport = httpx.ASGITransport(SafetyMiddleware(app, access))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(send())


def test_an_address_with_many_parameters_is_refused_where_a_token_is_looked_for():
    answer = ask("GET", "/?" + "&".join(["a=1"] * 30), access=OPEN)
    assert answer.status_code == 400 and "more than 20 parameters" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "127.8.8.8", "page.localhost:1"])
def test_names_of_this_machine_are_served(host):
    assert ask("GET", "/api/about", host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "10.0.0.1"])
def test_a_name_that_somebody_made_point_here_is_refused(host):
    assert ask("GET", "/", host=host).status_code == 421
    assert ask("POST", "/predict", host=host).status_code == 421


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},  # another program of this machine
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000.evil.example"},
    ],
)
def test_requests_of_other_sites_are_refused(method, headers):
    assert ask(method, "/api/clips", headers).status_code == 403


def test_a_link_to_the_page_can_be_followed_from_anywhere():
    assert ask("GET", "/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200
    assert ask("GET", "/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403


def test_the_page_itself_and_programs_are_served():
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert ask("POST", "/api/changes", own).status_code == ask("POST", "/api/changes").status_code == 200


def test_other_machines_need_the_token():
    outside = {"access": OPEN, "host": "192.168.1.7:8000"}
    assert ask("GET", "/api/about", **outside).status_code == 401
    assert ask("GET", "/api/about", {"authorization": "Bearer wrong"}, **outside).status_code == 401
    assert ask("GET", "/api/about", {"authorization": "Bearer secret"}, **outside).status_code == 200
    assert ask("GET", "/", **outside).status_code == ask("GET", "/static/app.js", **outside).status_code == 200
    assert ask("GET", "/?token=wrong", **outside).status_code == 401
    accepted = ask("GET", "/?token=secret", **outside)
    assert accepted.status_code == 303 and accepted.headers["location"] == "/"
    cookie = accepted.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert ask("GET", "/api/about", {"cookie": cookie.partition(";")[0]}, **outside).status_code == 200
    assert ask("GET", "/api/about", {"cookie": "finetune_8000=other"}, **outside).status_code == 401


def test_a_server_for_other_machines_refuses_foreign_names_too():
    allowed = {"authorization": "Bearer secret"}
    assert ask("GET", "/api/about", allowed, access=OPEN, host="evil.example").status_code == 421


def test_a_server_for_other_machines_has_a_token():
    with pytest.raises(AssertionError, match="token"):
        Access("0.0.0.0", None, max_upload_bytes=1)


def test_bodies_have_a_limit_by_length_and_while_they_arrive():
    async def chunks():
        for _ in range(30):
            yield b"x" * 100

    assert ask("POST", "/predict", content=b"x" * 1000).json() == {"bytes": 1000}
    assert ask("POST", "/predict", content=b"x" * 1001).status_code == 413
    assert ask("POST", "/predict", content=chunks()).status_code == 413
    assert ask("POST", "/api/changes", content=b"x" * (safety.MAX_JSON_BYTES + 1)).status_code == 413
    assert ask("POST", "/predict", {"content-length": "1e3"}, content=b"x").status_code == 400


def test_a_body_that_stops_is_given_up(monkeypatch):
    monkeypatch.setattr(safety, "IDLE_SECONDS", 0.1)

    async def chunks():
        yield b"x"
        await asyncio.sleep(1)
        yield b"x"

    answer = ask("POST", "/predict", content=chunks())
    assert answer.status_code == 408 and "0.1 s" in answer.json()["detail"]


def test_a_body_that_trickles_is_given_up(monkeypatch):
    monkeypatch.setattr(safety, "IDLE_SECONDS", 0.05)

    async def chunks():
        for _ in range(100):
            await asyncio.sleep(0.01)
            yield b"x"

    answer = ask("POST", "/predict", content=chunks())
    assert answer.status_code == 408 and "slowly" in answer.json()["detail"]


def test_every_answer_has_the_security_headers():
    for answer in (ask("GET", "/"), ask("GET", "/", host="evil.example"), ask("GET", "/api/x", {"origin": "null"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=40))
def test_no_odd_host_counts_as_this_machine(host):
    name = host_name(host)
    is_local = name == "localhost" or name.endswith(".localhost") or safety.is_loopback(name)
    assert LOCAL.allows_host(name) == is_local
