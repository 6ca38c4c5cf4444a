"""What all HTML pages share: templates, style and script, and writing a page to a file."""

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup

from finetune.report import headline_text, words
from finetune.storage.atomic import atomic_file

_TEMPLATES = Path(__file__).parent / "templates"


def load_template(name: str) -> jinja2.Template:
    """A template of templates/; all values are escaped as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= words.FILTERS | headline_text.FILTERS
    return environment.get_template(name)


def page_assets(*further_styles: str, script: str = "report.js") -> dict[str, Markup]:
    """Script and style of a page. Its content security policy allows only the script with this hash to run."""
    text = (_TEMPLATES / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    style = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", *further_styles))
    return {"script": Markup(text), "script_hash": Markup(f"sha256-{digest}"), "style": Markup(style)}


def picture_uri(jpeg: bytes) -> Markup:
    """The bytes of a JPEG file as the address of a picture."""
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def write_page(path: Path, text: str) -> None:
    """Write a page atomically. Surrogates without their pair, as in undecodable file names, become question marks."""
    with atomic_file(path) as partial:
        partial.write_bytes(text.encode("utf-8", errors="replace"))
