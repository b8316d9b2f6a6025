"""Merging for low-resource languages: the helper library under the book.

The modules in the order in which data flows: ``paths``, ``languages``, ``world``,
``realize``, ``corpus``, ``tasks``, ``tokenizer``, ``model``, ``train``, ``merging``,
``evaluate``, ``store``, ``study``, ``statistics``, ``claims``, ``plotting``, ``book``,
``cli``.
"""

__version__ = "0.1.0"
