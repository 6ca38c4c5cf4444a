"""Boxes, labels and masks are drawn where they belong, and the frame itself is not changed."""

import numpy as np
import pytest

from finetune.video.class_colours import CLASS_COLOURS, class_colour
from finetune.video.draw_objects import DrawnObject, draw_mask, draw_objects


def grey(height=128, width=160):
    return np.full((height, width, 3), 100, np.uint8)


def test_a_box_has_the_colour_of_its_class_on_its_border_alone():
    frame_HWC = grey()
    drawn_HWC = draw_objects(frame_HWC, [DrawnObject((20, 30, 40, 50), colour=2)])
    for y, x in ((30, 40), (79, 40), (50, 20), (50, 59)):
        assert tuple(drawn_HWC[y, x]) == CLASS_COLOURS[2]
    assert (drawn_HWC[35:75, 25:55] == 100).all()
    assert (frame_HWC == 100).all()


def test_labels_of_near_objects_do_not_cover_each_other():
    boxes = [(40.0, 60.0, 30.0, 30.0), (42.0, 60.0, 30.0, 30.0)]
    drawn_HWC = draw_objects(grey(), [DrawnObject(box, number, "cat 0.9") for number, box in enumerate(boxes)])
    above, below = (drawn_HWC[:57] == CLASS_COLOURS[0]).all(-1), (drawn_HWC[93:] == CLASS_COLOURS[1]).all(-1)
    assert abs(above.sum() - below.sum()) < 0.2 * above.sum()
    assert above.sum() > 200


@pytest.mark.parametrize(
    "box", [(-500.0, -500.0, 20.0, 20.0), (1e30, 0.0, 1e30, 5.0), (-1e9, -1e9, 3e9, 3e9), (3.0, 3.0, 0.0, 0.0)]
)
@pytest.mark.parametrize("size", [(1, 1), (7, 31), (128, 160)])
def test_any_box_can_be_drawn_on_any_picture(box, size):
    objects = [DrawnObject(box, 1, "a very long name of a class 0.12", (3.0, np.nan)), DrawnObject(box, dashed=True)]
    assert draw_objects(grey(*size), objects).shape == (*size, 3)


def test_a_mask_colours_its_classes_and_neither_background_nor_unlabelled_pixels():
    mask_HW = np.zeros((128, 160), np.uint8)
    mask_HW[10:50, 10:50], mask_HW[60:100, 60:100] = 1, 255
    drawn_HWC = draw_mask(grey(), mask_HW, opacity=0.5, background=0)
    assert tuple(drawn_HWC[30, 30]) == tuple(np.rint((100 + np.array(class_colour(1))) / 2).astype(int))
    assert (drawn_HWC[60:100, 60:100] == 100).all()
    assert (drawn_HWC[110:, :] == 100).all()
