"""Data sets that finetune generates (quickstart) or downloads (UCF101, HMDB51)."""
