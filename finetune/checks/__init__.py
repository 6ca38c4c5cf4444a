"""Checks of labelled videos before training. check_data.py collects the findings of all others:

rows.py                unreadable manifests and folders, wrong names, splits and labels
class_balance.py       missing and rare classes, groups in several splits
duplicates.py          exact and near duplicates, and leakage between splits
near_copies.py         copies that were changed: searched in copy_candidates.py, compared in copy_alignment.py
object_findings.py     boxes, identities and classes of labelled frames, measured in object_boxes.py
mask_findings.py       masks that are missing or wrong, pixels by class; labelled_pictures.py draws both on the page
loose_frames.py        numbered images that look like frames of one video
shortcuts.py           file properties that give the class away
burnt_in_marks.py      logos, clocks, borders that give the class away; with shared_edges.py (candidate areas),
                       held_out_accuracy.py (do they predict the class?) and burnt_in_finding.py (the message)
split_warnings.py      the same questions about an evaluated split, without opening a video
"""
