"""The span losses: what each makes of the network's span scores, and what it believes of a window's spans.

A further one is a file here with a `SpanHead`, and a line in `config.SPAN_HEADS`.
"""

from jade_model.core.span_heads.base import SpanHead, SpanPosterior, head_class

__all__ = ["SpanHead", "SpanPosterior", "head_class"]
