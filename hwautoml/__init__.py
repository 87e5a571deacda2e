"""hwautoml: the best neural network for exactly your device, ready to ship."""

__version__ = "0.1.0"
