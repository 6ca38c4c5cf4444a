"""Objects of a frame as the text of a cell: whatever is written is read again, and errors are all named."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.data.object_labels import LabelledObject, objects_text, parse_objects
from finetune.errors import DataError

names = st.text(st.characters(codec="utf-8", exclude_characters=";"), min_size=1).filter(
    lambda name: name == name.strip()
)
places = st.floats(-1e6, 1e6, allow_nan=False)
sides = st.floats(1e-3, 1e6)


@st.composite
def frames(draw):
    count = draw(st.integers(0, 6))
    tracks = draw(st.lists(st.integers(0, 2**53), min_size=count, max_size=count, unique=True))
    return [
        LabelledObject(
            draw(names), draw(places), draw(places), draw(sides), draw(sides), draw(st.sampled_from([None, track])),
            draw(st.booleans()),
        )
        for track in tracks
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(frames())
@example([LabelledObject(name, 1, 2, 3, 4) for name in ("a:b", "1,2,3,4", "#3", "!", "a:1,2,3,4#5!", "a b", "é", ":")])
def test_objects_that_are_written_are_read_again(objects):
    assert parse_objects(objects_text(objects)) == objects


def test_a_cell_of_two_objects_with_identity_and_ignore():
    assert parse_objects(" car:12,30,40,50#3 ; person: 1,2, 30.5,40!;") == [
        LabelledObject("car", 12, 30, 40, 50, 3),
        LabelledObject("person", 1, 2, 30.5, 40, None, ignore=True),
    ]
    assert objects_text(parse_objects("car:12.0,30,40,50#3!")) == "car:12,30,40,50#3!"


def test_an_empty_cell_has_no_objects():
    assert parse_objects("") == [] and objects_text([]) == ""


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("car", "'car' is not an object, class:left,top,width,height"),
        (":1,2,3,4", "':1,2,3,4' is not an object"),
        ("car:1,2,3", "'car:1,2,3' does not end in the four numbers of a box"),
        ("car:1,2,3,4,5", "does not end in the four numbers"),
        ("car:1,2,three,4", "does not end in the four numbers"),
        ("car:1,2,nan,4", "does not end in the four numbers"),
        ("car:1,2,inf,4", "does not end in the four numbers"),
        ("car:1,2,0,4", "has a box of 0 x 4 pixels; it needs an area"),
        ("car:1,2,3,-4", "has a box of 3 x -4 pixels"),
        ("car:1,2,3,4#", "has the identity #; it is a whole number from 0 on"),
        ("car:1,2,3,4#-1", "has the identity #-1"),
        ("car:1,2,3,4#1.5", "has the identity #1.5"),
        ("car:1,2,3,4#99999999999999999", "has the identity #99999999999999999"),
        ("car:1,2,3,4#7;bus:1,2,3,4#7", "identity #7 is given to several objects of the frame"),
    ],
)
def test_what_is_wrong_with_a_cell_is_named(cell, message):
    with pytest.raises(DataError, match=message.replace(".", r"\.").replace("(", r"\(")):
        parse_objects(cell)


def test_all_errors_of_a_cell_are_named_at_once():
    with pytest.raises(DataError, match=r"'car' is not .*'bus:1,2,0,4' has a box"):
        parse_objects("car;bus:1,2,0,4;van:1,2,3,4")


@pytest.mark.parametrize("name", ["", " car", "car\t", "car;bus"])
def test_a_class_that_a_cell_cannot_hold_is_refused(name):
    with pytest.raises(DataError, match="rename it"):
        objects_text([LabelledObject(name, 1, 2, 3, 4)])


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.from_regex(r"[a:;,#!0-9.\- ]{0,30}", fullmatch=True))
def test_any_text_gives_objects_or_one_error(cell):
    try:
        objects = parse_objects(cell)
    except DataError as error:
        assert str(error)
    else:
        assert parse_objects(objects_text(objects)) == objects
