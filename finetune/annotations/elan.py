"""ELAN's .eaf files: annotations on tiers, whose times are in milliseconds in slots that they refer to."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from finetune.annotations.annotation import Annotation, AnnotationFile, Recording, WrittenFile
from finetune.annotations.document import Document
from finetune.annotations.times import parse_number
from finetune.text import count

FORMAT = "3.0"
TIER = "events"
MIME_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".mov": "video/quicktime",
}
OTHER_MIME_TYPE = "video/*"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
Times = tuple[float, float]  # in milliseconds


def read(document: Document) -> AnnotationFile:
    """Annotations of all tiers; those of dependent tiers share the time of their parent.

    Slots without a time are evenly spaced between those around them, as ELAN shows them. Source: EAF 3.0.
    """
    root = document.xml
    video, origin = _media(root, document)
    problems: list[str] = []
    times = _referred_times(root, _aligned_times(root, problems))
    rows, empty = [], 0
    for tier in root.iter("TIER"):
        for annotation in tier.iter():
            if annotation.tag not in {"ALIGNABLE_ANNOTATION", "REF_ANNOTATION"}:
                continue
            key = annotation.get("ANNOTATION_ID", "")
            label = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
            where = f"tier {tier.get('TIER_ID', '')}, annotation {key}"
            if key not in times:
                problems.append(f"{where}: has no times")
            elif not label:
                empty += 1
            else:
                start, end = ((time + origin) / 1000 for time in times[key])
                name, participant = tier.get("TIER_ID", ""), tier.get("PARTICIPANT", "")
                rows.append(Annotation(video, label, start, end, tier=name, subject=participant, where=where))
    notes = [f"{count(empty, 'annotation')} without a text left out"] if empty else []
    return AnnotationFile(rows, problems, notes)


def _media(root: Element, document: Document) -> tuple[str, float]:
    """The first video (else the first medium, else the file's own name), and where time 0 is in it, in milliseconds."""
    media = list(root.iter("MEDIA_DESCRIPTOR"))
    media = [medium for medium in media if medium.get("MIME_TYPE", "").startswith("video")] or media
    if not media:
        header = root.find("HEADER")
        file = "" if header is None else header.get("MEDIA_FILE", "")
        return file or str(document.source.with_suffix("")), 0.0
    path = media[0].get("MEDIA_URL") or media[0].get("RELATIVE_MEDIA_URL") or str(document.source.with_suffix(""))
    return path, parse_number(media[0].get("TIME_ORIGIN", "0")) or 0.0


def _aligned_times(root: Element, problems: list[str]) -> dict[str, Times]:
    """Milliseconds of each annotation with slots, by its ID.

    A slot without a time is between those around it in its chain of annotations, else in the order of all slots.
    """
    slots: dict[str, float | None] = {}
    for slot in root.iter("TIME_SLOT"):
        text = slot.get("TIME_VALUE")
        slots[slot.get("TIME_SLOT_ID", "")] = time = None if text is None else parse_number(text)
        if text is not None and time is None:
            problems.append(f"time slot {slot.get('TIME_SLOT_ID', '')}: {text[:40]!r} is no time")
    in_order = dict(zip(slots, _evenly_filled(list(slots.values())), strict=True))
    times = {}
    for chain in _chains(root):
        names = [chain[0].get("TIME_SLOT_REF1", ""), *(element.get("TIME_SLOT_REF2", "") for element in chain)]
        in_chain = _evenly_filled([slots.get(name) for name in names])
        filled = [time if time is not None else in_order.get(name) for name, time in zip(names, in_chain, strict=True)]
        for element, (start, end) in zip(chain, pairwise(filled), strict=True):
            if start is not None and end is not None:
                times[element.get("ANNOTATION_ID", "")] = start, end
    return times


def _chains(root: Element) -> list[list[Element]]:
    """Annotations with slots; those of a tier that begin in the slot in which the one before ends are in one list."""
    chains: list[list[Element]] = []
    for tier in root.iter("TIER"):
        last_slot = None
        for element in tier.iter("ALIGNABLE_ANNOTATION"):
            if last_slot is None or element.get("TIME_SLOT_REF1") != last_slot:
                chains.append([])
            chains[-1].append(element)
            last_slot = element.get("TIME_SLOT_REF2")
    return chains


def _evenly_filled(times: Sequence[float | None]) -> list[float | None]:
    """The times with those that are missing between two known ones, evenly spaced."""
    filled = list(times)
    known = [place for place, time in enumerate(times) if time is not None]
    for first, last in pairwise(known):
        start, end = times[first], times[last]
        assert start is not None and end is not None
        for place in range(first + 1, last):
            filled[place] = start + (end - start) * (place - first) / (last - first)
    return filled


def _referred_times(root: Element, times: Mapping[str, Times]) -> dict[str, Times]:
    """Milliseconds of all annotations: those that refer to a parent share its time with the others of their tier."""
    children: dict[str, dict[int, list[Element]]] = defaultdict(lambda: defaultdict(list))
    for number, tier in enumerate(root.iter("TIER")):
        for element in tier.iter("REF_ANNOTATION"):
            children[element.get("ANNOTATION_REF", "")][number].append(element)
    known, parents = dict(times), deque(times)
    while parents:
        parent = parents.popleft()
        start, end = known[parent]
        for elements in children.pop(parent, {}).values():
            part = (end - start) / len(elements)
            for place, element in enumerate(_in_order(elements)):
                key = element.get("ANNOTATION_ID", "")
                if key not in known:
                    known[key] = start + place * part, start + (place + 1) * part
                    parents.append(key)
    return known


def _in_order(elements: Sequence[Element]) -> list[Element]:
    """Each after the one that its PREVIOUS_ANNOTATION names, else in the order of the file."""
    following = {element.get("PREVIOUS_ANNOTATION", ""): element for element in elements}
    ordered: list[Element] = []
    element = following.get("")
    while element is not None and len(ordered) < len(elements):
        ordered.append(element)
        element = following.get(element.get("ANNOTATION_ID", ""))
    return ordered if len(ordered) == len(elements) else list(elements)


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """The events of one recording; times to milliseconds. Those that overlap are on tiers of their own."""
    (recording,) = recordings.values()
    root = Element("ANNOTATION_DOCUMENT", {"AUTHOR": "", "DATE": "2000-01-01T00:00:00+00:00", "VERSION": FORMAT})
    root.set("FORMAT", FORMAT)
    root.set("xmlns:xsi", _XSI)
    root.set("xsi:noNamespaceSchemaLocation", f"http://www.mpi.nl/tools/elan/EAFv{FORMAT}.xsd")
    header = SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    mime_type = MIME_TYPES.get(recording.path.suffix.lower(), OTHER_MIME_TYPE)
    medium = {"MEDIA_URL": recording.path.absolute().as_uri(), "MIME_TYPE": mime_type}
    SubElement(header, "MEDIA_DESCRIPTOR", medium | {"RELATIVE_MEDIA_URL": f"./{recording.path.name}"})
    order = SubElement(root, "TIME_ORDER")
    number = 0
    for place, lane in enumerate(_lanes(events), 1):
        names = {"LINGUISTIC_TYPE_REF": "default-lt", "TIER_ID": TIER if place == 1 else f"{TIER} {place}"}
        tier = SubElement(root, "TIER", names)
        for start, end, label in lane:
            number += 1
            slots = [f"ts{2 * number - 1}", f"ts{2 * number}"]
            for slot, time in zip(slots, (start, end), strict=True):
                SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": slot, "TIME_VALUE": str(time)})
            references = {"TIME_SLOT_REF1": slots[0], "TIME_SLOT_REF2": slots[1]}
            annotation = SubElement(SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", references)
            annotation.set("ANNOTATION_ID", f"a{number}")
            SubElement(annotation, "ANNOTATION_VALUE").text = label
    order[:] = sorted(order, key=lambda slot: int(slot.get("TIME_VALUE", "0")))
    SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"}).text = str(number)
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true"}
    SubElement(root, "LINGUISTIC_TYPE", kind)
    ElementTree.indent(root)
    return WrittenFile(f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n')


def _lanes(events: Sequence[Annotation]) -> list[list[tuple[int, int, str]]]:
    """(start, end, label) in milliseconds in as few lists as it takes that those of a list do not overlap."""
    lanes: list[list[tuple[int, int, str]]] = [[]]
    times = sorted(
        (round(1000 * (event.start or 0)), round(1000 * (event.end or 0)), place, event.label)
        for place, event in enumerate(events)
    )
    for start, end, _, label in times:
        lane = next((lane for lane in lanes if not lane or lane[-1][1] <= start), None)
        if lane is None:
            lanes.append(lane := [])
        lane.append((start, end, label))
    return lanes
