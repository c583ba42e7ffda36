"""A decoder's block in C, for training small models on a CPU: twice as fast as op by op.

kernels.c      what a block does besides matrix products: norms, rope, attention, SwiGLU, and back
built.py       builds them for this machine (`make kernels`), and finds them there
library.py     calls them with tensors
block.py       a block of transformers' Llama or Qwen2 with its forward and backward pass on these

Nothing needs it: where it was not built, or does not fit, transformers' own blocks run.
"""
