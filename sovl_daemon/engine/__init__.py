"""Tensors: load a frozen base model, talk to it, decode with a loop of our own.

The rooms, each of which imports only those before it: `thread` and `text`, `model`, `fusion` and
`serving`, `learning` and `judging`; `engine` is the house. The hub may import `errors`,
`thread.inbox`, `thread.tensor_thread`, `text.message`, `text.token_map`, `serving.options` and
`learning.sample`, which load no torch.
"""
