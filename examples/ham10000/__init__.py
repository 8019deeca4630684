"""The HAM10000 skin-lesion pipeline of the paper that introduced CaCo.

Shi X, Fang R, Luo M, Liu T-K. Skin Tumor Classification Based on Improved MobileNetV3-Small (in
Chinese). Computer Systems & Applications 32(12), 2023, 120-128.

Run it with ``python -m examples.ham10000 train``. It is research code, not a medical device.
"""
