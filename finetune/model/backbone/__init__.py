"""Pretrained backbones of timm and torchvision behind one interface."""
