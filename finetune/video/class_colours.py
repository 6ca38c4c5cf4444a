"""Colours of classes, those of Okabe and Ito (2008), which people with colour blindness can tell apart."""

Colour = tuple[int, int, int]  # red, green, blue
CLASS_COLOURS: tuple[Colour, ...] = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((213, 94, 0), (204, 121, 167), (0, 114, 178), (225, 225, 225)),
)


def class_colour(index: int) -> Colour:
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def hex_colour(index: int) -> str:
    """The colour of a class as HTML writes it."""
    return "#{:02x}{:02x}{:02x}".format(*class_colour(index))
