"""Cut parts out of a video, and join them to a shorter video with sound. The files, in the order of a cut:

plan.py             which frames, which packets, and when each is shown in the result; arithmetic only
write.py            `cut_video`: chooses between copying and encoding, and writes the file; begin here
copied_frames.py    packets of the source with new timestamps
encoded_frames.py   frames of the source, encoded anew
sound.py            the sound of the parts, copied or encoded, in step with the frames
compare_frames.py   whether a copy shows the same frames as the source
"""
