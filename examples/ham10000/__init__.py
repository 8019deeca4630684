"""The HAM10000 skin-lesion pipeline of the paper that introduced CaCo.

Shi X, Fang R, Luo M, Liu T-K. Skin Tumor Classification Based on Improved MobileNetV3-Small (in
Chinese). Computer Systems & Applications 32(12), 2023, 120-128.

``cli`` runs the commands, and ``pipeline`` a whole run: ``run`` prepares what a ``config`` asks for
with ``data``, ``train`` trains it, ``evaluate`` says how good it is, and ``report`` shows it. The
map of all files is in ``docs/ham10000.md``. It is research code, not a medical device.
"""
