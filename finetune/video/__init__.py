"""From a video file to a batch of clips. The files, in the order of a training batch:

batch_sampler.py  which rows make up each batch of an epoch
loader.py         batches of clips from worker processes (worker_pool.py: processes that may hang or crash)
dataset.py        one item: the clips of a row and its label
sampling.py       which frames of the video a clip has
decode/           the frames themselves; or pack/: frames stored as JPEG beforehand
augment.py        at what size frames are read, and how they are cropped and augmented
geometry.py       where that crop is in the source video; targets.py: boxes and motion transformed with it

row_loader.py     a loader of all rows in order, for evaluation
probe_files.py    facts about all files before training, cached by file_facts.py beside the manifest
fingerprints.py, still_edges.py, grey_frames.py   what `finetune check` compares; encode.py writes videos and JPEGs
draw_objects.py   boxes, labels and masks drawn on a frame, in class_colours.py; render_text.py: text as pixels
"""
