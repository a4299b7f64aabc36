"""The published formats by other means: writers as the authors' generation writes, replays as their training reads.

Nothing here uses dali_dr's arithmetic, only torch, torchvision, Pillow, NumPy and Python's pickle. The facts are those of
apple/ml-dr, szq0214/FKD and naver-ai/relabel_imagenet; the code is our own.
"""
