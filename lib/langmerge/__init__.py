"""Merging for low-resource languages: the helper library under the book.

The modules in the order in which data flows:

- text: ``world``, ``languages``, ``realize``, ``corpus``, ``tasks``, ``tokenizer``
- models: ``model``, ``train``, ``base``, ``experts``, ``merging``
- study: ``harness``, ``evaluate``, ``cells``, ``grid``, ``study``, ``tuning``
- evidence: ``statistics``, ``claims``, ``plotting``, ``live``
- book: ``notebook``, ``execution``, ``book``, ``publishing``
- around the study: ``kit``, ``doctor``
- under all of them: ``paths``, ``files``, ``store``, ``profiles``, ``jobs``, ``cluster``,
  ``progress``, ``provenance``, ``errors``, ``dtypes``, ``allocator``, ``later``
"""

import os

__version__ = "0.1.0"

# The C library hands a large tensor's memory back when it is freed, and the next step of a
# training pays for the same pages again, a fault each. In large pages (Linux) there are few to
# pay for: a fifth of the time of a tiny model where faults are dear. It changes no result, and
# torch reads it when it makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
