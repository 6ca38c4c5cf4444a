"""Reading uploaded forms: what is stored of them, and what is refused."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.serve.uploads import MAX_NAME_LENGTH, MAX_PARTS, UploadError, UploadReader, clean_name, known_suffix

BOUNDARY = "xyz"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


class Places:
    """Folders for files, and the number of bytes that arrived."""

    def __init__(self, root):
        self.root, self.count, self.bytes = Path(root), 0, 0

    def new_folder(self):
        self.count += 1
        folder = self.root / str(self.count)
        folder.mkdir()
        return folder

    def reserve(self, more_bytes):
        self.bytes += more_bytes


def part(name, content, *, filename=None):
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def read(places, body, *, step=7, content_type=TYPE, max_files=2):
    reader = UploadReader(content_type, places, field_name="videos", max_files=max_files)
    try:
        for begin in range(0, len(body), step):
            reader.write(body[begin : begin + step])
        return reader.finish()
    finally:
        reader.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3), st.integers(1, 400))
def test_files_are_stored_as_they_were_sent(contents, step):
    body = b"".join(part("videos", content, filename=f"{i}.mp4") for i, content in enumerate(contents)) + END
    with tempfile.TemporaryDirectory() as root:
        places = Places(root)
        uploads = read(places, body, step=step, max_files=3)
        assert [upload.path.read_bytes() for upload in uploads] == contents
        assert places.bytes == sum(map(len, contents))


def test_other_fields_are_ignored(tmp_path):
    body = part("note", b"text") + part("other", b"abc", filename="a.mp4") + part("videos", b"v", filename="b.mp4")
    assert [upload.name for upload in read(Places(tmp_path), body + END)] == ["b.mp4"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (part("videos", b"v", filename="a.mp4"), 400, "cut off"),
        (part("videos", b"v") + END, 400, "no file"),
        (part("videos", b"v", filename="a.mp4") * 3 + END, 413, "at most 2 files"),
        (part("note", b"x") * (MAX_PARTS + 1) + END, 413, "parts"),
        (part("note", b"x" * 20_000) + END, 413, "field"),
        (b"no form at all", 400, "not valid"),
    ],
)
def test_bad_forms_are_refused_in_words(tmp_path, body, status, message):
    with pytest.raises(UploadError, match=message) as caught:
        read(Places(tmp_path), body)
    assert caught.value.status == status


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data", f"{TYPE}{'y' * 300}"])
def test_other_kinds_of_bodies_are_refused(tmp_path, content_type):
    with pytest.raises(UploadError, match=r"form"):
        read(Places(tmp_path), b"", content_type=content_type)


@given(st.text(max_size=200))
def test_a_name_is_one_line_without_folders(name):
    shown = clean_name(name)
    assert shown and len(shown) <= MAX_NAME_LENGTH
    assert not set("/\\\n\r\0\u202e") & set(shown)
    assert shown.strip(".")


@given(st.text(max_size=60))
def test_only_known_endings_reach_the_disk(name):
    suffix = known_suffix(clean_name(name))
    assert suffix.startswith(".") and suffix[1:].isalnum() and len(suffix) <= 5


def test_names_with_folders_are_stored_inside(tmp_path):
    body = part("videos", b"v", filename="../../../etc/evil.mp4") + END
    (upload,) = read(Places(tmp_path), body)
    assert upload.name == "evil.mp4" and upload.path == tmp_path / "1" / "video.mp4"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b"--xyz", b"--xyz--", b"\r\n", b"\n", b": ", b'name="videos"', b"a", b"\0", b"\xff"])))
def test_any_bytes_end_in_files_or_a_refusal(pieces):
    with tempfile.TemporaryDirectory() as root:
        try:
            read(Places(root), b"".join(pieces))
        except UploadError as error:
            assert error.status in (400, 413)
