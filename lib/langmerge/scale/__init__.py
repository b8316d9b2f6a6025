"""The study's two trainings for models of any size: continual pre-training and fine-tuning.

What the lab does to its tiny base (`langmerge.experts`), these modules do to hub models and
checkpoint folders, on one GPU or many.
"""
