"""Decode the frames that are asked for, and as few others as possible. The files, in the order of a read:

clip_files.py         which files make up a clip: a video, an image, or a folder of numbered images
read.py               `read_frames`: frame indices in, uint8 frames and their times out; begin here
container.py          open a file with PyAV, demux its packets, decode them; says why a file cannot be opened
packet_index.py       find the `GopLayout`: by the container's index, by its packets, or by decoding everything
display_order.py      the order in which packets are shown, by the headers of H.264, HEVC, VP9 and AV1
gop.py                the `GopLayout`: where decoding can start, and which packet each frame comes out of
sparse.py             seek to the groups of pictures (GOPs) that hold wanted frames, and decode only these
orientation.py        rotate and mirror a stored picture as the file says
image_sequence.py     frames of a folder of numbered images
opencv_torchcodec.py  two other decoders
live_source.py        frames of a camera or a stream, as they come

Facts about a file: probe.py (frame count, size, duration, frame times), truncation.py and every_frame.py (damage);
verify_index.py tests a layout that was found by decoding.

To add a file format: one that FFmpeg opens is read already, by decoding it once; its suffix goes into
storage/numbered_images.py. packet_index.py decides whether its index and timestamps can be trusted, so that frames are
found without that. One that FFmpeg does not open gets a reader that `read_frames` chooses by the file, and its facts in
probe.py. `DECODERS` (read.py) are other decoders for the same files, for callers of `read_frames`; training uses PyAV.
"""
