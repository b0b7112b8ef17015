"""A frozen language model: loaded, held in a precision, run over spans of tokens."""
