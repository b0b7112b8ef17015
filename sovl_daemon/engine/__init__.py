"""Tensors: load a frozen base model, talk to it, decode with a loop of our own.

Importing this package is cheap: torch is loaded only by `model`, `precision`, `kernels`,
`sampling`, `decode`, `generation`, `perplexity` and `engine`. The hub may use `options`, `message`,
`piece`, `priority`, `repetition`, `token_map` and `errors`.
"""
