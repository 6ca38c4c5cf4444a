"""The app: its routes, its page, and its errors, which are JSON with a sentence in `detail`."""

import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from finetune.report import words
from finetune.serve import clip_routes, job_routes, label_routes
from finetune.serve.about import about
from finetune.serve.job_routes import State
from finetune.serve.jobs import QueueFullError
from finetune.serve.safety import SafetyMiddleware
from finetune.serve.state import ServerState
from finetune.serve.uploads import UploadError
from finetune.version import VERSION

STATIC = Path(__file__).parent / "static"
REPORT_CSS = Path(words.__file__).parent / "templates" / "report.css"
STATIC_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
RETRY_SECONDS = "5"


def build_app(server: ServerState) -> FastAPI:
    """The app of a server. Its own documentation pages are off, as they load scripts from other sites."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            await server.close()

    app = FastAPI(title="finetune serve", version=VERSION, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.server = server
    app.include_router(job_routes.router)
    app.include_router(clip_routes.router)
    app.include_router(label_routes.router)
    app.add_api_route("/api/about", _about, methods=["GET"])
    app.add_api_route("/", _page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/static/{name}", _static, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(UploadError, _upload_error)
    app.add_exception_handler(QueueFullError, _queue_full)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(SafetyMiddleware, access=server.settings.access)
    return app


async def _about(server: State) -> dict[str, Any]:
    """The run, what the server can do with it, and the limits of uploads."""
    return about(server)


async def _page() -> FileResponse:
    return _static_file(STATIC / "index.html")


async def _static(name: str) -> FileResponse:
    return _static_file(REPORT_CSS if name == "report.css" else STATIC / Path(name).name)


def _static_file(path: Path) -> FileResponse:
    if path.suffix not in STATIC_TYPES or not path.is_file():
        raise HTTPException(404, "there is no such file")
    return FileResponse(path, media_type=STATIC_TYPES[path.suffix], stat_result=path.stat())


def _error(status: int, detail: object, headers: Any = None) -> JSONResponse:
    return JSONResponse({"detail": str(detail)}, status, headers=headers)


async def _http_error(_: Request, error: Any) -> JSONResponse:
    return _error(error.status_code, error.detail, error.headers)


async def _validation_error(_: Request, error: Any) -> JSONResponse:
    problems = [f"{'.'.join(map(str, detail['loc'][1:]))}: {detail['msg']}" for detail in error.errors()[:5]]
    return _error(422, "; ".join(problems))


async def _upload_error(_: Request, error: Any) -> JSONResponse:
    return _error(error.status, error.detail, {"connection": "close"})


async def _queue_full(_: Request, error: Any) -> JSONResponse:
    return _error(503, error, {"Retry-After": RETRY_SECONDS})


async def _bug(_: Request, error: Exception) -> JSONResponse:
    traceback.print_exception(error, file=sys.stderr)
    return _error(500, "an error in the server; its terminal says more")
