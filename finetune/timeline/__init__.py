"""Timelines of recordings: probabilities of sliding windows, and the events that follow from them.

windows.py        which windows of a recording are classified, and which frames each takes
window_length.py  how long the windows of a run are
one_pass.py       predictions for all windows, each frame decoded and computed once
timelines.py      the timelines of videos by a run
timeline.py       the timeline of one recording, as plain values
write.py          timeline.csv and events.csv
pictures.py       a picture of each event
events.py         events from probabilities, by thresholds, smoothing and lengths
fit_events.py     those settings, fitted to the annotated recordings of `val`

live.py           predict a live source; capture.py keeps its newest frames, online_events.py tells its events,
                  record.py writes what was seen, screen.py shows it
"""
