"""The HAM10000 skin-lesion pipeline of the paper that introduced CaCo.

Shi X, Fang R, Luo M, Liu T-K. Skin Tumor Classification Based on Improved MobileNetV3-Small (in
Chinese). Computer Systems & Applications 32(12), 2023, 120-128.

``cli`` runs the commands; ``options`` turns their text into a ``config``; ``run`` prepares what it
asks for with ``data``, ``training`` trains it, and ``evaluation`` says how good it is. It is
research code, not a medical device.
"""
