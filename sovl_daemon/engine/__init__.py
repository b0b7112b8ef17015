"""Tensors: load a frozen base model, talk to it, decode with a loop of our own.

Importing this package is cheap: torch is loaded only by `model`, `precision`, `kernels`,
`sampling`, `decode`, `generation` and `engine`. The hub may use `options`, `message`, `piece`,
`priority` and `errors`.
"""
