"""From the k-space of one volume to images: coil maps, operators, and the classical and learned methods.

The only stage, with ``train``, that knows torch. K-space is ``(coil k1 k0)`` here, one slice at a time, and images are
``(y x)``; leading axes, where allowed, are samples that are treated alike.
"""
